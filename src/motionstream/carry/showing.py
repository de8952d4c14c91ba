"""Decodes latents that were generated around a carried picture.

The carried picture is decoded exactly: its ``detail``, which the linear code loses, is added back. Of what the
transformer changed, the light is shown: the one map of colours that most of a frame has in common (``even_light``),
applied pixel by pixel and smoothed over half a second, so that it comes slowly and does not flicker. Darkness and fog
are nothing else. What such a map leaves of a small transformer's answer are mistakes of whole cells (docs/log.md).
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
    ``detail`` (B, V, F, h, w), blocks of pixels, its residual after the linear code, None if nothing will be decoded.
    """

    around: Tensor
    detail: Tensor | None = None

    def frames(self, start: int, stop: int) -> CarriedPicture:
        """Select latent frames ``start`` … ``stop`` − 1."""
        detail = None if self.detail is None else self.detail[:, :, start:stop]
        return CarriedPicture(self.around[:, :, start:stop], detail)


class ShownState(NamedTuple):
    """The last frame's light, smoothed over time: a map of colours (B, 4, 3)."""

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
    light = even_light(from_blocks(autoencoder.decode_linear(latents) - decoded), carried, autoencoder.config.patch)
    light = slowly(light, None if state is None else state.light)
    video = (carried + without_noise(lit(carried, light))).clamp(-1, 1)
    return (video if state is not None else video[:, :, GROUP - 1 :]), ShownState(light[:, -1])


def even_light(added: Tensor, carried: Tensor, cell: int = 8) -> Tensor:
    """The linear map of colours that is nearest to the change ``added`` of the picture ``carried``, both (B, 3, T, H,
    W), frame by frame: (B, T, 4, 3), the last row constant.

    Fitted to averages of ``cell``² pixels by reweighted least squares, which finds what most of the picture has in
    common: a thing in a new colour does not count.
    """
    seen, change = (F.avg_pool3d(x, (1, cell, cell)).flatten(3).permute(0, 2, 3, 1) for x in (carried, added))
    seen = F.pad(seen, (0, 1), value=1.0)
    ridge = torch.diag(seen.new_tensor([RIDGE, RIDGE, RIDGE, 1e-6]))
    weight = torch.ones_like(seen[..., :1])
    for _ in range(ROUNDS):
        weighted = (seen * (weight / weight.mean(dim=2, keepdim=True))).transpose(2, 3) / seen.shape[2]
        light = torch.linalg.solve(weighted @ seen + ridge, weighted @ change)
        weight = 1 / ((change - seen @ light).square().sum(dim=-1, keepdim=True) + OUTLIER**2)
    return light


def lit(carried: Tensor, light: Tensor) -> Tensor:
    """What a map of colours (B, T, 4, 3) adds to the picture (B, 3, T, H, W)."""
    return torch.einsum("bthi,bhtyx->bityx", light[:, :, :3], carried) + light[:, :, 3].transpose(1, 2)[..., None, None]


def slowly(light: Tensor, before: Tensor | None) -> Tensor:
    """Smooth the light (B, T, 4, 3) exponentially over time, starting from ``before`` (B, 4, 3) or from none. Each
    chunk is generated anew, so light would otherwise flicker from chunk to chunk."""
    time = torch.arange(light.shape[1], device=light.device)
    kept = (1 - 1 / SLOW) ** (time[:, None] - time).clamp(min=0)
    out = torch.einsum("ts,bsij->btij", kept.tril() / SLOW, light)
    return out if before is None else out + ((1 - 1 / SLOW) ** (time + 1))[:, None, None] * before[:, None]


def without_noise(added: Tensor) -> Tensor:
    """Changes below ``NOISE`` become zero, larger ones lose the less the larger they are (the garrote)."""
    return torch.where(added.abs() > NOISE, added - NOISE**2 / added, 0)
