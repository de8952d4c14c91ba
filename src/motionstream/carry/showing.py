"""Decodes latents that were generated around a carried picture.

The carried picture is decoded exactly: its ``detail``, which the linear code loses, is added back. Of what the
transformer changed, the light is shown: the one map of colours that most of a frame has in common, and another one for
the things that tracks hold or have held, applied pixel by pixel and smoothed over half a second, so that it comes
slowly and does not flicker. Darkness, fog and a thing's new colour are nothing else. What such maps leave of a small
transformer's answer are mistakes of whole cells (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.autoencoder.linear import GROUP, LinearAutoencoder, from_blocks

SLOW = 12.0
"""Time constant, in frames, of the exponential smoothing of the light."""
NOISE = 4 / 127.5
"""Changes below four levels of 255 are not shown, so that untouched pixels stay as they
are; larger ones are reduced, the less the larger."""
ROUNDS = 8
"""Of reweighted least squares for the even light."""
OUTLIER = 0.15
"""Deviation from the even light from which on a cell counts less."""
RIDGE = 0.01
"""Keeps the map small where a picture has few colours."""


@dataclass(frozen=True)
class CarriedPicture:
    """The carried picture of some latent frames, as decoding needs it: its latents ``around`` (B, C, F, h, w);
    ``detail`` (B, V, F, h, w), blocks of pixels, its residual after the linear code, None if nothing will be decoded;
    ``held`` (B, V / 3, F, h, w), blocks of how much of each pixel is a thing that tracks hold or have held, None for
    nothing.
    """

    around: Tensor
    detail: Tensor | None = None
    held: Tensor | None = None

    def frames(self, start: int, stop: int) -> CarriedPicture:
        """Select latent frames ``start`` … ``stop`` − 1."""
        detail, held = (None if x is None else x[:, :, start:stop] for x in (self.detail, self.held))
        return CarriedPicture(self.around[:, :, start:stop], detail, held)


class ShownState(NamedTuple):
    """The last frame's ``lights``, smoothed over time: (B, 2, 4, 3)."""

    light: Tensor


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
    decoded = autoencoder.decode_linear(picture.around)
    carried = from_blocks(decoded + picture.detail)
    held = None if picture.held is None else from_blocks(picture.held, channels=1)
    added = from_blocks(autoencoder.decode_linear(latents) - decoded)
    light = slowly(lights(added, carried, held, autoencoder.config.patch), None if state is None else state.light)
    video = (carried + without_noise(lit(carried, light, held))).clamp(-1, 1)
    return (video if state is not None else video[:, :, GROUP - 1 :]), ShownState(light[:, -1])


def lights(added: Tensor, carried: Tensor, held: Tensor | None, cell: int = 8, ridge: float = RIDGE) -> Tensor:
    """The linear maps of colours that are nearest to the change ``added`` of the picture ``carried``, both (B, 3, T, H,
    W), frame by frame: (B, T, 2, 4, 3), that of the whole frame and what is to be added to it where things are ``held``
    (B, 1, T, H, W). Each map's last row is constant.

    ``cell``: fitted to averages of so many pixels, squared. ``ridge``: penalty on all but the last row, relative to the
    variance of a colour; 0 for what is such a map already.
    """
    everything = torch.ones_like(carried[:, :1])
    whole = even_light(added, carried, everything if held is None else everything - held, cell, ridge)
    if held is None or not held.any():
        return torch.stack([whole, torch.zeros_like(whole)], dim=2)
    own = even_light(added - under(carried, whole), carried, held, cell, ridge)
    return torch.stack([whole, own], dim=2)


def even_light(added: Tensor, carried: Tensor, share: Tensor, cell: int, ridge: float) -> Tensor:
    """The map of colours (B, T, 4, 3) of a ``share`` (B, 1, T, H, W) of each pixel, see ``lights``.

    Reweighted least squares find what most of the cells have in common: mistakes in some do not count.
    """
    seen, change = (
        F.avg_pool3d(x, (1, cell, cell)).flatten(3).permute(0, 2, 3, 1)
        for x in (torch.cat([share * carried, share], dim=1), added)
    )
    some = seen[..., 3:].square().mean(dim=2, keepdim=True)
    penalty = some * torch.diag(seen.new_tensor([ridge, ridge, ridge, 0.0])) + 1e-6 * torch.eye(4, device=seen.device)
    weight = torch.ones_like(seen[..., :1])
    for _ in range(ROUNDS):
        weighted = (seen * (weight / weight.mean(dim=2, keepdim=True))).transpose(2, 3) / seen.shape[2]
        light = torch.linalg.solve(weighted @ seen + penalty, weighted @ change)
        weight = 1 / ((change - seen @ light).square().sum(dim=-1, keepdim=True) + OUTLIER**2)
    return light


def lit(carried: Tensor, light: Tensor, held: Tensor | None) -> Tensor:
    """What ``lights`` (B, T, 2, 4, 3) add to the picture (B, 3, T, H, W), of which some is ``held`` (B, 1, T, H, W)."""
    added = under(carried, light[:, :, 0])
    return added if held is None or not held.any() else added + held * under(carried, light[:, :, 1])


def under(carried: Tensor, light: Tensor) -> Tensor:
    """What one map of colours (B, T, 4, 3) adds to the picture (B, 3, T, H, W)."""
    return torch.einsum("bthi,bhtyx->bityx", light[:, :, :3], carried) + light[:, :, 3].transpose(1, 2)[..., None, None]


def slowly(light: Tensor, before: Tensor | None) -> Tensor:
    """Smooth the ``lights`` (B, T, 2, 4, 3) exponentially over time, starting from ``before`` (B, 2, 4, 3) or from
    none. Each chunk is generated anew, so light would otherwise flicker from chunk to chunk."""
    time = torch.arange(light.shape[1], device=light.device)
    kept = (1 - 1 / SLOW) ** (time[:, None] - time).clamp(min=0)
    out = torch.einsum("ts,bskij->btkij", kept.tril() / SLOW, light)
    return out if before is None else out + ((1 - 1 / SLOW) ** (time + 1))[:, None, None, None] * before[:, None]


def without_noise(added: Tensor) -> Tensor:
    """Changes below ``NOISE`` become zero, larger ones lose the less the larger they are (the garrote)."""
    return torch.where(added.abs() > NOISE, added - NOISE**2 / added, 0)
