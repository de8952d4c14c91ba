"""Masks of the things under the tracks, cut out of the pictures in which the tracks began.

Tracks that move together (``grouping.py``) are taken to be on one thing. A graph cut (GrabCut) separates it from tracks
that rest or move differently, starting from several guesses, some drawn by a network (``outliner.py``). Masks can be
wrong, so the mixer combines them with its own features rather than obeying them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from motionstream.carry.attached import MOST_ANCHORS, attach
from motionstream.carry.grouping import MOVED, Moving, groups, misfit, others
from motionstream.carry.healing import heal
from motionstream.carry.moved import Moved, uncovered
from motionstream.carry.relations import CarrySource
from motionstream.pixels import to_bytes
from motionstream.tracks.masks import Draw, cut_out, grown

MOST_THINGS = 6
"""Most masks per stream; further things are separated by the mixer's features alone."""
CAMERA_EXTENT_SHARE = 0.4
"""If the bounding box of tracks that move together exceeds this share of the picture, the camera moves, unless tracks
beside the box rest: then a large thing is dragged, and pins hold what is to stay."""
CAMERA_CELLS, CAMERA_CELL_SHARE = 8, 0.5
"""The camera may also be moving if tracks move in at least this share of the cells of a grid this wide and high."""
STRAY, STRAY_SHARE = 0.05, 0.25
"""A track that came into a moving view belongs to it if its speed differs from that of the nearest ones by less than so
many pixels per frame plus this share of the view's speed."""
MISFIT_PX = 4.0
"""If tracks miss one similarity by more than this (RMS), they are on two things."""
GRASP_PX = 6.0
"""Radius of the disc around a track outside its thing's mask that is added to the mask, unless it is flat."""
FLAT_LEVELS = 6.0
"""Standard deviation, in levels of 255, up to which a patch is flat. Moving a piece of sky is invisible except at the
border of the piece."""

GROUND_BAND_PX, PLAIN, ALIKE_LEVELS = 3.0, 0.3, 12
"""Flat ground is removed from such a disc: width of the band around the disc in which it is sought, the share of the
band it must fill, and the largest difference of its colours."""


def mask_of(picture: Tensor, on: np.ndarray, off: np.ndarray, draw: Draw | None = None) -> Tensor:
    """Mask, float (H, W), 0 or 1, of the thing in a picture (3, H, W) in [−1, 1] with the points ``on`` (N, 2) on it
    and ``off`` (M, 2) off it. ``draw`` adds a guess. Points of ``on`` that the cut misses add a disc around them,
    unless it is flat, without the flat ground in it."""
    pixels = _pixels(picture)
    mask = cut_out(pixels, on, off, draw)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    beside = ~grown(mask, 1)
    plain = _plain(pixels) & beside
    for x, y in on[~_inside(torch.from_numpy(mask), on)]:
        distance = np.hypot(columns - x, rows - y)
        under = distance <= GRASP_PX
        patch = pixels[under & beside]
        if len(patch) and patch.std(axis=0).max() > FLAT_LEVELS:
            around = ~under & (distance <= GRASP_PX + GROUND_BAND_PX)
            mask |= under & ~_ground(pixels, under, around, plain)
    return torch.from_numpy(mask).float().to(picture.device)


def _pixels(picture: Tensor) -> np.ndarray:
    """A picture (3, H, W) in [−1, 1] as uint8 (H, W, 3)."""
    return np.ascontiguousarray(to_bytes(picture.detach()).permute(1, 2, 0).cpu().numpy())


def _plain(pixels: np.ndarray) -> np.ndarray:
    """Which pixels of uint8 (H, W, 3) lie in a flat 5×5 patch."""
    values = pixels.astype(np.float32)
    mean, squared = (cv2.blur(part, (5, 5)) for part in (values, values**2))
    return np.asarray(np.sqrt((squared - mean**2).clip(min=0)).max(axis=-1) <= FLAT_LEVELS)


def _ground(pixels: np.ndarray, patch: np.ndarray, around: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """The part of a patch (H, W) that belongs to the ground ``around`` it, if enough of that is ``plain``: pixels of
    its colours that are connected to the patch's rim."""
    ground = np.zeros_like(patch)
    if plain[around].mean() > PLAIN:
        colours = pixels[around & plain].astype(int)
        # flat parts of the thing itself may lie in the band, too, but they are fewer
        colours = colours[np.abs(colours - np.median(colours, axis=0)).max(axis=-1) <= 3 * ALIKE_LEVELS]
        apart = np.abs(pixels[patch][:, None].astype(int) - colours).max(axis=-1)
        ground[patch] = (apart <= ALIKE_LEVELS).any(axis=1)
    _, pieces = cv2.connectedComponents(ground.astype(np.uint8))
    rim = patch & grown(~patch, 1)
    return np.asarray(ground & np.isin(pieces, np.unique(pieces[rim & ground])))


class Things:
    """The things under the tracks of one stream: found when they first move, kept until they are let go. ``draw``: see
    ``mask_of``."""

    def __init__(self, draw: Draw | None = None) -> None:
        self._draw = draw
        self.masks: dict[int, tuple[int, Tensor]] = {}
        """By thing number: the key of the picture it was cut out of, and its mask there (H, W)."""
        self.anchors: dict[int, np.ndarray] = {}
        """By thing number: the places (A, 2) in that picture at which it is attached to what rests."""
        self.shown: dict[int, dict[int, Tensor]] = {}
        """By thing number and picture key: its masks in other pictures."""
        self._of: dict[int, int] = {}
        self._found = 0
        self._healed: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def of(self, track: int) -> int:
        """The row among ``masks`` of a track's thing, −1 if unknown."""
        return list(self.masks).index(self._of[track]) if track in self._of else -1

    def on(self, number: int) -> list[int]:
        """The tracks on a thing."""
        return [track for track, one in self._of.items() if one == number]

    def keep(self, tracks: Sequence[int]) -> None:
        """Forget things that have been let go: those with a track that is not among these."""
        loose = {number for track, number in self._of.items() if track not in set(tracks)}
        self._of = {track: number for track, number in self._of.items() if number not in loose}
        self.masks = {number: self.masks[number] for number in sorted(set(self._of.values()))}
        self.shown = {number: self.shown.get(number, {}) for number in self.masks}
        self.anchors = {number: self.anchors[number] for number in self.masks}
        keys = {key for key, _ in self._everywhere()}
        self._healed = {key: healed for key, healed in self._healed.items() if key in keys}

    def forget(self, keys: set[int]) -> None:
        """Forget the things' masks in all pictures except these."""
        self.shown = {
            number: {key: mask for key, mask in shown.items() if key in keys} for number, shown in self.shown.items()
        }

    def new(self, key: int, mask: Tensor, anchors: np.ndarray) -> int:
        """Add a thing with a known mask and anchors in the picture of this key; returns its number."""
        number, self._found = self._found, self._found + 1
        self.masks[number], self.anchors[number] = (key, mask), anchors
        return number

    def add(self, number: int, tracks: Sequence[int]) -> None:
        """Put these tracks on a thing."""
        self._of |= dict.fromkeys(tracks, number)

    def show(self, number: int, key: int, thing: Moved, sizes: list[Tensor]) -> None:
        """Record where a moved thing is in a later picture, given its key and sizes."""
        whole = self.without(sizes, key)
        self.shown.setdefault(number, {})[key] = thing.shown
        if thing.behind is not None:
            masks = [mask for of, mask in self._everywhere() if of == key]
            self._healed[key] = masks, uncovered(whole, thing.shown, thing.behind)

    def _everywhere(self) -> list[tuple[int, Tensor]]:
        return [*(pair for shown in self.shown.values() for pair in shown.items()), *self.masks.values()]

    def without(self, pictures: list[Tensor], key: int) -> list[Tensor]:
        """Remove all things from the picture of this key, given in one or several sizes as for ``heal``."""
        masks = [mask for of, mask in self._everywhere() if of == key]
        if not masks:
            return pictures
        known, healed = self._healed.get(key, ([], pictures))
        if any(one is not other for one, other in zip(known, masks, strict=False)) or len(known) > len(masks):
            known, healed = [], pictures
        for mask in masks[len(known) :]:  # one by one, so that ground healed before stays the same
            healed = heal(healed, mask)
        self._healed[key] = masks, healed
        return healed

    def find(self, tracks: Sequence[int], now: Moving, pictures: Tensor, keys: Sequence[int]) -> None:
        """Assign tracks that move together to one thing: that of some of them, or a new one. If a known thing's tracks
        have parted it was two, and both are cut out again. ``now``: the motion of ``tracks``, in the same order;
        ``keys``: of the ``pictures`` (K, 3, H, W)."""
        found, whole, anew = groups(now), dict[int, np.ndarray](), set[int]()
        for rows in found:
            members = [tracks[row] for row in rows]
            known = [number for number, _ in Counter(self._of[t] for t in members if t in self._of).most_common()]
            number = next((one for one in known if one not in whole), known[0] if known else None)
            together = np.concatenate([whole[number], rows]) if number in whole else rows
            room = len(self.masks.keys() | anew) < MOST_THINGS and not _of_a_view(now, rows, pictures.shape[-2:])
            if number in whole and room and misfit(now.start[together], now.move[together]) > MISFIT_PX:
                assert number is not None
                anew.add(number)
                number, together = None, rows
            if number is None and room:
                number, self._found = self._found, self._found + 1
                self._of |= dict.fromkeys(members, number)
                anew.add(number)
            if number is not None:
                whole[number] = together
                joined = [row for row in rows if tracks[row] not in self._of]
                self._of |= {tracks[row]: number for row in joined}
                if number in self.masks and not _inside(self.masks[number][1], now.start[joined]).all():
                    anew.add(number)
        for number in sorted(anew):
            elsewhere = np.setdiff1d(np.concatenate(found), whole[number])
            self._cut(number, whole[number], elsewhere, tracks, now, pictures, keys)

    def _cut(
        self,
        number: int,
        rows: np.ndarray,
        elsewhere: np.ndarray,
        tracks: Sequence[int],
        now: Moving,
        pictures: Tensor,
        keys: Sequence[int],
    ) -> None:
        """Cut out the thing under the tracks of these rows. Resting tracks inside the mask hold it, so they are put on
        the thing, too."""
        index, off = int(now.index[rows[0]]), others(now, rows, elsewhere)
        ends = now.start[rows], now.start[off]
        part = mask_of(pictures[index], *ends, self._draw)
        whole, anchors = attach(_pixels(pictures[index]), part.cpu().numpy() > 0, *ends, self._draw)
        mask = torch.from_numpy(whole).to(part)
        self.masks[number], self.anchors[number] = (keys[index], mask), anchors
        held = off[_inside(mask, now.start[off]) & (now.way[off] <= MOVED)]
        self._of |= {tracks[row]: number for row in held if tracks[row] not in self._of}


def _inside(mask: Tensor, places: np.ndarray) -> np.ndarray:
    """Which of the places (N, 2), clamped to the picture, are in a mask (H, W)."""
    x, y = np.clip(places.round().astype(int), 0, np.array(mask.shape[::-1]) - 1).T
    inside: np.ndarray = mask.cpu().numpy()[y, x] > 0
    return inside


def _of_a_view(now: Moving, rows: np.ndarray, size: Sequence[int]) -> bool:
    """Whether the camera moves these: they span much of the picture, or tracks move nearly everywhere and these move
    like the ones around them. (Parts of a view at different depths move differently, but without a jump.) Tracks that
    began in another picture than most, such as those of what has come into view, are compared by what they do of
    late."""
    height, width = size[0], size[1]
    start = np.clip(now.start, 0, (width - 1, height - 1))
    wide = np.ptp(start[rows], axis=0).prod() > CAMERA_EXTENT_SHARE * height * width
    if (wide and not _held_beside(now, rows)) or _everywhere(start[rows], size):
        return True
    moving = np.flatnonzero(now.way > MOVED)
    alike = moving[now.index[moving] == now.index[rows[0]]]
    if _everywhere(start[alike], size):
        return _apart(start, now.move, rows, np.setdiff1d(alike, rows)) < MISFIT_PX
    place = np.clip(now.place, 0, (width - 1, height - 1))
    if not _everywhere(place[moving], size):
        return False
    usual = float(np.median(np.hypot(*now.speed[moving].T)))
    return _apart(place, now.speed, rows, np.setdiff1d(moving, rows)) < STRAY + STRAY_SHARE * usual


def _held_beside(now: Moving, rows: np.ndarray) -> bool:
    """Whether tracks rest beside the bounding box of these."""
    rest = now.start[now.way <= MOVED]
    low, high = now.start[rows].min(axis=0), now.start[rows].max(axis=0)
    return bool(((rest < low) | (rest > high)).any())


def _everywhere(places: np.ndarray, size: Sequence[int]) -> bool:
    """Whether places (N, 2) lie in at least ``CAMERA_CELL_SHARE`` of the picture's cells."""
    cells = np.unique((places * CAMERA_CELLS / (size[1], size[0])).astype(int), axis=0)
    return len(cells) >= CAMERA_CELL_SHARE * CAMERA_CELLS**2


def _apart(places: np.ndarray, motion: np.ndarray, rows: np.ndarray, others: np.ndarray) -> float:
    """Median difference of the motion (N, 2) of ``rows`` from that of the nearest of the ``others``; infinite without
    any."""
    if len(others) == 0:
        return float("inf")
    nearest = others[np.linalg.norm(places[rows][:, None] - places[others], axis=-1).argmin(axis=1)]
    return float(np.median(np.linalg.norm(motion[rows] - motion[nearest], axis=-1)))


def find(
    source: CarrySource,
    positions: Tensor,
    visible: Tensor,
    clips: list[Things],
    ids: Sequence[int],
    keys: Sequence[int],
) -> None:
    """Update the things of each of the ``clips`` from a chunk's ``positions`` (B, T, N, 2) and ``visible`` (B, T, N).
    The tracks' ``ids`` and the pictures' ``keys`` are the same in all clips."""
    for things, now, pictures in zip(clips, moving(source, positions, visible), source.pictures, strict=True):
        things.find(ids, now, pictures, keys)


def tell(
    source: CarrySource,
    clips: list[Things],
    ids: Sequence[int],
    keys: Sequence[int],
    frames: int,
    room: int = 1,
    anchored: int = 0,
) -> CarrySource:
    """The source of a chunk of so many frames, completed by the things found; arguments as in ``find``. ``room``: least
    number of masks; ``anchored``: least number of places for a thing's anchors."""
    batch, sources, _, height, width = source.pictures.shape
    room = max(room, *(len(things.masks) for things in clips))
    masks = source.pictures.new_zeros(batch, sources, room, height, width)
    most = max(anchored, *(len(places) for things in clips for places in things.anchors.values()), 0)
    anchors = masks.new_full((batch, room, most, 2), torch.nan) if most else None
    sizes = [source.pictures] if source.fine is None else [source.pictures, source.fine]
    known = [[things.of(track) for track in ids] for things in clips]
    rows = [zip(index, on, strict=True) for index, on in zip(source.index.tolist(), known, strict=True)]
    loose = [{row for row, thing in each if thing < 0} for each in rows]
    some = [clip for clip, things in enumerate(clips) if things.masks]
    healed = [size.clone() for size in sizes] if some else sizes
    for clip in some:
        for row in {*source.static[clip].tolist(), *loose[clip]}:  # the ground of other pictures is never used
            without = clips[clip].without([size[clip, row] for size in sizes], keys[row])
            for whole, size in zip(healed, without, strict=True):
                whole[clip, row] = size
    for clip, things in enumerate(clips):
        for row, number in enumerate(things.masks):
            for key, mask in (*things.shown.get(number, {}).items(), things.masks[number]):
                masks[clip, keys.index(key), row] = mask
            if anchors is not None:
                places = torch.from_numpy(things.anchors[number])
                anchors[clip, row, : len(places)] = places.to(anchors)
    thing = torch.tensor(known, dtype=torch.long, device=masks.device).view(batch, 1, len(ids))
    fine = healed[1] if len(healed) > 1 else None
    thing = thing.expand(-1, frames, -1)
    held = masks.amax(dim=2)
    return replace(source, things=masks, thing=thing, anchors=anchors, healed=healed[0], fine_healed=fine, held=held)


def with_things(
    source: CarrySource, positions: Tensor, visible: Tensor, starts: Sequence[int], draw: Draw | None = None
) -> CarrySource:
    """The source of whole clips, completed by the things that streams would find chunk by chunk, with room for
    ``MOST_THINGS`` and ``MOST_ANCHORS`` of each. ``starts``: the chunks' first frames. ``draw``: see ``mask_of``."""
    batch, sources = source.pictures.shape[:2]
    clips, ids, keys = [Things(draw) for _ in range(batch)], range(positions.shape[2]), range(sources)
    told, thing = source, []
    for first, end in pairwise([*starts, positions.shape[1]]):
        find(source, positions[:, first:end], visible[:, first:end], clips, ids, keys)
        told = tell(source, clips, ids, keys, end - first, MOST_THINGS, MOST_ANCHORS)
        assert told.thing is not None
        thing.append(told.thing)
    return replace(told, thing=torch.cat(thing, dim=1))


def moving(source: CarrySource, positions: Tensor, visible: Tensor) -> list[Moving]:
    """The motion of every clip's tracks until they were last visible. Moving tracks last visible in another frame than
    most of them are NaN: one that is hidden or outside has stopped, while its thing has moved on."""
    frames = torch.arange(visible.shape[1], device=visible.device)[None, :, None]
    last = torch.where(visible, frames, 0).amax(dim=1)
    where = positions.gather(1, last[:, None, :, None].expand(-1, 1, -1, 2))[:, 0]
    move = torch.where(visible.any(dim=1)[..., None], where - source.start, torch.nan)
    first = torch.where(visible, frames, visible.shape[1]).amin(dim=1).clamp(max=visible.shape[1] - 1)
    since = positions.gather(1, first[:, None, :, None].expand(-1, 1, -1, 2))[:, 0]
    speed = torch.where((last > first)[..., None], (where - since) / (last - first).clamp(min=1)[..., None], 0.0)
    parts = (source.start, move, source.index, speed, last)
    return [_together(*(part.cpu().numpy() for part in each)) for each in zip(*parts, strict=True)]


def _together(start: np.ndarray, move: np.ndarray, index: np.ndarray, speed: np.ndarray, last: np.ndarray) -> Moving:
    """One clip's motion, NaN for moving tracks ``last`` (N,) visible in another frame than most of them."""
    moved = np.hypot(*move.T) > MOVED
    counts = np.bincount(last[moved], minlength=1)[::-1]  # reversed: in a tie the later frame wins
    stale = moved & (last != len(counts) - 1 - counts.argmax())
    return Moving(start, np.where(stale[:, None], np.nan, move), index, speed)
