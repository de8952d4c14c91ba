"""training/parts/outlining.py: points are where they are said to be, and it learns to draw what they are on."""

import pytest
import torch

from motionstream.carry.outliner import Outliner
from motionstream.data.photographs import HELD_OUT, TRAIN
from motionstream.data.textures import TextureBank
from motionstream.training.loop.run import Run, TrainConfig
from motionstream.training.parts.outlining import GRASPS, Grasps, OutlineStage, pictures_to_grasp, rendered_grasps
from motionstream.training.recipes import nano as nano_recipes

SCENE = nano_recipes.debug().data.scene


def make_stage(**settings) -> OutlineStage:
    torch.manual_seed(0)
    settings = {"batch": 4, "seed": 1, "workers": 0} | settings
    return OutlineStage(Outliner((8, 16)), SCENE, TRAIN, HELD_OUT, **settings)


@pytest.fixture(scope="module")
def grasps() -> Grasps:
    generator = torch.Generator().manual_seed(0)
    return rendered_grasps(pictures_to_grasp(SCENE), TextureBank(()), 3, generator, batch=16)


def test_points_are_on_the_thing_and_others_beside_it(grasps):
    count = len(grasps.things)
    assert grasps.shown.shape == (count, 9, 32, 32) and grasps.things.shape == (count, 32, 32)
    assert count % GRASPS == 0 and count >= 16 * GRASPS and grasps.things.flatten(1).any(dim=1).all()
    size = grasps.things.float().mean(dim=(1, 2))
    assert size.min() < 0.1 < 0.3 < size.max(), "small and large things"
    on, off = grasps.shown[:, 4] == 0, grasps.shown[:, 7] == 0  # no distance at all: the points
    assert on.flatten(1).any(dim=1).all()
    assert (on & grasps.things).flatten(1).any(dim=1).all(), "some point is on it in any case"
    assert not (off & grasps.things).any()
    spilt = (on & ~grasps.things).flatten(1).any(dim=1).float().mean()
    assert 0.05 < spilt < 0.6
    assert (~off.flatten(1).any(dim=1)).any(), "now and then nothing is known beside it"


def test_it_learns_to_draw_what_is_grasped(tmp_path):
    stage = make_stage()
    stage._grasps = lambda step: stage.held  # the same pictures again and again
    before = stage.validate(stage.module)
    run = Run(stage, TrainConfig(steps=60, lr=1e-2, warmup=5, ema=0.8), tmp_path)
    for _ in range(60):
        run.update()
    after = run.validate()
    assert after["iou"] > before["iou"] + 0.15 and after["found"] > before["found"]


def test_a_steps_pictures_depend_on_the_step_alone():
    jumped, straight = make_stage(), make_stage(workers=1)
    for step in range(3):
        straight._grasps(step)
    one, other = jumped._grasps(3), straight._grasps(3)
    for name in ("shown", "things", "share"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.pictures == other.pictures == 4


def test_pictures_without_things_cost_nothing_and_teach_nothing():
    stage = make_stage()
    nothing = torch.zeros(0, 9, 32, 32), torch.zeros(0, 32, 32, dtype=torch.bool), torch.zeros(0)
    stage._grasps = lambda step: Grasps(*nothing, pictures=4)
    loss, _ = stage.loss(0)
    loss.backward()
    assert loss.item() == 0


def test_pictures_count_alike_however_many_grasps_are_in_them():
    """A loss is the mean of its pictures', in whatever parts they are taken; one without a thing counts, too."""
    stage = make_stage()
    empty = Grasps(torch.zeros(0, 9, 32, 32), torch.zeros(0, 32, 32, dtype=torch.bool), torch.zeros(0), 1)
    pictures = [make_stage(batch=1, seed=seed)._grasps(0) for seed in (2, 3, 5, 6)]
    assert len({len(picture.things) for picture in pictures}) > 1

    def loss(grasps):
        stage._grasps = lambda step: grasps
        return stage.loss(0)[0].item()

    together = loss(Grasps.join([*pictures, empty]))
    assert together == pytest.approx(sum(map(loss, pictures)) / 5, rel=1e-4)
