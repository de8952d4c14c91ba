"""Remembers the pictures in which a stream's tracks began: the sources of the carried content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motionstream.carry.grouping import GROUP_STRAIN, MOVED
from motionstream.carry.moved import Moved, uncovered, whose
from motionstream.carry.relations import CarrySource
from motionstream.carry.things import Things, find, tell
from motionstream.tracks import Tracks
from motionstream.tracks.masks import Draw

MOST_LET_GO = 4
"""Number of released things that are remembered; older ones become part of the picture."""

EXACT = 0.02
"""Displacement in pixels below which resampling does not soften a picture."""


@dataclass(frozen=True)
class Birth:
    """Where a track began: the ``key`` of a picture and its ``start`` (2,) there; and ``since`` (2,), its current or
    last position in the static picture."""

    key: int
    start: np.ndarray
    since: np.ndarray


class CarryMemory:
    """Remembers where and when each track of a stream began, and the pictures from which content is taken.

    When the set of tracks changes between chunks and something has moved, the ``last`` carried frame becomes the new
    static picture: the source for new tracks and for everything that no track covers, so that a released thing stays
    where it was let go. Continuing tracks begin anew in it, because their old source also shows what has been moved
    since, which would then appear twice. Exceptions: tracks on a thing that is still held keep their source; so does
    the view of a moving camera, whose points come and go, until something is let go; and a thing grasped where it was
    left is carried from the picture it was cut out of (``moved.py``).

    ``last`` excludes what the transformer added, which would otherwise be added again. Pictures without a reference are
    dropped, so memory stays bounded.

    ``picture``: (1, 3, H, W). ``see`` and ``draw``: a pixel mixer's methods, called once per picture or thing instead
    of at every chunk. ``fine``: the same picture, larger; then whoever sets ``last`` also sets ``last_fine``.
    """

    def __init__(
        self,
        picture: Tensor,
        see: Callable[[Tensor], Tensor] | None = None,
        fine: Tensor | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.last, self.last_fine = picture, fine
        self._see = see
        self._seen: dict[int, Tensor] = {}
        self._things = Things(draw)
        self._pictures = {0: picture}
        self._fine = {0: fine}
        self._static = 0
        self._births: dict[int, Birth] = {}
        self._before: Tracks | None = None
        """The previous chunk's tracks."""
        self._held: dict[int, Moved] = {}
        """The held things by number, as they are in the static picture; without those not moved since it was made."""
        self._let_go: list[Moved] = []
        self._at: dict[int, dict[int, np.ndarray]] = {}
        """By key of a picture that was made from a frame: where the tracks were in it, by id."""

    def source(self, tracks: Tracks, device: torch.device, begun_at: np.ndarray | None = None) -> CarrySource:
        """The source of a chunk's tracks. Call once per chunk, in order. ``begun_at`` (N, 2): positions in the previous
        frame of the tracks that begin with this chunk; by default their first ones in the chunk."""
        ids, shown = tracks.ids.tolist(), np.any(tracks.visible, axis=0)

        def begun() -> list[int]:
            return [row for row, track in enumerate(ids) if shown[row] and track not in self._births]

        if self._before is not None and (begun() or set(ids) != set(self._before.ids.tolist())):
            self._go_on(self._before, ids)
        rows = begun()
        self._begin(tracks, rows, (tracks.beginnings() if begun_at is None else begun_at)[rows])
        self._before = tracks
        nowhere = Birth(self._static, np.zeros(2, np.float32), np.zeros(2, np.float32))
        births = [self._births.get(track, nowhere) for track in ids]
        used = sorted({self._static} | {birth.key for birth in births})
        self._forget({*used, *(thing.key for thing in self._let_go)})

        def places(each: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.array(each, np.float32).reshape(1, -1, 2)).to(device)

        fine = [picture for picture in (self._fine[key] for key in used) if picture is not None]
        source = CarrySource(
            pictures=torch.stack([self._pictures[key] for key in used], dim=1),
            index=torch.tensor([[used.index(birth.key) for birth in births]], dtype=torch.long, device=device),
            start=places([birth.start for birth in births]),
            static=torch.full((1, tracks.length), used.index(self._static), dtype=torch.long, device=device),
            seen=self._all_seen(used) if ids else None,
            fine=torch.stack(fine, dim=1) if fine else None,
            since=places([birth.since for birth in births]),
        )
        return source if self._see is None else self._with_things(source, tracks, used)

    def _go_on(self, before: Tracks, ids: Sequence[int]) -> None:
        """Make the last frame the static picture, in which all tracks begin anew except those on a held thing.
        ``before``: the tracks until now. ``ids``: those of the coming chunk."""
        things, rests = self._things, self._rests(before)
        behind = things.without(self._sizes(), self._static) if rests else None
        known, torn = list(things.masks), self._torn(before, ids)
        rows = enumerate(before.ids.tolist())
        ended = {track: before.positions[-1, row] for row, track in rows if before.visible[-1, row]}
        moved = {number: thing for number in known if (thing := self._moved(number, ended, behind))}
        loose = [number for number in known if not set(things.on(number)) <= set(ids)]
        # after a camera motion, things left earlier are no longer where they were left
        left = [*(self._let_go if rests else []), *(moved[number] for number in loose if number in moved)]
        self._let_go = left[-MOST_LET_GO:]
        self._held = {number: thing for number, thing in moved.items() if number not in loose}
        things.keep(ids)
        self._births = {track: birth for track, birth in self._births.items() if track in ids}
        if rests and not known:
            return  # nothing has moved
        self._keep_last(behind, [thing.shown for thing in moved.values()])
        self._at[self._static] = ended
        for number, thing in self._held.items():
            things.show(number, self._static, thing, self._sizes())
        anew = torn or bool(loose)
        later = {
            track: self._later(track, birth, ended.get(track), rests=rests, anew=anew)
            for track, birth in self._births.items()
        }
        self._births = {track: birth for track, birth in later.items() if birth is not None}

    def _keep_last(self, behind: Sequence[Tensor] | None, shown: Sequence[Tensor]) -> None:
        """Make the last frame the static picture. If the picture ``behind`` all things is known, take the last frame
        only where things are ``shown``, so that untouched pixels are not resampled."""
        sizes = [size[0] for size in (self.last, self.last_fine) if size is not None]
        if behind is not None:
            covered = torch.stack([*shown, torch.zeros_like(sizes[0][0])]).amax(dim=0)
            sizes = uncovered(behind, covered, sizes)
        self._static = max(self._pictures) + 1
        self._pictures[self._static] = sizes[0][None]
        self._fine[self._static] = sizes[1][None] if len(sizes) > 1 else None

    def _later(self, track: int, birth: Birth, here: np.ndarray | None, *, rests: bool, anew: bool) -> Birth | None:
        """The birth of a track after a new static picture; ``here``: its position in the last frame, if visible.

        A track on a thing keeps its birth. Any other begins in the new picture: if everything else ``rests``, at its
        old position, since the ground is not taken from the last frame; with ``anew``, where it is now, or when it is
        next seen (None); otherwise only if it has not moved, so that nothing is lost by resampling.
        """
        if self._things.of(track) >= 0:
            return birth if here is None else Birth(birth.key, birth.start, here)
        if rests:
            return Birth(self._static, birth.since, birth.since)
        if here is None:
            return None if anew else birth
        if anew or np.linalg.norm(here - birth.since) < EXACT:
            return Birth(self._static, here, here)
        return Birth(birth.key, birth.start, here)

    def _begin(self, tracks: Tracks, rows: Sequence[int], places: np.ndarray) -> None:
        """Begin these rows of a chunk's tracks at the places (N, 2). Some may be on things that are held or were let
        go."""
        ids = tracks.ids[rows].tolist()
        self._births |= {track: Birth(self._static, here, here) for track, here in zip(ids, places, strict=True)}
        if not ids:
            return
        held = {number: thing.at_the_beginning(tracks) for number, thing in self._held.items()}
        known = [*self._let_go, *held.values()]
        numbers: list[int | None] = [*(None for _ in self._let_go), *held]
        for thing, number, taken in zip(known, numbers, whose(known, places), strict=True):
            if len(taken) == 0:
                continue
            if number is None:
                number = self._take_up(thing)
            self._things.add(number, [ids[row] for row in taken])
            for row, start in zip(taken, thing.origin(places[taken]), strict=True):
                self._births[ids[row]] = Birth(thing.key, start, places[row])

    def _take_up(self, thing: Moved) -> int:
        """Hold a released thing again; returns its number. Things that were left on top of it stay on top."""
        number = self._things.new(thing.key, thing.mask, thing.anchors)
        for later in self._let_go[self._let_go.index(thing) + 1 :]:
            thing = thing.below(later)
        self._let_go = [other for other in self._let_go if other.mask is not thing.mask]
        self._things.show(number, self._static, thing, self._sizes())
        self._held[number] = thing
        return number

    def _moved(self, number: int, ended: dict[int, np.ndarray], behind: Sequence[Tensor] | None) -> Moved | None:
        """A thing as it is in the last frame, given by the positions where its tracks ``ended``; None if none did."""
        tracks = [track for track in self._things.on(number) if track in ended]
        if not tracks:
            return None
        start, now = (np.array(x) for x in ([self._births[t].start for t in tracks], [ended[t] for t in tracks]))
        return Moved.found(*self._things.masks[number], tracks, start, now, behind, self._things.anchors[number])

    def _show_before(self, keys: set[int]) -> None:
        """Mark things that were found in a later picture in the pictures of the view, ``keys``, too."""
        for number, (own, mask) in self._things.masks.items():
            for key in keys - {own} - self._things.shown.get(number, {}).keys():
                there = self._at.get(own, {})
                view = [t for t, birth in self._births.items() if birth.key == key and t in there]
                if view:
                    places = np.array([there[t] for t in view]), np.array([self._births[t].start for t in view])
                    thing = Moved.found(own, mask, view, *places, None)
                    self._things.shown.setdefault(number, {})[key] = thing.shown

    def _rests(self, before: Tracks) -> bool:
        """Whether all tracks that are on no thing are where they were in the static picture."""
        way = [np.linalg.norm(before.positions[-1, row] - birth.since) for row, _, birth in self._loose(before)]
        return not any(moved > MOVED for moved in way)  # NaN positions compare false

    def _torn(self, before: Tracks, ids: Sequence[int]) -> bool:
        """Whether a moved track on no thing has ended and its nearest continuing neighbour moves differently. (Points
        of a moving camera's view come and go, but their neighbours continue the same motion.)"""
        way = {track: before.positions[-1, row] - birth.since for row, track, birth in self._loose(before)}
        there = {track: birth.since for _, track, birth in self._loose(before)}
        gone = [track for track in way if track not in ids and np.linalg.norm(way[track]) > MOVED]
        stay = [track for track in way if track in ids and np.isfinite(way[track]).all()]
        if not (gone and stay):
            return bool(gone)
        apart = np.linalg.norm(
            np.array([there[t] for t in gone])[:, None] - np.array([there[t] for t in stay]), axis=-1
        )
        nearest = apart.argmin(axis=1)
        parting = np.linalg.norm(np.array([way[t] for t in gone]) - np.array([way[t] for t in stay])[nearest], axis=-1)
        return bool((parting > GROUP_STRAIN * apart.min(axis=1) + 1).any())

    def _loose(self, before: Tracks) -> list[tuple[int, int, Birth]]:
        """Row, id and birth of each track that is on no thing."""
        rows = enumerate(before.ids.tolist())
        return [(row, t, self._births[t]) for row, t in rows if t in self._births and self._things.of(t) < 0]

    def _sizes(self) -> list[Tensor]:
        """The static picture (3, H, W), and its fine version (3, sH, sW) if there is one."""
        return [size[0] for size in (self._pictures[self._static], self._fine[self._static]) if size is not None]

    def _forget(self, used: set[int]) -> None:
        """Forget all pictures except these."""
        self._pictures = {key: self._pictures[key] for key in used}
        self._fine = {key: self._fine[key] for key in used}
        self._at = {key: places for key, places in self._at.items() if key in used}

    def _with_things(self, source: CarrySource, tracks: Tracks, used: list[int]) -> CarrySource:
        device, ids = source.start.device, tracks.ids.tolist()
        positions, visible = (torch.from_numpy(x.copy()).to(device)[None] for x in (tracks.positions, tracks.visible))
        self._things.forget(set(used))
        find(source, positions, visible, [self._things], ids, used)
        self._show_before(
            {self._births[track].key for track in ids if track in self._births and self._things.of(track) < 0}
        )
        told = tell(source, [self._things], ids, used, tracks.length)
        assert told.held is not None
        for thing in self._let_go:
            shown = told.held[0, used.index(self._static)]
            torch.maximum(shown, thing.shown, out=shown)
        return told

    def _all_seen(self, used: list[int]) -> Tensor | None:
        """The mixer's ``see`` of the pictures ``used``, (1, K, C, h, w); cached, and forgotten for other pictures."""
        if self._see is None:
            return None
        self._seen = {key: self._seen[key] for key in used if key in self._seen}
        for key in used:
            if key not in self._seen:
                self._seen[key] = self._see(self._pictures[key][:, None])
        return torch.cat([self._seen[key] for key in used], dim=1)
