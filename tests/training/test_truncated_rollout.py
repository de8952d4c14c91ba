"""The rollout of training: gradients at the exit step alone, against plain autograd of the same written out."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from motionstream.config import CausalConfig
from motionstream.model.attention import BlockCausal
from motionstream.model.flow import velocity_to_x0
from motionstream.model.motion_model import ImageInput, MotionInput, MotionModel
from motionstream.presets import preset
from motionstream.sampler.rollout import rollout
from motionstream.training.loop import distributed

TIMES = (1.0, 0.8, 0.5)
EXIT = 1


def random_model(name, causal="c3s1w1"):
    """A model whose output is not zero."""
    torch.manual_seed(0)
    model = MotionModel(replace(preset(name), causal=CausalConfig.parse(causal)))
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


class Recorder(nn.Module):
    """Stands in front of a model and keeps what it was asked; ``early`` and ``clean`` are parameters that act at noise
    levels above the exit step's and at 0 alone."""

    def __init__(self, model, nudge=0.1):
        super().__init__()
        self.model, self.config, self.device, self.make_cache = model, model.config, model.device, model.make_cache
        self.early, self.exit, self.clean = (nn.Parameter(torch.tensor(nudge)) for _ in range(3))
        self.asked = []

    def forward(self, noisy, t, conditions, context=None):
        self.asked.append((noisy.detach(), t))
        level = t.max().item()
        known = {TIMES[0]: self.early, TIMES[EXIT]: self.exit, 0.0: self.clean}
        nudge = next((p for value, p in known.items() if abs(value - level) < 1e-6), torch.tensor(0.0))
        return self.model(noisy + nudge, t, conditions, context)


@torch.no_grad()
def plain_conditions(model, frames):
    generator = torch.Generator().manual_seed(4)
    config = model.config
    positions = 20 * torch.rand(2, config.frames_of(frames), 3, 2, generator=generator)
    seen = torch.ones(positions.shape[:3], dtype=torch.bool)
    motion = MotionInput(positions, seen, torch.arange(6).reshape(2, 3), size=config.size, first=True)
    latent = torch.randn(2, config.latent_channels, 1, *config.latent_size, generator=generator)
    tokens = None if config.image_encoder is None else torch.randn(2, 17, 24, generator=generator)
    text = torch.randn(2, 20, config.transformer.text_dim, generator=generator)
    return model.conditions(motion, text, None, ImageInput(latent, tokens)), latent


class DetachedPast(BlockCausal):
    """The uncached twin's attention; of all but the last chunk the keys and values carry no gradient."""

    detach = True

    def attend(self, layer, query, key, value, grid):
        past = (grid[0] - self.causal.chunk_frames) * grid[1] * grid[2]
        if self.detach:
            key, value = (torch.cat([x[:, :past].detach(), x[:, past:]], dim=1) for x in (key, value))
        return super().attend(layer, query, key, value, grid)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {k: p.grad.clone() for k, p in model.transformer.named_parameters() if p.grad is not None}


def roll(model, conditions, picture, **settings):
    chunks = range(0, conditions.channels.shape[2], 3)
    told = (conditions.frames(k, k + 3) for k in chunks)
    return torch.cat(list(rollout(model, told, times=TIMES, seed=1, first_latent=picture, **settings)), dim=2)


def far(a, b):
    """Largest difference relative to the largest gradient."""
    return max((a[k] - b[k]).abs().max() for k in b) / max(g.abs().max() for g in b.values())


@pytest.mark.parametrize("name", ["wan2.1-debug", "wan2.2-debug"])
def test_gradients_are_autograds_of_the_exit_step_written_out(name):
    model = random_model(name)
    conditions, picture = plain_conditions(model, 12)
    recorder = Recorder(model, nudge=0.0)
    made = roll(recorder, conditions, picture, exit_step=EXIT)
    probe = torch.randn(made.shape, generator=torch.Generator().manual_seed(5))
    truncated = gradients(model, (made * probe).sum())
    at_exit = [(x, t) for x, t in recorder.asked if abs(t.max().item() - TIMES[EXIT]) < 1e-6]
    assert len(at_exit) == 4 and len(recorder.asked) == 4 * 2 + 3  # no clean pass after the last chunk

    def written_out(detach):
        """Each chunk's exit step beside the clean chunks before it, all in one uncached forward."""
        context = DetachedPast(model.config.causal)
        context.detach = detach
        total = torch.tensor(0.0)
        for chunk, (noisy, t) in enumerate(at_exit):
            past, now = made.detach()[:, :, : 3 * chunk], slice(3 * chunk, 3 * chunk + 3)
            x = torch.cat([past, noisy], dim=2)
            levels = torch.cat([torch.zeros(2, 3 * chunk), t], dim=1)
            velocity = model(x, levels, conditions.frames(0, 3 * chunk + 3), context)[:, :, now]
            x0 = velocity_to_x0(noisy, velocity, t)
            counted = x0[:, :, 1:] if chunk == 0 else x0  # the picture is handed out, not the prediction
            total = total + (counted * probe[:, :, now][:, :, -counted.shape[2] :]).sum()
        return gradients(model, total)

    assert far(truncated, written_out(detach=True)) < 1e-4
    assert far(truncated, written_out(detach=False)) > 1e-2


def test_only_the_exit_step_has_a_gradient():
    model = random_model("wan2.2-debug")
    conditions, picture = plain_conditions(model, 12)
    recorder = Recorder(model)
    roll(recorder, conditions, picture, exit_step=EXIT).square().sum().backward()
    assert recorder.early.grad is None and recorder.clean.grad is None
    assert recorder.exit.grad.abs() > 0
    # they do matter to the values: it is the gradient that is cut
    recorder.requires_grad_(False)
    before = roll(recorder, conditions, picture, exit_step=EXIT)
    for parameter in (recorder.early, recorder.clean):
        parameter.add_(1.0)
        assert (roll(recorder, conditions, picture, exit_step=EXIT) - before).abs().max() > 1e-3
        parameter.sub_(1.0)
    # and without truncation they have one
    recorder.early.requires_grad_()
    roll(recorder, conditions, picture).square().sum().backward()
    assert recorder.early.grad.abs() > 0


def test_exiting_last_is_inference_and_earlier_is_not():
    model = random_model("wan2.2-debug").requires_grad_(False)
    conditions, picture = plain_conditions(model, 12)
    whole = roll(model, conditions, picture)
    torch.testing.assert_close(roll(model, conditions, picture, exit_step=2), whole, atol=0, rtol=0)
    early = roll(model, conditions, picture, exit_step=0)
    assert (early - whole)[:, :, 1:].abs().max() > 0.01
    torch.testing.assert_close(early[:, :, :1], picture, atol=0, rtol=0)
    with pytest.raises(ValueError, match="exit_step 3: the student has steps 0 to 2"):
        roll(model, conditions, picture, exit_step=3)


def test_recomputed_blocks_find_the_cache_as_it_was():
    model = random_model("wan2.2-debug")
    conditions, picture = plain_conditions(model, 12)
    plain = gradients(model, roll(model, conditions, picture, exit_step=EXIT).square().sum())
    distributed.tune_blocks(model, recompute=True)
    assert far(gradients(model, roll(model, conditions, picture, exit_step=EXIT).square().sum()), plain) < 1e-5


def test_in_mixed_precision_the_past_of_recomputed_blocks_is_kept_in_half_precision(monkeypatch):
    model, kept = random_model("wan2.2-debug"), set()
    conditions, picture = plain_conditions(model, 12)

    class Watched(distributed._PastOfOneLayer):
        def read(self, layer):
            keys, values, positions = super().read(layer)
            kept.update((keys.dtype, values.dtype))
            return keys, values, positions

    def mixed():
        with torch.autocast("cpu", torch.bfloat16):
            loss = roll(model, conditions, picture, exit_step=EXIT).square().sum()
        return gradients(model, loss)

    plain = mixed()
    monkeypatch.setattr(distributed, "_PastOfOneLayer", Watched)
    distributed.tune_blocks(model, recompute=True)
    recomputed = mixed()
    assert kept == {torch.bfloat16} and recomputed.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.equal(recomputed[name], gradient), name


def test_mixed_precision_keeps_the_gradient_after_steps_without():
    model = random_model("wan2.2-debug")
    conditions, picture = plain_conditions(model, 12)
    plain = gradients(model, roll(model, conditions, picture, exit_step=EXIT).square().sum())
    with torch.autocast("cpu", torch.bfloat16):
        loss = roll(model, conditions, picture, exit_step=EXIT).square().sum()
    mixed = gradients(model, loss)
    assert mixed.keys() == plain.keys() and far(mixed, plain) < 0.2


def test_a_seed_of_its_own_makes_a_sample_independent_of_its_place():
    model = random_model("wan2.2-debug").requires_grad_(False)
    conditions, picture = plain_conditions(model, 6)

    def made(rows, seeds):
        told = replace(conditions, text=conditions.text[rows], channels=conditions.channels[rows])
        parts = rollout(
            model, (told.frames(k, k + 3) for k in (0, 3)), times=TIMES, seed=seeds, first_latent=picture[rows]
        )
        return torch.cat(list(parts), dim=2)

    both = made([0, 1], [7, 8])
    torch.testing.assert_close(made([1], [8]), both[1:], atol=1e-5, rtol=1e-4)
    assert (made([1], [7]) - both[1:]).abs().max() > 0.1
