"""training/parts/looking.py: what a batch holds, that it learns what belongs together; streams see the same."""

import pytest
import torch

from motionstream.carry.candidates import warp_all
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.carry.relations import CarrySource, relate
from motionstream.config import MixerConfig
from motionstream.data.photographs import HELD_OUT, TRAIN
from motionstream.data.textures import TextureBank
from motionstream.tracks.sampling import TrackMix
from motionstream.training.loop.run import Run, TrainConfig
from motionstream.training.parts.looking import GESTURES, Gestures, LookStage, rendered_gestures, still_pictures
from motionstream.training.recipes import nano as nano_recipes

SCENE = nano_recipes.debug().data.scene
CONFIG = MixerConfig(look_widths=(8, 8), mix_widths=(8, 8), features=4, heads=2)


def make_stage(**settings) -> LookStage:
    torch.manual_seed(0)
    settings = {"batch": 4, "seed": 1, "workers": 0} | settings
    return LookStage(PixelMixer(CONFIG, grid=4), SCENE, TrackMix(), TRAIN, HELD_OUT, **settings)


@pytest.fixture(scope="module")
def gestures() -> Gestures:
    generator = torch.Generator().manual_seed(0)
    return rendered_gestures(still_pictures(SCENE), (4.0, 10.0), TextureBank(()), 3, generator, batch=4)


def test_points_are_compared_with_the_nearest_a_gesture_holds(gestures):
    assert gestures.pictures.shape == (4, 3, 32, 32) and gestures.nearest.shape[:2] == (4, GESTURES)
    held = torch.zeros_like(gestures.same).scatter(2, gestures.nearest, True)
    assert (held.sum(dim=-1) >= 1).all() and gestures.same[held].all()
    for picture in range(4):
        for gesture in range(GESTURES):
            rows = gestures.nearest[picture, gesture]
            points = gestures.points[picture]
            apart = (points[:, None] - points[held[picture, gesture]]).norm(dim=-1)
            assert torch.allclose(apart.min(dim=1).values, gestures.distance[picture, gesture], atol=1e-3)
            assert torch.allclose((points - points[rows]).norm(dim=-1), gestures.distance[picture, gesture], atol=1e-3)
    assert 0.05 < gestures.same[:, :-1].float().mean() < 0.6  # things, and not the background, are taken hold of
    assert gestures.same[:, -1].float().mean() > 0.3


def test_a_stream_compares_as_it_was_trained(gestures):
    stage = make_stage()
    one = Gestures(**{name: values[:1] for name, values in vars(gestures).items()})
    logits = stage.logits(one)
    held = one.nearest[0, 0].unique()
    positions = one.points[:, None, held]
    source = CarrySource(
        one.pictures[:, None], torch.zeros(1, len(held), dtype=torch.long), positions[:, 0], torch.zeros(1, 1).long()
    )
    relations = relate(positions, torch.ones(1, 1, len(held), dtype=torch.bool), source, grid=4)
    mixed = stage.mixer.mix_all(warp_all(relations, source, grid=4), relations, source)
    half = ((one.points + 0.5) / 32 * 2 - 1)[:, None]
    there = torch.nn.functional.grid_sample(mixed.alike[:, 2], half, align_corners=False)[0, 0, 0]
    # a stream looks nearest tracks up every four pixels and compares every second
    apart = (there - logits[0, 0]).abs()
    assert apart.median() < 0.1 * logits[0, 0].std()


def test_it_learns_what_belongs_together(tmp_path):
    stage = make_stage()
    stage._gestures = lambda step: stage.held  # the same pictures again and again
    before = stage.validate(stage.module)
    mixing = [parameter.clone() for parameter in stage.mixer.mix.parameters()]
    run = Run(stage, TrainConfig(steps=80, lr=3e-2, warmup=5, ema=0.8), tmp_path)
    for _ in range(80):
        run.update()
    after = run.validate()
    assert after["alike_right"] > before["alike_right"] + 0.1
    assert all(torch.equal(was, now) for was, now in zip(mixing, stage.mixer.mix.parameters(), strict=True))


def test_a_steps_pictures_depend_on_the_step_alone():
    jumped, straight = make_stage(), make_stage(workers=1)
    losses = [straight.loss(step)[0] for step in range(3)]
    assert torch.equal(jumped.loss(2)[0], losses[2]) and not torch.equal(jumped.loss(0)[0], losses[2])
