"""The bidirectional teacher: rectified flow with text and motion dropout (paper, section 3.1 and appendix D)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from motionstream.conditioning.text import HashedTextEncoder
from motionstream.model.attention import AttentionContext
from motionstream.model.flow import add_noise, hold_picture, keyed_noise, shift_time, velocity_to_x0
from motionstream.model.motion_model import CarriedLatents, Conditions, ImageInput, MotionInput, MotionModel, posterior
from motionstream.sampler.bidirectional import sample
from motionstream.tracks.sampling import draw_ids
from motionstream.training.clips import ClipPool, PreparedClips
from motionstream.training.distributed import SampleDraws, shard

TEXT_DROPOUT = 0.1
MOTION_DROPOUT = 0.1


def make_conditions(
    model: MotionModel,
    text: HashedTextEncoder,
    clips: PreparedClips,
    captions: list[str],
    generator: torch.Generator | list[torch.Generator],
) -> Conditions:
    """Conditions of whole clips, with ids drawn anew, from one generator or from one for each clip."""
    batch, _, count = clips.visible.shape
    each = generator if isinstance(generator, list) else [generator] * batch
    ids = torch.cat([draw_ids(g, 1, count, model.config.track_head.id_range) for g in each]).to(model.device)
    motion = MotionInput(clips.positions, clips.visible, ids, size=model.config.size, first=True)
    carried = CarriedLatents(clips.candidates, clips.features)
    return model.conditions(motion, text.encode(captions), carried, ImageInput(clips.latents[:, :, :1]))


def x0_loss(prediction: Tensor, x0: Tensor, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    """Squared error of x0 per element, weighted.

    Without a prior the weight is 1/t², which makes it the plain flow-matching loss of the velocity (eq. A2, w_t = 1).
    With one, the error is divided by the posterior's deviation: between the pictures' own energies and a fully
    whitened error, which would spend the model on what nobody sees.
    """
    error = (prediction - x0) ** 2
    if conditions.prior is None:
        return error / t.reshape(t.shape[0], 1, -1, 1, 1).clamp(min=0.02) ** 2
    _, std = posterior(conditions.prior.detach(), noisy, t)
    return error / std.clamp(min=0.02)


def evaluate_loss(
    model: MotionModel,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    conditions: Conditions,
    context: AttentionContext | None = None,
) -> Tensor:
    """Mean loss over every frame but the given one."""
    clean = model.config.image_conditioning == "first_latent"
    noisy, t = hold_picture(add_noise(x0, noise, t), t, x0[:, :, :1], noise, clean=clean)
    prediction = velocity_to_x0(noisy, model(noisy, t, conditions, context), t)
    return x0_loss(prediction, x0, noisy, t, conditions)[:, :, 1:].mean()


class TeacherStage:
    """Flow matching on rendered clips; the carried content's prior is trained beside it by its likelihood."""

    def __init__(
        self,
        module: nn.Module,
        model: MotionModel,
        text: HashedTextEncoder,
        pool: ClipPool,
        validation: PreparedClips,
        *,
        seed: int,
    ) -> None:
        self.module, self.model, self.text, self.pool = module, model, text, pool
        self.rng, self.seed = torch.Generator().manual_seed(seed), seed
        self.validation = validation
        self._last: dict[str, Any] = {}

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples = shard(self.pool.batch)
        draws = SampleDraws(self.seed, step, samples)
        clips = self.pool.at(step, samples)
        self._last = vars(clips) | {"samples": list(samples)}
        captions = [c if keep else "" for c, keep in zip(clips.captions, draws.rand() >= TEXT_DROPOUT, strict=True)]
        clips = clips.without_tracks(draws.rand() < MOTION_DROPOUT)
        conditions = make_conditions(self.model, self.text, clips, captions, draws.generators)
        t = shift_time(draws.rand(1), self.model.config.sampler.shift).expand(-1, clips.latents.shape[2])
        noise = draws.randn(*clips.latents.shape[1:])
        flow = evaluate_loss(self.model, clips.latents, t.clamp(0.02, 1), noise, conditions)
        if conditions.prior is None:
            return flow, {"flow": flow.item()}
        likelihood = conditions.prior.negative_log_likelihood(clips.latents)[:, :, 1:].mean()
        return flow + likelihood, {"flow": flow.item(), "prior": likelihood.item()}

    def last_batch(self) -> dict[str, Any]:
        return self._last

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Loss with tracks and without on held-out photographs; latent error of samples beside the carried mean and
        the frozen picture, in dB (higher is better)."""
        clips = self.validation
        generator = torch.Generator().manual_seed(1)
        batch, _, frames = clips.latents.shape[:3]
        t = torch.linspace(0.1, 1, batch)[:, None].expand(-1, frames)
        noise = torch.randn(clips.latents.shape, generator=generator)
        nothing = clips.without_tracks(torch.ones(batch, dtype=torch.bool))
        numbers = {}
        for name, which in (("tracks", clips), ("none", nothing)):
            conditions = make_conditions(self.model, self.text, which, clips.captions, generator)
            numbers[f"loss_{name}"] = evaluate_loss(self.model, clips.latents, t, noise, conditions).item()
            drawn = keyed_noise(tuple(clips.latents.shape), seed=0, chunk=0, step=0)
            drawn = self.model.config.sampler.temperature * drawn
            made = sample(self.model, drawn, conditions, steps=4, shift=3.0, first_latent=clips.latents[:, :, :1])
            numbers[f"sample_db_{name}"] = decibels(made, clips.latents)
            if name == "tracks" and conditions.prior is not None:
                numbers["carried_db"] = decibels(conditions.prior.mean, clips.latents)
                numbers["nearest_db"] = decibels(clips.candidates[:, 0], clips.latents)
        numbers["frozen_db"] = decibels(clips.latents[:, :, :1].expand_as(clips.latents), clips.latents)
        return numbers


def decibels(latents: Tensor, target: Tensor) -> float:
    """Signal-to-error ratio of all but the first latent frame, in dB."""
    error = (latents - target)[:, :, 1:].square().mean()
    return float(10 * torch.log10(target[:, :, 1:].square().mean() / error))
