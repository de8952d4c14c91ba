"""What becomes of a thing that has been moved: where it is in the frames that show it, and what is behind it.

A thing that is let go stays in the frame where it was left. Whoever takes hold of it there gets the thing that was cut
out of the picture it first was in, not of that frame: however often it is taken up anew, it is as sharp as it was, and
so is the ground that it has covered. Axes: N tracks or places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from motionstream.carry.relations import grid_places, with_rims
from motionstream.carry.thing_motion import source_places
from motionstream.tracks import Tracks

GRASP_GAP_PX = 12.0
"""Pixels from one track to the next of a grasp."""
MASK_RIM_PX = 2
"""Pixels around a thing in which a frame shows some of it."""


@dataclass(frozen=True, eq=False)
class Moved:
    """A thing in a frame: its ``mask`` (H, W) in the picture of this ``key``; its ``tracks``, by id, which began there
    at ``start`` (N, 2) and are ``now`` (N, 2) in the frame; where the frame has ``shown`` (H, W) it, and of each size
    the picture ``behind`` it, (3, H, W) and multiples of it, where that is known."""

    key: int
    mask: Tensor
    tracks: Sequence[int]
    start: np.ndarray
    now: np.ndarray
    shown: Tensor
    behind: Sequence[Tensor] | None

    @classmethod
    def found(
        cls,
        key: int,
        mask: Tensor,
        tracks: Sequence[int],
        start: np.ndarray,
        now: np.ndarray,
        behind: Sequence[Tensor] | None,
    ) -> Moved:
        """The same, shown where its tracks are now."""
        thing = cls(key, mask, tracks, start, now, mask, behind)
        places = grid_places((mask.shape[0], mask.shape[1]), 1, mask.device)
        return replace(thing, shown=_at(mask, thing._origin(places)).view_as(mask))

    def below(self, other: Moved) -> Moved:
        """With another one upon it."""
        return replace(self, shown=self.shown * (1 - other.shown))

    def at_the_beginning(self, tracks: Tracks) -> Moved:
        """With its tracks where they are in the first of these frames, as far as they are seen there."""
        row = {track: row for row, track in enumerate(tracks.ids.tolist()) if tracks.visible[0, row]}
        kept = [k for k, track in enumerate(self.tracks) if track in row]
        if not kept:
            return self
        known = [self.tracks[k] for k in kept]
        return replace(
            self, tracks=known, start=self.start[kept], now=tracks.positions[0, [row[track] for track in known]]
        )

    def origin(self, places: np.ndarray) -> np.ndarray:
        """Where in its own picture that is which the frame has at the places (N, 2)."""
        return self._origin(torch.from_numpy(places).to(self.mask.device)).cpu().numpy()

    def holds(self, places: np.ndarray) -> np.ndarray:
        """Whether the places (N, 2) are on it, (N,). Its own picture may show what is out of the frame now; where that
        shows nothing either, what is next to one of its tracks is."""
        on_it = _at(self.mask, torch.from_numpy(self.origin(places)).to(self.mask.device)).cpu().numpy() > 0
        outside = ((places < -0.5) | (places > np.array(self.mask.shape[::-1]) - 0.5)).any(axis=-1)
        apart = np.linalg.norm(places[:, None] - self.now, axis=-1).min(axis=1, initial=np.inf)
        return np.asarray(on_it | (outside & (apart < GRASP_GAP_PX)))

    def _origin(self, places: Tensor) -> Tensor:
        start, now = (torch.from_numpy(x).to(places.device)[None] for x in (self.start, self.now))
        on_it = torch.ones(1, 1, len(self.now), dtype=torch.bool, device=places.device)
        return source_places(places, now[None], start, on_it)[0, 0]


def whose(things: Sequence[Moved], places: np.ndarray) -> list[np.ndarray]:
    """Of each thing the rows of the places (N, 2) that take hold of it: those on it, on the later of two, and those on
    none that belong to the same grasp, if most of that is on things."""
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
    """A picture in several sizes, (3, H, W) and multiples of it, without a thing that is ``shown`` (H, W) in it:
    ``behind`` that is what these have."""
    hidden = with_rims(shown[None], MASK_RIM_PX)[None]
    larger = [F.interpolate(hidden, size=picture.shape[-2:], mode="nearest")[0] > 0 for picture in sizes]
    return [torch.where(*each) for each in zip(larger, behind, sizes, strict=True)]


def _at(mask: Tensor, places: Tensor) -> Tensor:
    """A mask (H, W) at places (N, 2), none outside: (N,)."""
    height, width = mask.shape
    x, y = places.round().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, mask[y.clamp(0, height - 1), x.clamp(0, width - 1)], 0.0)
