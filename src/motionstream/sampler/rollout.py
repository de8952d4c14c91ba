"""THE chunk loop (paper, section 3.2). Training, evaluation and serving call it; there is no other.

Each chunk is denoised in a few steps against the rolling cache, handed out, and then passed once more at t = 0, which
writes its clean keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from motionstream.model.attention import Cached
from motionstream.model.flow import add_noise, hold_picture, keyed_noise, velocity_to_x0
from motionstream.model.motion_model import Conditions, MotionModel


class Rollout:
    """Generates a stream chunk by chunk.

    The generator function ``rollout`` is the plain way to use it. A server calls ``step`` and, once the chunk's
    frames are on their way, ``settle``: the clean pass then costs throughput but no latency.

    Args:
        times: noise levels of the few-step student, falling (``SamplerConfig.student_times``).
        first_latent: latent of the given picture (B, C, 1, h, w). It is held in latent frame 0 (``hold_picture``), and
            whatever the model makes of that frame, the picture's latent is what is handed out and what the sink keeps.
        latent_size: (height, width) of the latents where there is no picture; the model's own when None.
        seed: every random number depends on (seed, sample, chunk, step) alone.
    """

    def __init__(
        self,
        model: MotionModel,
        *,
        times: tuple[float, ...],
        seed: int,
        first_latent: Tensor | None = None,
        batch: int = 1,
        latent_size: tuple[int, int] | None = None,
    ) -> None:
        self.model = model
        self.times = times
        self.seed = seed
        self.first_latent = first_latent
        self.batch = batch if first_latent is None else first_latent.shape[0]
        size = model.config.latent_size if latent_size is None else latent_size
        self.latent_size = size if first_latent is None else (first_latent.shape[3], first_latent.shape[4])
        self.cache = model.make_cache(self.batch, self.latent_size)
        self._unsettled: tuple[Tensor, Conditions] | None = None

    @property
    def chunk(self) -> int:
        """Index of the chunk that ``step`` makes next."""
        return self.cache.chunks + (self._unsettled is not None)

    def step(self, conditions: Conditions) -> Tensor:
        """The next chunk's clean latents (B, C, chunk_frames, h, w). Gradients flow unless the caller forbids them."""
        self.settle()
        chunk, config = self.cache.chunks, self.model.config
        frames = config.causal.chunk_frames
        shape = (self.batch, config.latent_channels, frames, *self.latent_size)
        picture = self.first_latent if chunk == 0 else None
        context = Cached(self.cache)
        x0: Tensor | None = None
        for step, now in enumerate(self.times):
            t = torch.full((self.batch, frames), now, device=self.model.device)
            noise = keyed_noise(shape, seed=self.seed, chunk=chunk, step=step, device=self.model.device)
            noise = config.sampler.temperature * noise
            x = noise if x0 is None else add_noise(x0, noise, t)
            if picture is not None:
                x, t = hold_picture(x, t, picture, noise, clean=config.image_conditioning == "first_latent")
            x0 = velocity_to_x0(x, self.model(x, t, conditions, context), t)
        assert x0 is not None
        if picture is not None:
            x0 = torch.cat([picture, x0[:, :, 1:]], dim=2)
        self._unsettled = (x0.detach(), conditions)
        return x0

    @torch.no_grad()
    def settle(self) -> None:
        """Write the last chunk's clean keys and values (one pass at t = 0). Called by ``step`` if nobody else does."""
        if self._unsettled is None:
            return
        x0, conditions = self._unsettled
        clean = torch.zeros(x0.shape[0], x0.shape[2], device=x0.device)
        self.model(x0, clean, conditions, Cached(self.cache, write=True))
        self.cache.commit()
        self._unsettled = None


def rollout(
    model: MotionModel,
    conditions: Iterable[Conditions],
    *,
    times: tuple[float, ...],
    seed: int,
    first_latent: Tensor | None = None,
    batch: int = 1,
) -> Iterator[Tensor]:
    """Yield the clean latents of one chunk for each of ``conditions``, which may be endless and made on demand."""
    state = Rollout(model, times=times, seed=seed, first_latent=first_latent, batch=batch)
    for chunk in conditions:
        yield state.step(chunk)
