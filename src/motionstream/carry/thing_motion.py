"""The motion of a whole thing from the tracks on it: one smooth field, so that it does not tear between tracks.

At every place a similarity (rotation, scale and shift) is fitted to the thing's tracks, nearer ones weighing more
(moving least squares, Schaefer et al. 2006). The residuals of single tracks are spread around them. So the field
follows its tracks exactly, bends where they do, and continues as a similarity beyond the outermost.
Legend: B batch, T frames, N tracks, G places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FIELD_WIDTH_PX = 16.0
"""Standard deviation in pixels of the tracks' Gaussian weight around a place."""
FAR_WEIGHT = 0.02
"""Weight added to all of the thing's tracks, however far."""
ANCHOR_WIDTH_PX = 12.0
"""Standard deviation of an anchor's weight, with nothing added: far ones would turn what sticks out, such as a beak."""
STIFFNESS_PX2 = 1.0
"""Regularization towards no rotation and scale 1, as squared pixels of the tracks' spread."""
RESIDUAL_WIDTH_PX = 3.0
"""Distance in pixels at which the weight of a track's residual has fallen to a quarter."""


@dataclass(frozen=True)
class Anchors:
    """Places of a thing that rest: where they were ``then`` (B, A, 2), where they are ``now`` (B, T, A, 2), and which
    ``hold`` (B, T, A)."""

    then: Tensor
    now: Tensor
    hold: Tensor


def source_places(places: Tensor, now: Tensor, then: Tensor, on_it: Tensor, anchors: Anchors | None = None) -> Tensor:
    """Map ``places`` on the moved thing back to its source picture.

    Args:
        places: (G, 2) pixels. now: (B, T, N, 2) the tracks' positions. then: (B, N, 2) where they began. on_it: bool
            (B, T, N), visible and on this thing. anchors: these places rest, and the thing bends in between without
            changing its scale.

    Returns:
        (B, T, G, 2); the places themselves in frames where no track is on it.
    """
    count = on_it.sum(dim=-1).clamp(min=1)[..., None, None]
    middle_now = (now * on_it[..., None]).sum(dim=2, keepdim=True) / count
    then = then[:, None].expand_as(now)
    scale = None
    if anchors is not None:
        scale = _scale(now, then, on_it) * anchors.hold.any(dim=-1)[..., None, None]
        then = torch.cat([then, anchors.then[:, None].expand_as(anchors.now)], dim=2)
        now, on_it = torch.cat([now, anchors.now], dim=2), torch.cat([on_it, anchors.hold], dim=2)
    middle_then = (then * on_it[..., None]).sum(dim=2, keepdim=True) / count
    now, then, places = now - middle_now, then - middle_then, places - middle_now  # (B, T, G, 2) from here on
    told = on_it[..., None].float()
    moments = torch.cat([told, now, then, _square(now), _product(now, then)], dim=-1) * told
    apart, tracks = squares(places, now), on_it.shape[2] - (0 if anchors is None else anchors.hold.shape[2])
    there = _fitted(places, _weights(apart, tracks) @ moments, scale)
    # the fit's residual at the tracks themselves
    left = (then - _fitted(now, _weights(squares(now, now), tracks) @ moments, scale)) * told
    own = (apart / RESIDUAL_WIDTH_PX**2 + 1).square_().reciprocal_()
    spread = own @ torch.cat([left, told], dim=-1)
    return middle_then + there + spread[..., :2] / (spread[..., 2:] + 1e-3)


def squares(places: Tensor, where: Tensor, more: Tensor | None = None) -> Tensor:
    """Squared distances (B, T, G, N) of places, (G, 2) or (B, T, G, 2), from points (B, T, N, 2), plus ``more``
    (B, T, N). One matrix product, |p|² − 2 p·w + |w|², so that large tensors are read once."""
    middle = places.mean(dim=-2, keepdim=True)  # smaller numbers, smaller rounding errors
    places, where = places - middle, where - middle
    length = _square(where) if more is None else _square(where) + more[..., None]
    here = torch.cat([places, _square(places), torch.ones_like(places[..., :1])], dim=-1)
    there = torch.cat([-2 * where, torch.ones_like(length), length], dim=-1)
    return here @ there.mT


def _weights(square: Tensor, tracks: int) -> Tensor:
    """Weights of so many tracks, then anchors, at squared distances (…, N)."""
    weights = [(square[..., :tracks] / (-2 * FIELD_WIDTH_PX**2)).exp_().add_(FAR_WEIGHT)]
    if tracks < square.shape[-1]:
        weights.append((square[..., tracks:] / (-2 * ANCHOR_WIDTH_PX**2)).exp_())
    return torch.cat(weights, dim=-1) if len(weights) > 1 else weights[0]


def _scale(now: Tensor, then: Tensor, on_it: Tensor) -> Tensor:
    """The scale (B, T, 1, 1) from ``now`` to ``then``, both (B, T, N, 2), of the one similarity that fits the tracks
    ``on_it`` best."""
    told = on_it[..., None].float()
    moments = torch.cat([told, now, then, _square(now), _product(now, then)], dim=-1) * told
    return torch.linalg.vector_norm(_factor(moments.sum(dim=2, keepdim=True))[0], dim=-1, keepdim=True)


def _fitted(places: Tensor, moments: Tensor, scale: Tensor | None) -> Tensor:
    """Apply to places (…, 2) the least-squares similarities given by weighted ``moments`` (…, 8), with this ``scale``
    where it is above 0."""
    factor, now, then = _factor(moments)
    if scale is not None:
        own = torch.linalg.vector_norm(factor, dim=-1, keepdim=True).clamp(min=1e-6)
        factor = torch.where(scale > 0, factor * scale / own, factor)
    real, imaginary = factor.split(1, dim=-1)
    x, y = (places - now).split(1, dim=-1)
    return then + torch.cat([real * x - imaginary * y, real * y + imaginary * x], dim=-1)


def _factor(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The complex factor (…, 2) of the least-squares similarity, and the middles now and then (…, 2)."""
    moments = moments / moments[..., :1].clamp(min=1e-6)
    now, then = moments[..., 1:3], moments[..., 3:5]
    spread = (moments[..., 5:6] - _square(now)).clamp(min=0)
    together = moments[..., 6:] - _product(now, then)
    real, imaginary = together.split(1, dim=-1)
    real, imaginary = (
        (real + STIFFNESS_PX2) / (spread + STIFFNESS_PX2),
        imaginary / (spread + STIFFNESS_PX2),
    )
    return torch.cat([real, imaginary], dim=-1), now, then


def _square(x: Tensor) -> Tensor:
    return x.square().sum(dim=-1, keepdim=True)


def _product(now: Tensor, then: Tensor) -> Tensor:
    """conj(now) · then as complex numbers: real and imaginary part, (…, 2)."""
    real = (now * then).sum(dim=-1)
    return torch.stack([real, now[..., 0] * then[..., 1] - now[..., 1] * then[..., 0]], dim=-1)
