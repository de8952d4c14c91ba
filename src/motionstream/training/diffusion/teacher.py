"""The bidirectional teacher: rectified flow with text and motion dropout (paper, section 3.1 and appendix D)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from motionstream.model.flow import keyed_noise, shift_time
from motionstream.model.motion_model import Conditions
from motionstream.sampler.bidirectional import sample
from motionstream.training.clips.prepared import ClipSource, PreparedClips
from motionstream.training.diffusion.flow_matching import decibels, evaluate_loss, make_conditions
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.validation import ClipView
from motionstream.training.loop.distributed import SampleDraws, shard
from motionstream.training.loop.stage import Stage


@dataclass(frozen=True)
class TeacherConfig:
    """Settings of the teacher's loss (paper, section 3.1 and appendix D; the dropout rates are ours)."""

    shift: float = 6.0
    """Timestep shift k: t' = k t / (1 + (k − 1) t) with t uniform in 0..1."""
    weighting: Literal["uniform", "bell"] = "uniform"
    """w_t of equation A2, which the paper does not specify. ``bell``: highest at t = ½, 0 at 0 and 1, with mean 1 over
    t, as commonly used to fine-tune Wan."""
    text_dropout: float = 0.1
    motion_dropout: float = 0.1
    image_dropout: float = 0.0
    """Probability of training on a clip as text-to-video: without the picture, and with latent frame 0 in the loss. The
    three dropouts are independent."""
    flow_weight: float = 1.0
    """Weight of flow matching relative to the likelihood of the carried content's prior. At 0 only the prior is
    trained, at a fraction of the cost, since the transformer is not evaluated."""
    sample_steps: int = 4
    """Steps of the samples generated for validation."""

    def __post_init__(self) -> None:
        for name in ("text_dropout", "motion_dropout", "image_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must lie in 0..1, below 1")
        if self.shift <= 0 or self.sample_steps < 1:
            raise ValueError(f"shift = {self.shift}, sample_steps = {self.sample_steps}: must be positive")
        if not 0 <= self.flow_weight < math.inf:
            raise ValueError(f"flow_weight = {self.flow_weight}: must be a number, not negative")
        if self.weighting not in ("uniform", "bell"):
            raise ValueError(f"weighting = {self.weighting!r}: 'uniform' or 'bell'")

    def weight(self, t: Tensor) -> Tensor:
        """The weight w_t of the loss at times ``t``, see ``weighting``."""
        if self.weighting == "uniform":
            return torch.ones_like(t)
        lowest, mean = math.exp(-0.5), math.sqrt(math.pi / 2) * math.erf(math.sqrt(0.5))
        return (torch.exp(-2 * (t - 0.5) ** 2) - lowest) / (mean - lowest)


class TeacherStage(Stage):
    """Flow matching on prepared clips; the carried content's prior, if any, is trained too, by its likelihood."""

    def __init__(
        self,
        trainee: Trainee,
        pool: ClipSource,
        validation: PreparedClips,
        settings: TeacherConfig | None = None,
        *,
        seed: int,
        view: ClipView | None = None,
    ) -> None:
        super().__init__(trainee)
        self.model, self.text, self.pool = trainee.model, trainee.text, pool
        self.settings = settings or TeacherConfig()
        if self.model.config.carry is None and self.settings.flow_weight == 0:
            raise ValueError(f"flow_weight = 0: {self.model.config.name} has no prior, nothing would be trained")
        if self.model.config.carry is not None and self.settings.image_dropout:
            raise ValueError(
                f"image_dropout = {self.settings.image_dropout}: {self.model.config.name} carries the picture's "
                "content and cannot do without one; set it to 0"
            )
        self.validation, self.view, self.seed = validation, view, seed
        self._last: dict[str, Any] = {}

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples, settings = shard(self.pool.batch), self.settings
        draws = SampleDraws(self.seed, step, samples)
        clips = self.pool.at(step, samples).to(self.model.device)
        self._last = vars(clips) | {"samples": list(samples)}
        clips = clips.without_text(draws.rand() < settings.text_dropout)
        clips = clips.without_tracks(draws.rand() < settings.motion_dropout)
        without_image = None
        if settings.image_dropout:
            without_image = draws.rand() < settings.image_dropout
        conditions = make_conditions(self.model, self.text, clips, draws.generators, without_image)
        numbers, loss = {}, clips.latents.new_zeros(())
        if settings.flow_weight:
            flow = self._flow(clips, draws, conditions, without_image)
            numbers["flow"], loss = flow.item(), settings.flow_weight * flow
        if self.model.carry_prior is not None and conditions.prior is not None:
            likelihood = conditions.prior.negative_log_likelihood(clips.latents)[:, :, 1:].mean()
            numbers["prior"], loss = likelihood.item(), loss + likelihood
        return loss, numbers

    def _flow(
        self, clips: PreparedClips, draws: SampleDraws, conditions: Conditions, without_image: Tensor | None
    ) -> Tensor:
        settings = self.settings
        t = (
            shift_time(draws.rand(1), settings.shift)
            .expand(-1, clips.latents.shape[2])
            .clamp(0.02, 1)
            .to(clips.latents)
        )
        noise = draws.randn(*clips.latents.shape[1:]).to(clips.latents)
        return evaluate_loss(
            self.model,
            clips.latents,
            t,
            noise,
            conditions,
            without_image=without_image,
            weight=settings.weight(t),
        )

    def last_batch(self) -> dict[str, Any]:
        return self._last

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Losses on held-out clips with and without tracks; and, in dB (higher is better), how near to the clips'
        latents samples are, and for comparison the prior's mean and the repeated picture."""
        clips, device = self.validation, self.model.device
        generator = torch.Generator().manual_seed(1)
        noise, true = torch.randn(clips.latents.shape, generator=generator), clips.latents.to(device)
        nothing = clips.without_tracks(torch.ones(len(clips), dtype=torch.bool))
        numbers = {}
        for name, which in (("tracks", clips), ("none", nothing)):
            looks = [self._look(which, row, noise, generator) for row in range(len(clips))]
            numbers[f"loss_{name}"] = sum(loss for loss, _, _ in looks) / len(looks)
            made = torch.cat([latents for _, latents, _ in looks])
            numbers[f"sample_db_{name}"] = decibels(made, true)
            if name == "none":
                continue
            if self.view is not None:
                numbers |= self.view.look(made)[0]
            if self.model.carry_prior is not None:
                numbers["carried_db"] = decibels(torch.cat([mean for _, _, mean in looks if mean is not None]), true)
                numbers["nearest_db"] = decibels(clips.candidates[:, 0].to(device), true)
        numbers["frozen_db"] = decibels(true[:, :, :1].expand_as(true), true)
        return numbers

    def _look(
        self, clips: PreparedClips, row: int, noise: Tensor, generator: torch.Generator
    ) -> tuple[float, Tensor, Tensor | None]:
        """Loss, sample and the prior's mean of one clip; memory may not suffice for all at once."""
        clip, device = clips.take([row]).to(self.model.device), self.model.device
        conditions = make_conditions(self.model, self.text, clip, generator)
        t = torch.linspace(0.1, 1, len(clips))[row].expand(1, clip.latents.shape[2]).to(device)
        loss = evaluate_loss(self.model, clip.latents, t, noise[row : row + 1].to(device), conditions)
        mean = None if conditions.prior is None else conditions.prior.mean
        return loss.item(), self._sample(clip, conditions, row), mean

    def pictures(self) -> dict[str, np.ndarray]:
        """Pictures of the last validation."""
        return {} if self.view is None else self.view.pictures()

    def _sample(self, clips: PreparedClips, conditions: Conditions, seed: int) -> Tensor:
        noise = keyed_noise(tuple(clips.latents.shape), seed=seed, chunk=0, step=0, device=clips.latents.device)
        settings = self.settings
        return sample(
            self.model,
            self.model.config.sampler.temperature * noise,
            conditions,
            steps=settings.sample_steps,
            shift=settings.shift,
            first_latent=clips.latents[:, :, :1],
        )
