"""How latents that were generated around a carried picture become frames.

The carried picture itself is decoded exactly: what the linear code has lost of it, its ``detail``, is put back. To it
is added what the transformer changed, decoded by the linear code alone and then made fit to look at: spread smoothly
over places where the carried picture is a guess (``as_around``), brought in over half a second (``slowly``), and
without the steps between cells and what is no more than noise (``without_steps``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.autoencoder.linear import GROUP, PATCH, LinearAutoencoder, from_blocks
from motionstream.carry.filling import surroundings

KEPT = 0.005
"""Weight of an unsure cell against a sure one in the average that unsure cells are given. Where all are unsure it has
no effect."""
SLOW = 12.0
"""Time constant, in frames, of the exponential smoothing of what the transformer adds."""
NOISE = 4 / 127.5
"""What the transformer adds is drawn towards zero by four levels of 255: so much of it is noise, and what nobody
touches stays as it is."""


@dataclass(frozen=True)
class CarriedPicture:
    """The carried picture of some latent frames, as decoding needs it: its latents ``around`` (B, C, F, h, w);
    ``unsure`` (B, 1, F, h, w), 1 where it may be far off; what the linear code has lost of it, ``detail``, blocks
    (B, 768, F, h, w), None where nothing will be decoded."""

    around: Tensor
    unsure: Tensor
    detail: Tensor | None = None

    def frames(self, start: int, stop: int) -> CarriedPicture:
        """Of latent frames ``start`` … ``stop`` − 1."""
        detail = None if self.detail is None else self.detail[:, :, start:stop]
        return CarriedPicture(self.around[:, :, start:stop], self.unsure[:, :, start:stop], detail)


class ShownState(NamedTuple):
    """What the transformer had added to the last frame, smoothed over time: (B, 3, H, W)."""

    added: Tensor


def decode_carried(autoencoder: LinearAutoencoder, picture: CarriedPicture) -> Tensor:
    """The carried picture itself, exactly: (B, 3, 4F, 8h, 8w) in [−1, 1]."""
    assert picture.detail is not None
    return from_blocks(autoencoder.decode_linear(picture.around) + picture.detail).clamp(-1, 1)


def decode_around(
    autoencoder: LinearAutoencoder, latents: Tensor, picture: CarriedPicture, state: ShownState | None
) -> tuple[Tensor, ShownState]:
    """Generated latents (B, C, F, h, w) → video (B, 3, T, 8h, 8w) in [−1, 1], and the state for the next chunk.

    Without a state they begin the stream: T = 4F − 3; with one T = 4F.
    """
    assert picture.detail is not None
    carried = autoencoder.decode_linear(picture.around)
    added = as_around(from_blocks(autoencoder.decode_linear(latents) - carried), picture.unsure)
    added = slowly(added, None if state is None else state.added)
    video = (from_blocks(carried + picture.detail) + without_steps(added)).clamp(-1, 1)
    return (video if state is not None else video[:, :, GROUP - 1 :]), ShownState(added[:, :, -1])


def as_around(added: Tensor, unsure: Tensor) -> Tensor:
    """What was added (B, 3, T, H, W), smoothly going on over the cells (B, 1, F, h, w) where it is ``unsure``, 0 or 1,
    and those next to them: light and weather fall on all alike, and what a network guesses of a thing that goes by, or
    of the ground behind it, is a stain."""
    near = F.max_pool3d(unsure, (1, 3, 3), stride=1, padding=(0, 1, 1)).repeat_interleave(GROUP, dim=2)
    frames, near = added.transpose(1, 2).flatten(0, 1), near.transpose(1, 2).flatten(0, 1)
    around = surroundings(F.avg_pool2d(frames, PATCH), (1 - KEPT) * near)
    size = added.shape[-2:]
    around, near = (F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in (around, near))
    return torch.lerp(frames, around, near).unflatten(0, (added.shape[0], -1)).transpose(1, 2)


def slowly(added: Tensor, before: Tensor | None) -> Tensor:
    """What was added (B, 3, T, H, W), each frame on from the one before it; from ``before`` (B, 3, H, W), or nothing.
    A network that answers chunk by chunk begins each anew, and light would flicker with the chunks."""
    frames = torch.arange(added.shape[2], device=added.device)
    kept = (1 - 1 / SLOW) ** (frames[:, None] - frames).clamp(min=0)
    out = torch.einsum("ts,bcshw->bcthw", kept.tril() / SLOW, added)
    return out if before is None else out + ((1 - 1 / SLOW) ** (frames + 1))[:, None, None] * before[:, :, None]


def without_steps(added: Tensor) -> Tensor:
    """Something that was found cell by cell (B, 3, T, H, W), with steps where two cells meet, averaged over squares as
    wide as a cell and a pixel: ramps. And less by ``NOISE``, towards zero."""
    down, across = (_near(size, PATCH // 2, added.device) for size in added.shape[-2:])
    return F.softshrink(down @ (added @ across.T), NOISE)  # (in a third of a pooling's time)


def _near(size: int, reach: int, device: torch.device) -> Tensor:
    """The matrix (size, size) that takes numbers to the means of those within ``reach``."""
    place = torch.arange(size, device=device)
    near = ((place[:, None] - place).abs() <= reach).float()
    return near / near.sum(dim=1, keepdim=True)
