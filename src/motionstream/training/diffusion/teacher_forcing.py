"""Teacher forcing: before distillation, the student learns to denoise each chunk given a clean past, causally.

An optional stage between the teacher and the causal initialisation, which then starts from its weights; it is not in
the paper. Causal-Forcing also trains such a model first, and takes the ODE pairs from it; here they remain those of the
bidirectional teacher, as in the paper.

The loss is the teacher's flow matching, but every chunk has its own noise level and attends to what it would see in a
stream: the keys and values that clean passes of the true past chunks leave in the cache (``TeacherForced``). Only noisy
chunks contribute to the loss; clean ones only provide keys and values.

As in the causal stage, every step draws a sink and a window, and the prior of carried content is frozen, because
teacher, critic and student must predict around the same one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from motionstream.carry.prior import Prior
from motionstream.config import CausalConfig
from motionstream.model.attention import TeacherForced
from motionstream.model.flow import shift_time
from motionstream.model.motion_model import Conditions, MotionModel
from motionstream.training.clips.prepared import ClipSource, PreparedClips
from motionstream.training.diffusion.causal_init import SINKS, WINDOWS
from motionstream.training.diffusion.flow_matching import evaluate_loss, make_conditions
from motionstream.training.diffusion.rollouts import rollout_figures
from motionstream.training.diffusion.teacher import TeacherConfig
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.loop.distributed import SampleDraws, keyed_generator, shard
from motionstream.training.loop.stage import Stage


class TeacherForcingStage(Stage):
    """See the module's docstring. ``trainee`` has the teacher's weights; clips have whole chunks.

    ``settings``: shift, weighting and dropouts are used. Raises ValueError for clips that are not whole chunks, and for
    image dropout in a model that carries content.
    """

    def __init__(
        self,
        trainee: Trainee,
        pool: ClipSource,
        validation: PreparedClips,
        settings: TeacherConfig | None = None,
        *,
        seed: int,
    ) -> None:
        super().__init__(trainee)
        self.trainee = trainee
        self.model, self.text, self.pool = trainee.model, trainee.text, pool
        self.settings = settings or TeacherConfig()
        config = self.model.config
        if config.carry is not None and self.settings.image_dropout:
            raise ValueError(
                f"image_dropout = {self.settings.image_dropout}: {config.name} carries the picture's content and "
                "cannot do without one; set it to 0"
            )
        frames, size = validation.latents.shape[2], config.causal.chunk_frames
        if frames % size:
            raise ValueError(f"clips of {frames} latent frames do not divide into chunks of {size}: choose a multiple")
        self.validation, self.seed = validation, seed
        self._last: dict[str, Any] = {}

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples, settings = shard(self.pool.batch), self.settings
        draws = SampleDraws(self.seed, step, samples)
        clips = self.pool.at(step, samples).to(self.model.device)
        self._last = vars(clips) | {"samples": list(samples)}
        clips = clips.without_text(draws.rand() < settings.text_dropout)
        clips = clips.without_tracks(draws.rand() < settings.motion_dropout)
        without_image = draws.rand() < settings.image_dropout if settings.image_dropout else None
        conditions = make_conditions(self.model, self.text, clips, draws.generators, without_image)
        size = self.model.config.causal.chunk_frames
        t = self._levels(draws.rand(clips.latents.shape[2] // size)).to(clips.latents)
        noise = draws.randn(*clips.latents.shape[1:]).to(clips.latents)
        shared = keyed_generator(self.seed, step)
        sink, window = (c[int(torch.randint(len(c), (), generator=shared))] for c in (SINKS, WINDOWS))
        flow = teacher_forced_loss(
            self.model,
            clips.latents,
            t,
            noise,
            conditions,
            CausalConfig(size, sink, window),
            without_image=without_image,
            weight=settings.weight(t),
        )
        return flow, {"flow": flow.item()}

    def _levels(self, uniform: Tensor) -> Tensor:
        """Noise levels (B, F) of frames, from one uniform number in 0..1 per chunk (B, chunks)."""
        t = shift_time(uniform, self.settings.shift).clamp(0.02, 1)
        return t.repeat_interleave(self.model.config.causal.chunk_frames, dim=1)

    def last_batch(self) -> dict[str, Any]:
        return self._last

    def validate(self, module: nn.Module) -> dict[str, float]:
        """The loss on held-out clips under the model's own sink and window, and the figures of rollouts
        (``rollout_figures``), which use the student's few steps, although this stage does not train for them."""
        clips, generator = self.validation, torch.Generator().manual_seed(1)
        batch, _, frames = clips.latents.shape[:3]
        causal = self.model.config.causal
        t = self._levels(torch.rand(batch, frames // causal.chunk_frames, generator=generator))
        noise = torch.randn(clips.latents.shape, generator=generator)
        loss = 0.0
        for row in range(batch):
            clip = clips.take([row]).to(self.model.device)
            conditions = make_conditions(self.model, self.text, clip, generator)
            level, one = (x[row : row + 1].to(clip.latents) for x in (t, noise))
            loss += teacher_forced_loss(self.model, clip.latents, level, one, conditions, causal).item() / batch
        return {"loss": loss} | rollout_figures(self.trainee, clips)


def teacher_forced_loss(
    model: MotionModel,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    conditions: Conditions,
    causal: CausalConfig,
    *,
    without_image: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """``evaluate_loss`` of clips (B, C, F, h, w) at levels ``t`` (B, F), with every chunk attending to its clean
    past."""
    weight = torch.ones_like(t) if weight is None else weight
    gone = None if without_image is None else without_image.repeat(2)
    loss = evaluate_loss(
        model,
        x0.repeat(2, 1, 1, 1, 1),
        torch.cat([torch.zeros_like(t), t]),
        noise.repeat(2, 1, 1, 1, 1),
        twice(conditions),
        TeacherForced(causal),
        without_image=gone,
        weight=torch.cat([torch.zeros_like(weight), weight]),
    )
    return 2 * loss  # the mean includes the clean clips, whose weight is 0


def twice(conditions: Conditions) -> Conditions:
    """The conditions repeated, for the clean and the noisy clips."""
    prior, image = conditions.prior, conditions.image
    return Conditions(
        text=torch.cat([conditions.text] * 2),
        channels=torch.cat([conditions.channels] * 2),
        image=None if image is None else torch.cat([image] * 2),
        prior=None if prior is None else Prior(torch.cat([prior.mean] * 2), torch.cat([prior.std] * 2)),
    )
