"""Rectified flow: x_t = (1 − t) x0 + t noise, velocity = noise − x0 (paper, eq. A1). The only place that converts
between velocity and x0. t is (B,) or (B, F); latents are B C F H W.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def per_frame(t: Tensor) -> Tensor:
    """t (B,) or (B, F) shaped to multiply latents: (B, 1, F or 1, 1, 1)."""
    return t.reshape(t.shape[0], 1, -1, 1, 1)


def add_noise(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t."""
    time = per_frame(t)
    return (1 - time) * x0 + time * noise


def hold_picture(x: Tensor, t: Tensor, picture: Tensor, noise: Tensor, *, clean: bool) -> tuple[Tensor, Tensor]:
    """Put the given picture's latent into latent frame 0, as every sampler does in every step; returns (x, t).

    Args:
        x: noisy latents (B, C, F, h, w) at ``t`` (B, F).
        picture: (B, C, 1, h, w).
        noise: the noise in ``x``.
        clean: insert it without noise, with t = 0 (``first_latent``, Wan 2.2). Otherwise (``concat``, Wan 2.1) insert
            it at the noise level of the other frames, since such models are trained with one level for all frames.
    """
    if clean:
        t = torch.cat([torch.zeros_like(t[:, :1]), t[:, 1:]], dim=1)
    else:
        picture = add_noise(picture, noise[:, :, :1], t[:, :1])
    return torch.cat([picture, x[:, :, 1:]], dim=2), t


def velocity_to_x0(noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """x0 = x_t − t v."""
    return noisy - per_frame(t) * velocity


def x0_to_velocity(noisy: Tensor, x0: Tensor, t: Tensor, floor: float = 1e-3) -> Tensor:
    """v = (x_t − x0) / t; for t below ``floor`` (clean frames) the velocity is meaningless but finite."""
    return (noisy - x0) / per_frame(t).clamp(min=floor)


def shift_time(t: Tensor, shift: float) -> Tensor:
    """t' = k t / (1 + (k − 1) t) (paper, appendix D): with k > 1, more of the schedule is near noise."""
    return shift * t / (1 + (shift - 1) * t)


def schedule(steps: int, shift: float) -> Tensor:
    """Shifted times from 1 to 0, float64 (steps + 1,)."""
    return shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def keyed_noise(
    shape: tuple[int, ...], *, seed: int, chunk: int, step: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise that depends only on (seed, sample in the batch, chunk, step).

    Drawn on the CPU, sample by sample, so a stream gets the same noise on any device, however it is paced, paused,
    resumed or served.
    """
    samples = []
    for sample in range(shape[0]):
        key = hashlib.blake2b(f"{seed}/{sample}/{chunk}/{step}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
        samples.append(torch.randn(shape[1:], generator=generator))
    return torch.stack(samples).to(device)
