"""Memory of one micro-batch of a training stage besides weights, moments and gradients.

Measured by running the stage's forward on the meta device with two and with three blocks, and extrapolated, since all
blocks need the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.autoencoder.linear import GROUP
from motionstream.conditioning.track_head import TrackHead, group_frames
from motionstream.config import CARRY_CANDIDATES, CARRY_FEATURES, CausalConfig, ModelConfig
from motionstream.memory.budget import transformer_input
from motionstream.memory.graph_bytes import StepBytes, inference_bytes, step_bytes
from motionstream.model.attention import AttentionContext, BlockCausal, Cached
from motionstream.model.flow import velocity_to_x0
from motionstream.model.motion_model import CarriedLatents, Conditions, ImageInput, MotionInput, MotionModel

StageKind = Literal["teacher", "causal", "self-forcing"]

CONDITIONING = ("track_head", "carry_prior")

TRACKS = 160
"""Tracks per clip; their memory is negligible."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes. ``peak``: at the worst moment. ``end``: at the end of the backward pass. ``validation``: of a forward over
    one clip without gradients, including the copies of weights that autocast keeps."""

    peak: int
    end: int
    validation: int


@dataclass(frozen=True)
class Measure:
    """The step to measure: ``config`` in float32, ``latent_frames`` of ``batch`` clips, with ``device``'s kernels."""

    config: ModelConfig
    batch: int
    latent_frames: int
    recompute: bool
    bf16: bool
    device: str

    def clip(self, context: AttentionContext | None, frozen: tuple[str, ...] = ()) -> StepBytes:
        """A loss over whole clips and its gradient. ``frozen``: names of the model's frozen parts."""

        def measured(layers: int) -> StepBytes:
            model = self._model(layers, frozen)
            run = self._clip_loss(model, context, likelihood=not frozen)
            return step_bytes(model, run, bf16=self.bf16, recompute=self.recompute, device=self.device)

        return self._deep(measured)

    def inference(self) -> int:
        """A forward over whole clips without gradients."""
        model = self._model(min(2, self.config.transformer.num_layers)).requires_grad_(False)
        run = self._clip_loss(model, None, likelihood=False)
        return inference_bytes(model, run, bf16=self.bf16, device=self.device)

    def chunk(self, causal: CausalConfig, chunk: int) -> StepBytes:
        """A chunk of a rollout, in the step with a gradient, against the cache; its inputs are not counted."""
        config = replace(self.config, causal=causal)

        def measured(layers: int) -> StepBytes:
            model = self._model(layers, CONDITIONING)
            cache = model.make_cache(self.batch, config.latent_size, causal)
            cache.chunks = chunk

            with torch.device("meta"):
                noisy, t, conditions = transformer_input(config, self.batch)

            def loss() -> Tensor:
                return velocity_to_x0(noisy, model(noisy, t, conditions, Cached(cache)), t).square().mean()

            return step_bytes(model, loss, bf16=self.bf16, recompute=self.recompute, device=self.device)

        return self._deep(measured)

    def cache_bytes(self, causal: CausalConfig) -> int:
        return (
            self._model(self.config.transformer.num_layers)
            .make_cache(self.batch, self.config.latent_size, causal)
            .nbytes
        )

    def _model(self, layers: int, frozen: tuple[str, ...] = ()) -> MotionModel:
        with torch.device("meta"):
            model = MotionModel(replace(self.config, transformer=replace(self.config.transformer, num_layers=layers)))
            head = model.track_head
            model.track_head = _TrackHeadWithoutTracks(head.config, spatial=head.spatial, temporal=head.temporal)
        for name, part in model.named_children():
            part.requires_grad_(name not in frozen)
        return model

    def _deep(self, measured: Callable[[int], StepBytes]) -> StepBytes:
        """Extrapolate to the full depth from two and three blocks."""
        layers = self.config.transformer.num_layers
        if layers <= 3:
            return measured(layers)
        two, three = vars(measured(2)), vars(measured(3))
        return StepBytes(**{name: two[name] + (layers - 2) * (three[name] - two[name]) for name in two})

    def _clip_loss(
        self, model: MotionModel, context: AttentionContext | None, *, likelihood: bool
    ) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            x0, noisy = (self._latents(self.config.latent_channels) for _ in range(2))
            t = torch.empty(self.batch, self.latent_frames)
            conditions = self._conditions(model, x0)
            error = (velocity_to_x0(noisy, model(noisy, t, conditions, context), t) - x0) ** 2
            value = (error / torch.empty_like(error)).mean()  # weighted per element
            if likelihood and model.carry_prior is not None and conditions.prior is not None:
                value = value + conditions.prior.negative_log_likelihood(x0).mean()
            return value

        return loss

    def _latents(self, *channels: int) -> Tensor:
        return torch.empty(self.batch, *channels, self.latent_frames, *self.config.latent_size)

    def _conditions(self, model: MotionModel, x0: Tensor) -> Conditions:
        config, batch, frames = self.config, self.batch, self.config.frames_of(self.latent_frames)
        motion = MotionInput(
            torch.empty(batch, frames, TRACKS, 2),
            torch.empty(batch, frames, TRACKS, dtype=torch.bool),
            torch.empty(batch, TRACKS, dtype=torch.long),
            size=config.size,
            first=True,
            content=torch.empty(batch, TRACKS, config.latent_channels),
        )
        text = torch.empty(batch, 1 if config.text is None else config.text.tokens, config.transformer.text_dim)
        carried = None
        if config.carry is not None:
            candidates = self._latents(CARRY_CANDIDATES, config.latent_channels)
            held = self._latents(GROUP * config.spatial_compression**2)
            carried = CarriedLatents(candidates, self._latents(CARRY_FEATURES), held)
        encoder = config.image_encoder
        tokens = None if encoder is None else torch.empty(batch, encoder.tokens, encoder.hidden_size)
        return model.conditions(motion, text, carried, ImageInput(x0[:, :, :1], tokens))


class _TrackHeadWithoutTracks(TrackHead):
    """The track head after its map, since building the map needs actual values."""

    def forward(self, positions: Tensor, visible: Tensor, ids: Tensor, *, size: tuple[int, int], first: bool) -> Tensor:
        batch, frames = positions.shape[:2]
        cells = size[0] // self.spatial, size[1] // self.spatial
        grid = torch.empty(batch, self.compress.in_channels, frames, *cells)
        grid = group_frames(grid, self.temporal, first=first).flatten(2, 3)
        return self.project(F.silu(self.compress(grid)))


@lru_cache(maxsize=64)
def step_memory(measure: Measure, stage: StageKind, causal: CausalConfig) -> StepMemory:
    """Memory of a micro-batch. ``causal``: the largest sink and window of the causal stage, or of the rollouts."""
    one = replace(measure, batch=1)
    look = one.inference() + (0 if stage == "teacher" else one.cache_bytes(measure.config.causal))
    if stage == "self-forcing":
        student = student_bytes(measure, causal, measure.inference())
        # the clip's conditions, and the clip twice: as rolled out, and noised
        channels = measure.config.transformer.in_channels + 2 * measure.config.latent_channels
        beside = measure.cache_bytes(causal) + 4 * channels * _cells(measure)
        # the critic's half-precision copies of weights are kept as long as the student's
        peak = max(beside + _peak(student, 2 * student.casts), _critic(measure, causal))
        return StepMemory(peak, end=0, validation=look + student.casts)
    context = BlockCausal(causal) if stage == "causal" else None
    step = measure.clip(context, CONDITIONING[:1] if stage == "causal" else ())
    kept = _clips(measure) if stage == "teacher" else 0
    return StepMemory(kept + _peak(step, step.casts), step.backward, look + step.casts)


def _peak(step: StepBytes, casts: int) -> int:
    """``casts``: copies of weights that autocast keeps until the end of the forward."""
    return step.saved + max(casts + step.forward, step.held_casts + step.backward)


def student_bytes(measure: Measure, causal: CausalConfig, inference: int) -> StepBytes:
    """The student's step: the graphs of all chunks, and a forward of teacher or critic. Without inputs and cache."""
    chunks, past = measure.latent_frames // causal.chunk_frames, causal.sink_chunks + causal.window_chunks
    kinds = [measure.chunk(causal, chunk) for chunk in range(min(chunks, past + 1))]
    each = [kinds[min(chunk, len(kinds) - 1)] for chunk in range(chunks)]
    frozen = _frozen_past(measure, causal, chunks) if measure.recompute else 0
    return StepBytes(
        saved=frozen + sum(step.saved for step in each),
        casts=kinds[-1].casts,
        held_casts=kinds[-1].held_casts,
        forward=max(inference, *(step.forward for step in kinds)),
        backward=max(step.backward for step in kinds),
    )


def _clips(measure: Measure) -> int:
    """The latents and carried content of a micro-batch, which the stage keeps for the report of a failure."""
    config = measure.config
    channels = config.latent_channels
    if config.carry is not None:
        channels += CARRY_CANDIDATES * channels + CARRY_FEATURES + GROUP * config.spatial_compression**2
    return 4 * channels * _cells(measure)


def _cells(measure: Measure) -> int:
    """Number of latent cells in a micro-batch."""
    return measure.batch * measure.latent_frames * math.prod(measure.config.latent_size)


def _frozen_past(measure: Measure, causal: CausalConfig, chunks: int) -> int:
    """Copies of the past keys and values, since recomputed blocks must not see the newer cache."""
    transformer = measure.config.transformer
    patch = transformer.patch_size
    rows, columns = measure.config.latent_size
    tokens = causal.chunk_frames * (rows // patch[1]) * (columns // patch[2])
    seen = sum(len(causal.visible_chunks(chunk)) - 1 for chunk in range(chunks))
    numbers = 2 * transformer.num_layers * measure.batch * seen * tokens * transformer.width
    return numbers * (2 if measure.bf16 else 4)


def _critic(measure: Measure, causal: CausalConfig) -> int:
    """The critic's step, after a rollout without gradients, whose half-precision copies of weights are still kept."""
    step = measure.clip(None, CONDITIONING)
    return max(_peak(step, 2 * step.casts), measure.cache_bytes(causal) + step.casts + step.forward)
