"""Causal initialisation (paper, section 3.2): regression on the teacher's ODE trajectories under block-causal masks.

Every step draws a sink and a window size, and for every chunk an independent noise level: one of the student's or 0.
Chunks at 0 are clean context, as in streaming; they and the given picture do not count in the loss. The regression
target is the end of the teacher's trajectory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motionstream.config import CausalConfig
from motionstream.model.attention import BlockCausal
from motionstream.model.flow import velocity_to_x0
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.diffusion.flow_matching import make_conditions, x0_loss
from motionstream.training.diffusion.rollouts import rollout_figures
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.trajectories import TrajectoryStore
from motionstream.training.diffusion.validation import ClipView
from motionstream.training.loop.distributed import SampleDraws, keyed_generator, shard
from motionstream.training.loop.stage import Stage

SINKS = (0, 1, 2)
WINDOWS = (1, 2, 3)
CLEAN_PROBABILITY = 0.35


class CausalStage(Stage):
    """See the module's docstring. Validation generates chunk by chunk with the cache, as in streaming."""

    def __init__(
        self,
        trainee: Trainee,
        store: TrajectoryStore,
        validation: PreparedClips,
        *,
        batch: int,
        seed: int,
        view: ClipView | None = None,
    ) -> None:
        super().__init__(trainee)
        self.trainee = trainee
        self.model, self.text, self.store, self.batch = trainee.model, trainee.text, store, batch
        self.validation, self.view, self.seed = validation, view, seed
        self._last: dict[str, Any] = {}

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples = shard(self.batch)
        draws = SampleDraws(self.seed, step, samples)
        rows = draws.randint(len(self.store)).tolist()
        self._last = {"rows": rows, "samples": list(samples)}
        clips, states, x0 = self.store.take(rows)
        noisy, t = self._mix_levels(states, x0, draws)
        clips, device = clips.to(self.model.device), self.model.device
        x0, noisy, t = x0.to(device), noisy.to(device), t.to(device)
        conditions = make_conditions(self.model, self.text, clips, draws.generators)
        shared = keyed_generator(self.seed, step)
        sink, window = (c[int(torch.randint(len(c), (), generator=shared))] for c in (SINKS, WINDOWS))
        causal = CausalConfig(self.model.config.causal.chunk_frames, sink, window)
        prediction = velocity_to_x0(noisy, self.model(noisy, t, conditions, BlockCausal(causal)), t)
        counted = t > 0
        counted[:, 0] = False  # the given picture, whatever its noise level
        frames = x0_loss(prediction, x0, noisy, t, conditions).mean(dim=(1, 3, 4))
        # averaged per sample first: in one mean over the batch, a sample's weight would depend on the other samples
        loss = ((frames * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()
        return loss, {"regression": loss.item()}

    def last_batch(self) -> dict[str, Any]:
        return self._last

    def _mix_levels(self, states: Tensor, x0: Tensor, draws: SampleDraws) -> tuple[Tensor, Tensor]:
        """Draw an independent noise level for each chunk. Returns noisy latents and t (B, F): 0 for clean chunks and,
        if the model holds it clean, for the given picture."""
        levels, frames = states.shape[1], states.shape[3]
        size = self.model.config.causal.chunk_frames
        chunks = frames // size
        level = draws.randint(levels, chunks)
        clean = draws.rand(chunks) < CLEAN_PROBABILITY
        clean[:, -1] &= ~clean.all(dim=1)  # at least one chunk must count in the loss
        level, clean = (x.repeat_interleave(size, dim=1) for x in (level, clean))
        t = torch.where(clean, 0.0, self.store.times[level])
        if self.model.config.image_conditioning == "first_latent":
            t[:, 0] = 0
        index = level[:, None, None, :, None, None].expand(-1, 1, *states.shape[2:])
        noisy = states.gather(1, index)[:, 0]
        return torch.where((t > 0)[:, None, :, None, None], noisy, x0), t

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Compare rollouts, cached as in streaming, with the held-out clips; see ``rollout_figures``."""
        return rollout_figures(self.trainee, self.validation, view=self.view)

    def pictures(self) -> dict[str, np.ndarray]:
        """The pictures of the last validation."""
        return {} if self.view is None else self.view.pictures()
