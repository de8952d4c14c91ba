"""The chunk loop (paper, section 3.2), the only one: training, evaluation and serving all use it.

Each chunk is denoised in a few steps against the rolling cache, returned, and then passed through the model once more
at t = 0, which writes its clean keys and values to the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from motionstream.config import MAX_STEPS
from motionstream.model.attention import Cached
from motionstream.model.flow import add_noise, hold_picture, keyed_noise, velocity_to_x0
from motionstream.model.kv_cache import RollingKVCache
from motionstream.model.motion_model import Conditions, MotionModel


class Rollout:
    """Generates a stream chunk by chunk.

    The generator function ``rollout`` is the simple way to use it. A server calls ``step``, sends the chunk's frames,
    and then calls ``settle``, so that the clean pass costs throughput but no latency.

    Args:
        times: decreasing noise levels of the few-step student (``SamplerConfig.student_times``).
        first_latent: latent of the given picture (B, C, 1, h, w). Latent frame 0 is held to it (``hold_picture``);
            whatever the model predicts there, the picture's latent is returned and kept in the sink.
        latent_size: (height, width) of the latents if there is no picture; the model's own when None.
        seed: every random number depends only on (seed, sample, chunk, step). With one seed per sample of the batch, a
            sample depends on its own seed, not on its index in the batch.
        cache: an empty cache, possibly with other sink and window sizes than the model's own (training draws them);
            the model's own when None.
        exit_step: gradient truncation in training (section 3.2, Self-Forcing). Every chunk ends at this step of
            ``times``, whose x0 is the chunk. Only this step carries a gradient; earlier steps and the clean pass carry
            none. None: all steps, with gradients if the caller enables them.
    """

    def __init__(
        self,
        model: MotionModel,
        *,
        times: tuple[float, ...],
        seed: int | Sequence[int],
        first_latent: Tensor | None = None,
        batch: int = 1,
        latent_size: tuple[int, int] | None = None,
        cache: RollingKVCache | None = None,
        exit_step: int | None = None,
    ) -> None:
        if exit_step is not None and not 0 <= exit_step < len(times):
            raise ValueError(f"exit_step {exit_step}: the student has steps 0 to {len(times) - 1}")
        self.model = model
        self.times = times if exit_step is None else times[: exit_step + 1]
        self.exit_step = exit_step
        self.seed = seed
        self.first_latent = first_latent
        self.batch = batch if first_latent is None else first_latent.shape[0]
        size = model.config.latent_size if latent_size is None else latent_size
        self.latent_size = size if first_latent is None else (first_latent.shape[3], first_latent.shape[4])
        self.cache = model.make_cache(self.batch, self.latent_size) if cache is None else cache
        self._unsettled: tuple[Tensor, Conditions] | None = None

    @property
    def chunk(self) -> int:
        """Index of the chunk that ``step`` makes next."""
        return self.cache.chunks + (self._unsettled is not None)

    def step(self, conditions: Conditions) -> Tensor:
        """The next chunk's clean latents (B, C, chunk_frames, h, w). Gradients flow if enabled; with ``exit_step`` only
        through that step."""
        self.settle()
        picture = self.first_latent if self.cache.chunks == 0 else None
        x0: Tensor | None = None
        for step in range(len(self.times)):
            truncated = self.exit_step is not None and step < self.exit_step
            with torch.set_grad_enabled(torch.is_grad_enabled() and not truncated):
                x0 = self._denoise(x0, step, conditions, picture)
        assert x0 is not None
        if picture is not None:
            x0 = torch.cat([picture, x0[:, :, 1:]], dim=2)
        self._unsettled = (x0.detach(), conditions)
        return x0

    def _denoise(self, x0: Tensor | None, step: int, conditions: Conditions, picture: Tensor | None) -> Tensor:
        """One model evaluation: noise the last step's x0 to this step's level and predict x0 anew."""
        config, frames = self.model.config, self.cache.causal.chunk_frames
        t = torch.full((self.batch, frames), self.times[step], device=self.model.device)
        noise = self._noise((self.batch, config.latent_channels, frames, *self.latent_size), step)
        noise = config.sampler.temperature * noise
        x = noise if x0 is None else add_noise(x0, noise, t)
        if picture is not None:
            x, t = hold_picture(x, t, picture, noise, clean=config.image_conditioning == "first_latent")
        return velocity_to_x0(x, self.model(x, t, conditions, Cached(self.cache)), t)

    def _noise(self, shape: tuple[int, ...], step: int) -> Tensor:
        chunk, device = self.cache.chunks, self.model.device
        if not isinstance(self.seed, Sequence):
            return keyed_noise(shape, seed=self.seed, chunk=chunk, step=step, device=device)
        alone = (1, *shape[1:])
        return torch.cat([keyed_noise(alone, seed=s, chunk=chunk, step=step, device=device) for s in self.seed])

    @torch.no_grad()
    def settle(self) -> None:
        """Write the last chunk's clean keys and values to the cache (one pass at t = 0). ``step`` calls it if the
        caller has not."""
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
    seed: int | Sequence[int],
    first_latent: Tensor | None = None,
    batch: int = 1,
    cache: RollingKVCache | None = None,
    exit_step: int | None = None,
) -> Iterator[Tensor]:
    """Yield the clean latents of one chunk for each of ``conditions``, which may be endless and lazy."""
    state = Rollout(
        model, times=times, seed=seed, first_latent=first_latent, batch=batch, cache=cache, exit_step=exit_step
    )
    for chunk in conditions:
        yield state.step(chunk)


def times_of(student_times: tuple[float, ...], steps: int) -> tuple[float, ...]:
    """Noise levels for a number of steps other than the student's own: 1 to MAX_STEPS, or more if the student has more.

    Fewer steps take the first ``student_times``, since Self-Forcing trains each of them as the last. Additional steps
    halve the last level each time.
    """
    most = max(MAX_STEPS, len(student_times))
    if not 1 <= steps <= most:
        raise ValueError(f"steps = {steps}: a chunk takes 1 to {most} denoising steps")
    return (*student_times, *(student_times[-1] / 2**n for n in range(1, steps)))[:steps]
