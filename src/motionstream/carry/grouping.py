"""Groups tracks that lie on one thing: those moved by one similarity (rotation, scale and shift).

Displacements alone do not tell: two adjacent things may move nearly alike, while a rotating thing moves differently
everywhere and rests at its centre. So nearby tracks are split into groups that each fit one similarity, and further
tracks that fit it, resting ones included, are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

MOVED = 1.0
"""Displacement in pixels beyond which a track counts as moving. Resting things need no mask."""
GROUP_REACH_PX, GROUP_STRAIN = 24.0, 0.3
"""Tracks that began within this distance may be on one thing; they part if their displacements differ by more than this
share of their distance (a rotation by 17 degrees) plus one pixel."""
DENSE = 128
"""With more moving tracks than this no groups are sought: so dense a field says by itself what moves."""
OFF, OFF_SHARE = 0.3, 0.05
"""A track fits a similarity if it misses it by less than this many pixels plus this share of its displacement."""
LEAST = 3
"""Fewest tracks that determine a similarity; any two fit one."""
NEIGHBOURS, BASE = 6, 3.0
"""Candidate similarities come from each track paired with this many nearest others at least so many pixels away."""
BENT, BENT_SHARE = 0.5, 0.15
"""Two parts are one thing if each misses the other's similarity (RMS) by less than this many pixels plus this share of
its displacement."""
LARGER = 2.0
"""Largest change of scale, either way, of a candidate similarity."""


@dataclass(frozen=True)
class Moving:
    """The motion of tracks so far: ``start`` (N, 2) and ``move`` (N, 2) in pixels, NaN where unknown, and the ``index``
    (N,) of the picture they began in. ``speed`` (N, 2): of late, in pixels per frame."""

    start: np.ndarray
    move: np.ndarray
    index: np.ndarray
    speed: np.ndarray

    def select(self, rows: np.ndarray) -> Moving:
        return Moving(self.start[rows], self.move[rows], self.index[rows], self.speed[rows])

    @property
    def place(self) -> np.ndarray:
        """Where each was seen last: (N, 2)."""
        return np.asarray(self.start + self.move)

    @property
    def way(self) -> np.ndarray:
        """Distance (N,) of each from its start, in pixels."""
        return np.asarray(np.hypot(*self.move.T))

    @property
    def slack(self) -> np.ndarray:
        """Distance (N,) in pixels by which each may miss its thing's similarity."""
        return OFF + OFF_SHARE * self.way


def groups(tracks: Moving) -> list[np.ndarray]:
    """Rows of the tracks on each thing, the largest group first. Resting tracks are in no group unless they fit a
    group's similarity (the thing rotates about them)."""
    rows = np.flatnonzero(tracks.way > MOVED)
    if not 0 < len(rows) <= DENSE:
        return []
    near = (_distances(tracks.start[rows]) < GROUP_REACH_PX) & (tracks.index[rows][:, None] == tracks.index[rows])
    count, label = connected_components(near, directed=False)
    parts = [part for one in range(count) for part in _parts(tracks, rows[label == one])]
    found: list[np.ndarray] = []
    for part in sorted(parts, key=len, reverse=True):
        if not _just_begins(tracks, part):
            found.append(_grown(tracks, part, np.concatenate([rows, *found])))
    return sorted(found, key=len, reverse=True)


def misfit(start: np.ndarray, move: np.ndarray) -> float:
    """RMS distance in pixels by which tracks miss their best-fitting similarity."""
    then, now = _complex(start), _complex(start + move)
    return float(np.sqrt(np.mean(np.abs(now - _Similarity.fitted(then, now)(then)) ** 2)))


def others(tracks: Moving, rows: np.ndarray, elsewhere: np.ndarray) -> np.ndarray:
    """Rows of the tracks that began in the same picture as ``rows`` but are not on their thing: they are listed in
    ``elsewhere``, rest, or move differently from the nearest of ``rows``."""
    rest = np.setdiff1d(np.flatnonzero(tracks.index == tracks.index[rows[0]]), rows)
    apart = np.linalg.norm(tracks.start[rest][:, None] - tracks.start[rows], axis=-1)
    nearest = rows[apart.argmin(axis=1)]
    parting = np.linalg.norm(tracks.move[rest] - tracks.move[nearest], axis=-1)
    still = tracks.way[rest] <= MOVED
    found: np.ndarray = rest[still | (parting > GROUP_STRAIN * apart.min(axis=1) + 1) | np.isin(rest, elsewhere)]
    return found


@dataclass(frozen=True)
class _Similarity:
    """z → ``factor`` (z − ``then``) + ``now``, on complex numbers."""

    factor: complex
    then: complex
    now: complex

    @classmethod
    def fitted(cls, then: np.ndarray, now: np.ndarray) -> _Similarity:
        """Least-squares fit; a pure shift if all points coincide."""
        middle, goal = then.mean(), now.mean()
        spread = float(np.vdot(then - middle, then - middle).real)
        factor = complex(np.vdot(then - middle, now - goal) / spread) if spread > 1e-6 else 1 + 0j
        return cls(factor, complex(middle), complex(goal))

    def __call__(self, then: np.ndarray) -> np.ndarray:
        return np.asarray(self.factor * (then - self.then) + self.now)


def _parts(tracks: Moving, rows: np.ndarray) -> list[np.ndarray]:
    """Split rows greedily into the largest sets that fit one similarity each. Sets that move nearly alike, such as the
    halves of a bending thing, are merged. A track that fits no similarity joins its nearest neighbour unless the two
    part."""
    parts: list[np.ndarray] = []
    rest = rows
    while len(rest) >= LEAST:
        alike = _most_alike(tracks.select(rest))
        if alike.sum() < LEAST:
            break
        parts.append(rest[alike])
        rest = rest[~alike]
    parts = _joined(tracks, _with_the_nearest(tracks, parts))
    apart, left = _distances(tracks.start[rows]), np.isin(rows, rest)
    together = _distances(tracks.move[rows]) < GROUP_STRAIN * apart + 1
    away = np.where(together & ~left, apart, np.inf)[left]
    joins, nearest = np.isfinite(away.min(axis=1)), rows[away.argmin(axis=1)]
    parts = [np.concatenate([part, rest[joins & np.isin(nearest, part)]]) for part in parts]
    rest = rest[~joins]
    alone = np.isin(rows, rest)
    count, label = connected_components(together[np.ix_(alone, alone)], directed=False)
    return [*parts, *(rest[label == one] for one in range(count))]


def _with_the_nearest(tracks: Moving, parts: list[np.ndarray]) -> list[np.ndarray]:
    """The same parts, with each track that fits several similarities assigned to the nearest of those parts."""
    if len(parts) < 2:
        return parts
    rows = np.concatenate(parts)
    number = np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)])
    apart = _distances(tracks.start[rows])
    np.fill_diagonal(apart, np.inf)
    away = []
    for k, part in enumerate(parts):
        may = (_missed(tracks, _fit(tracks, part), rows) < tracks.slack[rows]) | (number == k)
        away.append(np.where(may, apart[:, number == k].min(axis=1), np.inf))
    home = np.argmin(away, axis=0)
    found = [rows[home == k] for k in range(len(parts))]
    return [part for part in found if len(part)]


def _joined(tracks: Moving, parts: list[np.ndarray]) -> list[np.ndarray]:
    """Merge parts that nearly fit one another's similarity."""
    fits = [_fit(tracks, part) for part in parts]
    alike = np.eye(len(parts), dtype=bool)
    for one in range(len(parts)):
        for other in range(len(parts)):
            missed = np.sqrt(np.mean(_missed(tracks, fits[one], parts[other]) ** 2))
            alike[one, other] = missed < BENT + BENT_SHARE * np.sqrt(np.mean(tracks.way[parts[other]] ** 2))
    count, label = connected_components(alike & alike.T, directed=False) if parts else (0, np.zeros(0, int))
    return [np.concatenate([part for part, of in zip(parts, label, strict=True) if of == one]) for one in range(count)]


def _most_alike(tracks: Moving) -> np.ndarray:
    """The tracks, bool (N,), that fit the best similarity: of those given by two tracks, the one most tracks fit."""
    then, now, slack = _complex(tracks.start), _complex(tracks.start + tracks.move), tracks.slack
    apart = np.abs(then[:, None] - then)
    near = np.where(apart < BASE, np.inf, apart).argsort(axis=1, kind="stable")[:, :NEIGHBOURS]
    first, second = np.repeat(np.arange(len(then)), near.shape[1]), near.ravel()
    usable = apart[first, second] >= BASE
    first, second = first[usable], second[usable]
    if len(first) == 0:
        return np.ones(len(then), bool)
    factor = (now[second] - now[first]) / (then[second] - then[first])
    missed = np.abs(factor[:, None] * (then - then[first][:, None]) + now[first][:, None] - now)
    likely = (np.abs(factor) < LARGER) & (np.abs(factor) > 1 / LARGER)
    alike = (missed < slack) & likely[:, None]
    best = np.lexsort((np.where(alike, missed, 0).sum(axis=1), -alike.sum(axis=1)))[0]
    return np.asarray(alike[best])


def _grown(tracks: Moving, part: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """A part's rows and those of nearby tracks that fit its similarity and are not ``taken``."""
    then = _complex(tracks.start)
    free = np.setdiff1d(np.flatnonzero((tracks.index == tracks.index[part[0]]) & np.isfinite(tracks.way)), taken)
    while True:
        rest = np.setdiff1d(free, part)
        apart = np.abs(then[rest][:, None] - then[part])
        near = rest[apart.min(axis=1, initial=np.inf) < GROUP_REACH_PX]
        joined = near[_missed(tracks, _fit(tracks, part), near) < tracks.slack[near]]
        if len(joined) == 0:
            return np.sort(part)
        part = np.concatenate([part, joined])


def _just_begins(tracks: Moving, part: np.ndarray) -> bool:
    """Whether a few tracks are the first to pass ``MOVED`` on a thing that begins to rotate: the nearest tracks below
    it have moved more than half as far."""
    rest = np.setdiff1d(np.flatnonzero((tracks.index == tracks.index[part[0]]) & (tracks.way <= MOVED)), part)
    if len(part) >= LEAST or len(rest) == 0:
        return False
    apart = np.linalg.norm(tracks.start[part][:, None] - tracks.start[rest], axis=-1)
    nearest = rest[apart.argmin(axis=1)]
    return bool(((apart.min(axis=1) < GROUP_REACH_PX) & (tracks.way[nearest] > tracks.way[part] / 2)).all())


def _fit(tracks: Moving, part: np.ndarray) -> _Similarity:
    then, now = _complex(tracks.start[part]), _complex((tracks.start + tracks.move)[part])
    fit = _Similarity.fitted(then, now)
    return fit if len(part) >= LEAST else _Similarity(1, fit.then, fit.now)


def _missed(tracks: Moving, fit: _Similarity, rows: np.ndarray) -> np.ndarray:
    """Distance in pixels between the tracks and where the similarity puts them."""
    return np.asarray(np.abs(fit(_complex(tracks.start[rows])) - _complex((tracks.start + tracks.move)[rows])))


def _complex(places: np.ndarray) -> np.ndarray:
    return np.asarray(places[:, 0] + 1j * places[:, 1])


def _distances(places: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(places[:, None] - places, axis=-1))
