"""Fills the area behind a thing with texture from elsewhere in the picture, as a healing brush does.

The picture is laid over itself, shifted so that it agrees best around the hole. The content there is copied, and its
difference at the rim is subtracted smoothly. This gives texture where a smooth filling would be a blur. The copy may
contain a thing of its own, though, such as a second head in the water: the farther it is from the smooth filling,
relative to the picture's own distance from such a filling around the hole, the less of it is used.
Axes: S shifts, R pixels of the rim, P pixels of the hole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.carry.filling import surroundings
from motionstream.tracks.masks import grown

GROWN = 1
"""Pixels by which a mask is dilated before its content is removed."""
RIM_PX = 3
"""Width of the rim around a hole at which a shifted picture is compared, in pixels at half the model's size."""
MAX_SHIFT_PX, SHIFT_STEP_PX = 32, 2
"""Largest shift along each axis and step of the coarse search, in the same pixels."""
THIN = 4
"""The coarse search compares every fourth pixel."""
AGREE, COVERS = 0.8, 0.3
"""Smallest shares of the rim and of the hole that a shifted picture must cover."""
SHIFTS = 6
"""A hole that no single shift covers is filled from at most this many; the rest is filled smoothly."""
BAND_PX = 4
"""Width in pixels, at the model's size, of the band around a hole in which a picture's usual distance from its smooth
filling is measured."""
LITTLE = 1e-4
"""Squared difference that is invisible."""


def heal(pictures: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """Remove what a mask (H, W), dilated by ``GROWN``, covers from a picture given in one or several sizes, (3, H, W)
    and multiples. Returned unchanged if nothing or more than half is covered."""
    whole = grown(mask.cpu().numpy() > 0.5, GROWN)
    hole = np.asarray(whole.reshape(whole.shape[0] // 2, 2, -1, 2).any(axis=(1, 3)))
    if not hole.any() or hole.mean() > 0.5:
        return list(pictures)
    # on integers, so that float rounding never decides which shift is best; 0.1 keeps means of four levels off a tie
    small = F.avg_pool2d(pictures[0].detach().float().cpu()[None], 2)[0]
    shifts = _shifts((small * 127.5 + 0.1).round().permute(1, 2, 0).numpy(), hole)
    healed = []
    for picture in pictures:
        scale = picture.shape[-1] // whole.shape[1]
        enlarged = whole.repeat(scale, axis=0).repeat(scale, axis=1)
        healed.append(_fill(picture.detach().float().cpu(), enlarged, 2 * scale * shifts, scale).to(picture))
    return healed


def _shifts(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Shifts (S, 2), y and x, at which a picture (h, w, 3) agrees best with itself around the hole, best first."""
    rim = np.argwhere(grown(hole, RIM_PX) & ~hole)
    inside = np.argwhere(hole)
    steps = np.arange(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1, SHIFT_STEP_PX)
    coarse = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    best = coarse[_disagreement(picture, hole, rim[::THIN], inside[::THIN], coarse).argsort(kind="stable")[:SHIFTS]]
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)
    finer = np.unique((best[:, None] + around).reshape(-1, 2), axis=0)
    error = _disagreement(picture, hole, rim, inside, finer)
    return finer[error.argsort(kind="stable")][: np.isfinite(error).sum()][:SHIFTS]


def _disagreement(
    picture: np.ndarray, hole: np.ndarray, rim: np.ndarray, inside: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Mean square difference at the rim, divided by the share of the hole that is covered (S,); infinite for shifts
    that cover too little."""
    known, covers = _known(hole, rim, shifts), _known(hole, inside, shifts).mean(axis=1)
    use = (known.mean(axis=1) >= AGREE) & (covers >= COVERS)
    error = np.full(len(shifts), np.inf)
    there = (rim + shifts[use, None]).clip(0, np.array(hole.shape) - 1)
    apart = np.square(picture[there[..., 0], there[..., 1]] - picture[rim[:, 0], rim[:, 1]]).sum(axis=-1)
    error[use] = (apart * known[use]).sum(axis=1) / known[use].sum(axis=1) / covers[use]
    return error


def _known(hole: np.ndarray, pixels: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Which of the pixels (P, 2) each shifted picture covers, (S, P): those neither in its hole nor past its border."""
    there, size = pixels + shifts[:, None], np.array(hole.shape)
    within = ((there >= 0) & (there < size)).all(axis=-1)
    there = there.clip(0, size - 1)
    return within & ~hole[there[..., 0], there[..., 1]]


def _fill(picture: Tensor, hole: np.ndarray, shifts: np.ndarray, scale: int) -> Tensor:
    """Fill the hole (H, W) of a picture (3, H, W) that is ``scale`` times the model's size."""
    smooth = surroundings(picture[None], _as_tensor(hole))[0]
    rim = _as_tensor(grown(hole, RIM_PX) & ~hole)
    usual = _usual_distance(picture, hole, scale)
    out, left = smooth.clone(), hole.copy()
    for y, x in shifts.tolist():
        shown = left.copy()
        shown[left] = _known(hole, np.argwhere(left), np.array([[y, x]]))[0]
        if not shown.any():
            continue
        moved = torch.roll(picture, (-y, -x), (1, 2))
        copied = moved + surroundings((picture - moved)[None], 1 - rim)[0] - smooth
        taken = torch.exp(-_squares(copied, scale) / usual)
        taken = F.interpolate(taken[None, None], size=hole.shape, mode="bilinear", align_corners=False)[0]
        out = torch.where(torch.from_numpy(shown), smooth + taken * copied, out)
        left &= ~shown
    return torch.where(torch.from_numpy(hole), out, picture)


def _usual_distance(picture: Tensor, hole: np.ndarray, scale: int) -> Tensor:
    """Mean square error of a smooth filling in the band around the hole."""
    wider = grown(hole, BAND_PX * scale)
    missed = picture - surroundings(picture[None], _as_tensor(wider))[0]
    share = F.avg_pool2d(_as_tensor(wider & ~hole), 2 * scale)[0, 0]
    return (share * _squares(missed, scale)).sum() / share.sum().clamp(min=1e-6) + LITTLE


def _squares(difference: Tensor, scale: int) -> Tensor:
    """Squared difference (3, H, W) without fine texture, (H', W'): averaged over 2×2 of the model's pixels, squared,
    then the maximum over 3×3 of these."""
    squares = F.avg_pool2d(difference, 2 * scale).square().sum(dim=0, keepdim=True)
    return F.max_pool2d(squares, 3, stride=1, padding=1)[0]


def _as_tensor(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask).float()[None, None]
