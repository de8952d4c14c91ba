"""Networks that are used but not trained: other precision, offloading; and moments that wait elsewhere."""

from dataclasses import asdict, replace

import pytest
import torch

from motionstream.model.precision import is_island
from motionstream.model.transformer import MotionTransformer
from motionstream.presets import preset
from motionstream.training.loop.distributed import SampleDraws, shard
from motionstream.training.loop.run import Run, TrainConfig
from motionstream.training.loop.stage import Stage

CONFIG = TrainConfig(steps=3, lr=1e-3, warmup=1)


def quiet(text):
    pass


def transformer(seed):
    torch.manual_seed(seed)
    return MotionTransformer(**asdict(preset("debug").transformer))


class Follow(Stage):
    """A small transformer learns what another one, frozen, answers."""

    def __init__(self, device="cpu"):
        super().__init__(transformer(1).to(device))
        self.teacher = torch.nn.ModuleDict({"model": transformer(2), "around": torch.nn.Linear(2, 2)}).to(device)
        self.frozen = (self.teacher.requires_grad_(False),)

    def loss(self, step):
        draws, config = SampleDraws(0, step, shard(2)), self.module.config
        device = self.module.scale_shift_table.device
        latents = draws.randn(config["in_channels"], 3, 8, 8).to(device)
        text, t = draws.randn(4, config["text_dim"]).to(device), draws.rand(3).to(device)
        with torch.no_grad():
            model = self.teacher["model"]
            dtype = model.proj_out.weight.dtype
            wanted = model(latents.to(dtype), t, text.to(dtype)).float()
        return (self.module(latents, t, text) - wanted).square().mean(), {}

    def validate(self, module):
        return {}


def losses(run, steps=3):
    return [run.update()["loss"] for _ in range(steps)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return losses(Run(Follow(), CONFIG, tmp_path_factory.mktemp("plain")))


def test_offloaded_networks_answer_the_same(tmp_path, plain, monkeypatch):
    from diffusers.hooks.group_offloading import ModuleGroup

    moved = []
    onload = ModuleGroup.onload_
    monkeypatch.setattr(ModuleGroup, "onload_", lambda group: (moved.append(group), onload(group))[1])
    assert losses(Run(Follow(), replace(CONFIG, offload_frozen=True), tmp_path)) == plain
    blocks = preset("debug").transformer.num_layers
    assert len(set(map(id, moved))) > blocks and len(moved) >= 3 * blocks


@pytest.mark.parametrize("offload", [False, True])
def test_frozen_networks_in_half_precision_keep_their_islands(tmp_path, plain, offload):
    stage = Follow()
    run = Run(stage, replace(CONFIG, frozen_dtype="bfloat16", offload_frozen=offload), tmp_path)
    kinds = {is_island(name): value.dtype for name, value in stage.teacher["model"].named_parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    for module in (stage.module, stage.teacher["around"]):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    found = losses(run)
    assert found == pytest.approx(plain, rel=0.02) and found != plain


def test_frozen_networks_are_frozen(tmp_path):
    stage = Follow()
    stage.teacher["around"].requires_grad_(True)
    with pytest.raises(ValueError, match="require gradients: freeze it"):
        Run(stage, CONFIG, tmp_path)


@pytest.mark.parametrize("changes", [{"offload_frozen": True}, {"frozen_dtype": "bfloat16"}])
def test_options_without_effect_are_said(tmp_path, changes):
    stage = Follow()
    stage.frozen = ()
    with pytest.warns(UserWarning, match="no frozen network"):
        Run(stage, replace(CONFIG, **changes), tmp_path)
    with pytest.raises(ValueError, match="frozen_dtype = 'int8'"):
        TrainConfig(steps=1, frozen_dtype="int8")


def test_moments_wait_elsewhere_between_updates_and_after_resuming(tmp_path, plain, monkeypatch):
    config = replace(CONFIG, offload_optimiser=True)
    run = Run(Follow(), config, tmp_path)
    player = run.players["module"]
    moves, move, step = [], player._move_moments, player.optimisers[0].step
    monkeypatch.setattr(player, "_move_moments", lambda device: (moves.append(str(device)), move(device))[1])
    monkeypatch.setattr(player.optimisers[0], "step", lambda: (moves.append("step"), step())[1])
    assert losses(run, 2) == plain[:2]
    assert moves == ["cpu", "step", "cpu"] * 2
    run.save()
    assert losses(Run(Follow(), config, tmp_path), 1) == plain[2:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_what_waits_is_not_there(tmp_path):
    def memory(changes, folder):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        run = Run(Follow("cuda"), replace(CONFIG, **changes), tmp_path / folder)
        found = losses(run)
        for player in run.players.values():
            player.clear()
        return found, torch.cuda.memory_allocated() - before, run

    plain, most, first = memory({}, "plain")
    weights = sum(p.numel() * p.element_size() for p in first.stage.module.parameters())
    del first
    for changes, saved in (({"offload_frozen": True}, weights), ({"offload_optimiser": True}, 2 * weights)):
        found, less, run = memory(changes, "-".join(changes))
        assert found == pytest.approx(plain, abs=1e-6)
        assert most - less == pytest.approx(saved, rel=0.1)
        run.save()
        again = Run(Follow("cuda"), replace(CONFIG, **changes), tmp_path / "-".join(changes))
        state = next(iter(again.players["module"].optimisers[0].state.values()))
        assert state["exp_avg"].is_cuda == ("offload_optimiser" not in changes)
        del run, again, state
