"""Rotary position embedding over time, height and width, as in Wan.

The head dimension is split over the three axes, each with its own frequencies, θ = 10⁴ and interleaved pairs (diffusers
``WanRotaryPosEmbed``). Tables are computed in float64 and kept in float32 whatever the model's dtype.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Rope = tuple[Tensor, Tensor]
"""cos and sin, each float32 (tokens, head_dim / 2)."""

THETA = 10_000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """The head dimension's split over time, height, width: 128 → 44, 42, 42."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def _angles(positions: Tensor, dim: int) -> Tensor:
    frequencies = THETA ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return positions.double()[:, None] * frequencies


@lru_cache(maxsize=256)
def rope_table(head_dim: int, frames: tuple[int, ...], height: int, width: int, device: torch.device) -> Rope:
    """The table for tokens ordered (frame, row, column); ``frames`` are the rope positions of the latent frames."""
    dim_t, dim_h, dim_w = axis_dims(head_dim)
    t = _angles(torch.tensor(frames), dim_t)[:, None, None].expand(-1, height, width, -1)
    h = _angles(torch.arange(height), dim_h)[None, :, None].expand(len(frames), -1, width, -1)
    w = _angles(torch.arange(width), dim_w)[None, None, :].expand(len(frames), height, -1, -1)
    angles = torch.cat([t, h, w], dim=-1).flatten(0, 2)
    return angles.cos().float().to(device), angles.sin().float().to(device)


def apply_rope(x: Tensor, rope: Rope) -> Tensor:
    """Rotate ``x`` (B, tokens, heads, head_dim) in float32; the result has the dtype of ``x``."""
    cos, sin = (part[None, :, None, :] for part in rope)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
