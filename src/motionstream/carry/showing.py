"""Decodes latents that were generated around a carried picture.

The carried picture is decoded exactly: its ``detail``, which the linear code loses, is added back. The transformer's
change is decoded by the linear code alone, filtered, and added: taken from the surroundings where the carried picture
is unsure (``as_around``), smoothed over half a second (``slowly``), and cleared of steps between cells and of noise
(``without_steps``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.autoencoder.linear import GROUP, LinearAutoencoder, from_blocks
from motionstream.carry.filling import surroundings

KEPT = 0.005
"""Weight of an unsure cell relative to a sure one in the average over the surroundings. It matters only where no cell
is sure: the average is then of the unsure ones."""
SLOW = 12.0
"""Time constant, in frames, of the exponential smoothing of the transformer's change."""
NOISE = 4 / 127.5
"""The transformer's change is shrunk towards zero by four levels of 255, about its noise, so that untouched pixels stay
as they are."""


@dataclass(frozen=True)
class CarriedPicture:
    """The carried picture of some latent frames, as decoding needs it: its latents ``around`` (B, C, F, h, w);
    ``unsure`` (B, 1, F, h, w), 1 where it may be far off, else 0; ``detail`` (B, V, F, h, w), blocks of pixels, its
    residual after the linear code, None if nothing will be decoded."""

    around: Tensor
    unsure: Tensor
    detail: Tensor | None = None

    def frames(self, start: int, stop: int) -> CarriedPicture:
        """Select latent frames ``start`` … ``stop`` − 1."""
        detail = None if self.detail is None else self.detail[:, :, start:stop]
        return CarriedPicture(self.around[:, :, start:stop], self.unsure[:, :, start:stop], detail)


class ShownState(NamedTuple):
    """The transformer's change of the last frame, smoothed over time: (B, 3, H, W)."""

    added: Tensor


def decode_carried(autoencoder: LinearAutoencoder, picture: CarriedPicture) -> Tensor:
    """The carried picture itself, exactly: (B, 3, 4F, p h, p w) in [−1, 1]."""
    assert picture.detail is not None
    return from_blocks(autoencoder.decode_linear(picture.around) + picture.detail).clamp(-1, 1)


def decode_around(
    autoencoder: LinearAutoencoder, latents: Tensor, picture: CarriedPicture, state: ShownState | None
) -> tuple[Tensor, ShownState]:
    """Generated latents (B, C, F, h, w) → video (B, 3, T, p h, p w) in [−1, 1], and the state for the next chunk.

    Without a state the latents begin the stream and T = 4F − 3; with one, T = 4F.
    """
    assert picture.detail is not None
    carried = autoencoder.decode_linear(picture.around)
    added = as_around(from_blocks(autoencoder.decode_linear(latents) - carried), picture.unsure)
    added = slowly(added, None if state is None else state.added)
    video = (from_blocks(carried + picture.detail) + without_steps(added, autoencoder.config.patch)).clamp(-1, 1)
    return (video if state is not None else video[:, :, GROUP - 1 :]), ShownState(added[:, :, -1])


def as_around(added: Tensor, unsure: Tensor) -> Tensor:
    """Replace the change (B, 3, T, H, W) in ``unsure`` cells (B, 1, F, h, w), 0 or 1, and their neighbours by that of
    their surroundings: light and weather affect all alike, but a small network's guess at a passing thing, or at the
    ground behind it, is a stain."""
    near = F.max_pool3d(unsure, (1, 3, 3), stride=1, padding=(0, 1, 1)).repeat_interleave(GROUP, dim=2)
    frames, near = added.transpose(1, 2).flatten(0, 1), near.transpose(1, 2).flatten(0, 1)
    around = surroundings(F.avg_pool2d(frames, frames.shape[-1] // near.shape[-1]), (1 - KEPT) * near)
    size = added.shape[-2:]
    around, near = (F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in (around, near))
    return torch.lerp(frames, around, near).unflatten(0, (added.shape[0], -1)).transpose(1, 2)


def slowly(added: Tensor, before: Tensor | None) -> Tensor:
    """Smooth the change (B, 3, T, H, W) exponentially over time, starting from ``before`` (B, 3, H, W) or zero. Each
    chunk is generated anew, so light would otherwise flicker from chunk to chunk."""
    frames = torch.arange(added.shape[2], device=added.device)
    kept = (1 - 1 / SLOW) ** (frames[:, None] - frames).clamp(min=0)
    out = torch.einsum("ts,bcshw->bcthw", kept.tril() / SLOW, added)
    return out if before is None else out + ((1 - 1 / SLOW) ** (frames + 1))[:, None, None] * before[:, :, None]


def without_steps(added: Tensor, cell: int) -> Tensor:
    """Average a change (B, 3, T, H, W) over squares one pixel wider than a ``cell``, given in pixels, which turns steps
    between cells into ramps, and shrink it towards zero by ``NOISE``."""
    down, across = (_near(size, cell // 2, added.device) for size in added.shape[-2:])
    return F.softshrink(down @ (added @ across.T), NOISE)  # matrix products take a third of a pooling's time


def _near(size: int, reach: int, device: torch.device) -> Tensor:
    """The matrix (size, size) of a moving average over ``reach`` to either side."""
    place = torch.arange(size, device=device)
    near = ((place[:, None] - place).abs() <= reach).float()
    return near / near.sum(dim=1, keepdim=True)
