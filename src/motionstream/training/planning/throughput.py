"""Floating-point operations of a training step, from which MFU and the hours of a run follow.

Only the model's operations count, so their share of a device's peak is MFU ("model FLOPs utilisation"): evaluations are
counted by ``flops.py``, a backward pass as twice its forward; recomputation by activation checkpointing or fused
attention is excluded (including it would give HFU). Counts are per sample; ``times`` multiplies by a batch. If a stage
draws sink, window and exit step, counts are the mean over the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from motionstream.config import CausalConfig, ModelConfig
from motionstream.flops import Size, causal_clip_flops, clip_flops, condition_flops
from motionstream.training.diffusion.causal_init import SINKS, WINDOWS
from motionstream.training.diffusion.self_forcing import SelfForcingConfig


@dataclass(frozen=True)
class StepFlops:
    """Operations per sample of a step. ``inference``: evaluations without gradients. ``trained``: forward passes of
    evaluations with gradients."""

    inference: float
    trained: float

    @property
    def model(self) -> float:
        """All operations: a backward pass costs as much as two forward passes."""
        return self.inference + 3 * self.trained

    def times(self, batch: int) -> StepFlops:
        return StepFlops(batch * self.inference, batch * self.trained)


def teacher_flops(config: ModelConfig, latent_frames: int, *, size: Size | None = None) -> StepFlops:
    """Flow matching on whole clips, including training of the track head and of the carried content's prior.

    Args:
        size: (height, width) of the video; the model's own when None.
    """
    forward = clip_flops(config, latent_frames, size=size).total
    return StepFlops(0, forward + condition_flops(config, latent_frames, size=size))


def causal_flops(config: ModelConfig, latent_frames: int, *, size: Size | None = None) -> StepFlops:
    """The regression of the causal initialisation, on average over sinks and windows."""
    forwards = [
        causal_clip_flops(config, latent_frames, pattern, size=size).total
        for pattern in _patterns(config, SINKS, WINDOWS)
    ]
    return StepFlops(condition_flops(config, latent_frames, size=size), sum(forwards) / len(forwards))


@dataclass(frozen=True)
class SelfForcingFlops:
    """Operations of a step that updates the student, and of one that updates the critic."""

    student: StepFlops
    critic: StepFlops

    def mean(self, critic_updates: int) -> float:
        """Model operations of a step, averaged over ``critic_updates`` of the critic and one of the student."""
        return (self.student.model + critic_updates * self.critic.model) / (critic_updates + 1)


def self_forcing_flops(
    config: ModelConfig,
    latent_frames: int,
    settings: SelfForcingConfig,
    *,
    size: Size | None = None,
    exit_step: int | None = None,
) -> SelfForcingFlops:
    """Operations of Self-Forcing's steps.

    The student rolls out chunk by chunk: the steps before ``exit_step`` without gradients, that step with them, and a
    clean pass of every chunk but the last. Then the teacher evaluates the clip once (three times if guided) and the
    critic once. The critic's step rolls out without gradients and trains on the clip. The autoencoder, which ``nano``
    runs between chunks for its own content, is not counted.

    Args:
        exit_step: of the rollout; the mean over all steps when None.
    """
    steps = (len(config.sampler.student_times) - 1) / 2 if exit_step is None else float(exit_step)
    patterns = _patterns(config, settings.sinks, settings.windows)

    def rollout(frames: int) -> float:
        counts = [causal_clip_flops(config, frames, pattern, size=size, cached=True).total for pattern in patterns]
        return sum(counts) / len(counts)

    step, clean = rollout(latent_frames), rollout(latent_frames - config.causal.chunk_frames)
    clip = clip_flops(config, latent_frames, size=size).total
    told = condition_flops(config, latent_frames, size=size)
    looks = (4 if settings.guided else 2) if settings.score_weight else 0  # evaluations by teacher and critic
    tellings = 2  # computations of conditions: student, teacher; below: critic, and for guidance without tracks
    if settings.score_weight:
        tellings += 2 if settings.guided else 1
    return SelfForcingFlops(
        student=StepFlops(steps * step + clean + looks * clip + tellings * told, step),
        critic=StepFlops((steps + 1) * step + clean + 2 * told, clip),
    )


def stage_flops(
    stage: Literal["teacher", "causal", "self-forcing"],
    config: ModelConfig,
    latent_frames: int,
    rollouts: SelfForcingConfig,
    *,
    batch: int,
    size: Size | None = None,
) -> dict[str, float]:
    """Model operations per update on a whole batch, for each player of a stage: "module" and "opponent".

    ``rollouts``: settings of Self-Forcing. ``size``: (height, width) of the video; the model's own when None.
    """
    if stage == "self-forcing":
        both = self_forcing_flops(config, latent_frames, rollouts, size=size)
        return {"module": both.student.times(batch).model, "opponent": both.critic.times(batch).model}
    count = teacher_flops if stage == "teacher" else causal_flops
    one = count(config, latent_frames, size=size)
    return {"module": one.times(batch).model}


def _patterns(config: ModelConfig, sinks: Sequence[int], windows: Sequence[int]) -> list[CausalConfig]:
    return [CausalConfig(config.causal.chunk_frames, sink, window) for sink, window in product(sinks, windows)]


def estimate_hours(flops_per_step: float, steps: int, *, gpus: int, peak: float, share: float) -> float:
    """Wall-clock hours of a run, without validation and checkpoints.

    Args:
        flops_per_step: model operations of the global batch, averaged over the steps.
        peak: operations per second of one GPU (``hardware.peak``). share: fraction of the peak that is reached, 0 … 1.

    Raises:
        ValueError: no GPU, no speed, or a share outside 0..1.
    """
    if gpus < 1 or peak <= 0 or not 0 < share <= 1:
        raise ValueError(
            f"gpus = {gpus}, peak = {peak:g}, share = {share:g}: give a GPU, its speed and a share in 0..1"
        )
    return steps * flops_per_step / (gpus * peak * share) / 3600
