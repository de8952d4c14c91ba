"""A thing that has been moved: where it is in the frames that show it, and what is behind it.

A thing that is let go stays where it was left. When grasped there again, it is carried from the picture it was first
cut out of rather than from the frame it was left in, so neither the thing nor the ground it covered loses sharpness,
however often it is moved. Axes: N tracks or places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from motionstream.carry.attached import NOWHERE, holding
from motionstream.carry.relations import grid_places, with_rims
from motionstream.carry.thing_motion import Anchors, source_places
from motionstream.tracks import Tracks

GRASP_GAP_PX = 12.0
"""Largest distance in pixels between neighbouring tracks of one grasp."""
MASK_RIM_PX = 2
"""Width of the rim around a thing's mask in which a frame still shows some of it."""


@dataclass(frozen=True, eq=False)
class Moved:
    """A thing in a frame.

    ``mask`` (H, W) in the picture of this ``key``; ids of its ``tracks``, their ``start`` (N, 2) in that picture and
    their positions ``now`` (N, 2) in the frame; ``shown`` (H, W), its mask in the frame; the picture ``behind`` it
    in each size, (3, H, W) and multiples, if known; and its ``anchors`` (A, 2), which rest.
    """

    key: int
    mask: Tensor
    tracks: Sequence[int]
    start: np.ndarray
    now: np.ndarray
    shown: Tensor
    behind: Sequence[Tensor] | None
    anchors: np.ndarray

    @classmethod
    def found(
        cls,
        key: int,
        mask: Tensor,
        tracks: Sequence[int],
        start: np.ndarray,
        now: np.ndarray,
        behind: Sequence[Tensor] | None,
        anchors: np.ndarray = NOWHERE,
    ) -> Moved:
        """A thing whose ``shown`` is the mask moved with its tracks."""
        thing = cls(key, mask, tracks, start, now, mask, behind, anchors)
        places = grid_places((mask.shape[0], mask.shape[1]), 1, mask.device)
        return replace(thing, shown=_at(mask, thing._origin(places)).view_as(mask))

    def below(self, other: Moved) -> Moved:
        """The same, partly covered by another thing."""
        return replace(self, shown=self.shown * (1 - other.shown))

    def at_the_beginning(self, tracks: Tracks) -> Moved:
        """The same with its tracks at their positions in the first of these frames; tracks not visible there are
        dropped, unless none is."""
        row = {track: row for row, track in enumerate(tracks.ids.tolist()) if tracks.visible[0, row]}
        kept = [k for k, track in enumerate(self.tracks) if track in row]
        if not kept:
            return self
        known = [self.tracks[k] for k in kept]
        return replace(
            self, tracks=known, start=self.start[kept], now=tracks.positions[0, [row[track] for track in known]]
        )

    def origin(self, places: np.ndarray) -> np.ndarray:
        """Map places (N, 2) in the frame to the thing's own picture."""
        return self._origin(torch.from_numpy(places).to(self.mask.device)).cpu().numpy()

    def holds(self, places: np.ndarray) -> np.ndarray:
        """Whether the places (N, 2) are on it, (N,): inside its mask, or outside of the picture but close to one of its
        tracks."""
        on_it = _at(self.mask, torch.from_numpy(self.origin(places)).to(self.mask.device)).cpu().numpy() > 0
        outside = ((places < -0.5) | (places > np.array(self.mask.shape[::-1]) - 0.5)).any(axis=-1)
        apart = np.linalg.norm(places[:, None] - self.now, axis=-1).min(axis=1, initial=np.inf)
        return np.asarray(on_it | (outside & (apart < GRASP_GAP_PX)))

    def _origin(self, places: Tensor) -> Tensor:
        start, now = (torch.from_numpy(x).to(places.device)[None] for x in (self.start, self.now))
        on_it = torch.ones(1, 1, len(self.now), dtype=torch.bool, device=places.device)
        rest = torch.from_numpy(holding(self.anchors, self.start)).to(start)[None]
        hold = torch.ones(1, 1, rest.shape[1], dtype=torch.bool, device=places.device)
        anchors = Anchors(rest, rest[None], hold) if len(self.anchors) else None
        return source_places(places, now[None], start, on_it, anchors)[0, 0]


def whose(things: Sequence[Moved], places: np.ndarray) -> list[np.ndarray]:
    """For each thing, the rows of the places (N, 2) that grasp it. A place on two things grasps the later one. If at
    least half of a grasp (places close together) is on things, its other places go with the nearest of those."""
    owner = np.full(len(places), -1)
    for number, thing in enumerate(things):
        owner[thing.holds(places)] = number
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    count, label = connected_components(apart < GRASP_GAP_PX, directed=False)
    for grasp in [label == one for one in range(count)]:
        loose, on = grasp & (owner < 0), grasp & (owner >= 0)
        if on.sum() < loose.sum():
            owner[grasp] = -1
        elif loose.any():
            owner[loose] = owner[on][apart[np.ix_(loose, on)].argmin(axis=1)]
    return [np.flatnonzero(owner == number) for number in range(len(things))]


def uncovered(sizes: Sequence[Tensor], shown: Tensor, behind: Sequence[Tensor]) -> list[Tensor]:
    """Replace a thing that is ``shown`` (H, W) in a picture by the pictures ``behind`` it; both given in the same
    sizes, (3, H, W) and multiples."""
    hidden = with_rims(shown[None], MASK_RIM_PX)[None]
    larger = [F.interpolate(hidden, size=picture.shape[-2:], mode="nearest")[0] > 0 for picture in sizes]
    return [torch.where(*each) for each in zip(larger, behind, sizes, strict=True)]


def _at(mask: Tensor, places: Tensor) -> Tensor:
    """Values (N,) of a mask (H, W) at places (N, 2), 0 outside."""
    height, width = mask.shape
    x, y = places.round().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, mask[y.clamp(0, height - 1), x.clamp(0, width - 1)], 0.0)
