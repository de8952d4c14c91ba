"""Gestures to tracks: drags, pins and drawn paths, live one chunk at a time or whole clips at once.

`LiveTracks` is the only mechanism; `drag_tracks` and `pin_tracks` run a gesture through it in one cut.
A live pointer's future is unknown, but a chunk's positions must be known before it is generated, so the pointer's
samples since the last cut are spread over the frames of the next chunk.
Pixels are (x, y), (0, 0) the centre of the top-left pixel; `size` is (height, width); times are in seconds.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from motionstream.tracks.grids import check_start, grid_around
from motionstream.tracks.motion import Ease, Gesture, Path, Span
from motionstream.tracks.tracks import MAX_POINTS, Tracks, check_counts, check_fps, check_size

Point = tuple[float, float]

_FARTHEST_FRACTION = 3.0  # largest coordinate in fractions of the picture; a drag may end outside of it
_FARTHEST = 1e6  # largest coordinate in pixels; beyond this a message is broken


class LiveTracks:
    """Any number of simultaneous gestures, cut into the tracks of one chunk after another.

    A gesture begins in the first frame of the next cut, exactly where it was made. The pointer's samples since the last
    cut are spread over the next chunk's frames in proportion to their times: motion continues from the end of the last
    cut, and the last sample falls on the last frame. Without samples points hold still. After a release points rest
    until the end of the cut, and are absent from the next one; released before the cut's first frame, they are absent
    at once. (If they became invisible within a chunk, the thing would jump back to its place in the source picture
    until the next chunk.) Points outside of the picture are invisible until they come back. Ids are unique over the
    whole stream.

    `time` arguments are seconds on one clock that never runs backwards; samples without a time count as evenly spaced.
    If `cut` gets the time too, motion keeps its real pace (a quick flick stays quick); otherwise the span of the
    samples is stretched over the chunk.
    """

    def __init__(self, size: tuple[int, int], fps: float = 24.0, *, rest: bool = True) -> None:
        """``rest`` False: points are invisible from the frame of their release on, for clips made in one cut."""
        self.size = check_size(size)
        self._rest = rest
        self.fps = check_fps(fps)
        self.frame = 0  # the stream's own clock: frames cut so far
        self._gestures: dict[int, Gesture] = {}
        self._next_gesture = 0
        self._next_id = 0
        self._clock = -math.inf  # the time on the pointer's clock at which the last cut ended

    @property
    def gestures(self) -> tuple[int, ...]:
        """The gestures the next cut will contain, oldest first."""
        return tuple(self._gestures)

    def track_ids(self, gesture: int) -> np.ndarray:
        """int64 (n,): the ids of a gesture's points in the tracks that `cut` returns."""
        return self._find(gesture).ids

    def drag(
        self,
        x: float,
        y: float,
        *,
        spacing: float = 8,
        radius: float = 16,
        mask: np.ndarray | None = None,
        time: float | None = None,
    ) -> int:
        """Press at (x, y): a grid of points, `spacing` apart, within `radius` or in `mask` (see grid_around).

        Returns the gesture's number, for `move` and `release`. Raises ValueError for a start outside the
        picture and for more than MAX_POINTS points at once.
        """
        gesture = self._new((x, y), spacing, radius, mask)
        _check_time(time, gesture)
        gesture.pressed = time
        return self._add(gesture)

    def pin(self, x: float, y: float, *, spacing: float = 8, radius: float = 16, mask: np.ndarray | None = None) -> int:
        """A static grid around (x, y), which keeps its content in place until released."""
        gesture = self._new((x, y), spacing, radius, mask)
        gesture.pinned = True
        return self._add(gesture)

    def path(
        self,
        points: ArrayLike,
        *,
        start: float = 0.0,
        duration: float | None = None,
        speed: float | None = None,
        ease: Ease = "linear",
        spacing: float = 8,
        radius: float = 16,
        mask: np.ndarray | None = None,
        release_at_end: bool = False,
    ) -> int:
        """A grid that follows a drawn line (K, 2) by arc length, in `duration` seconds or at `speed` pixels/s.

        It begins in the next cut, waits at the first point for `start` seconds of the stream's own clock, and at the
        end holds or, with `release_at_end`, is released. `ease`: "linear", or "smooth", which starts and stops gently
        in the same time.
        """
        line = _check_path(points)
        if (duration is None) == (speed is None):
            raise ValueError(f"path with duration {duration} and speed {speed}; give exactly one of them")
        for name, value in (("duration", duration), ("speed", speed)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"path's {name} is {value}; give a positive number")
        if not (math.isfinite(start) and start >= 0):
            raise ValueError(f"path's start is {start} seconds; give 0 (now) or more")
        if ease not in ("linear", "smooth"):
            raise ValueError(f"path's ease is {ease!r}; give 'linear' or 'smooth'")
        if duration is None:
            assert speed is not None
            duration = max(float(np.hypot(*np.diff(line, axis=0).T).sum()) / speed, 1e-9)
        gesture = self._new((line[0, 0], line[0, 1]), spacing, radius, mask)
        gesture.path = Path(line, self.frame + start * self.fps, duration * self.fps, ease, release_at_end)
        return self._add(gesture)

    def move(self, gesture: int, x: float, y: float, time: float | None = None) -> None:
        """Add a pointer sample to a drag: all its points move with the pointer, which may leave the picture."""
        found = self._find(gesture)
        if found.pinned or found.path is not None:
            raise ValueError(f"gesture {gesture} is a {'pin' if found.pinned else 'path'}; only drags move")
        if found.released:
            raise ValueError(f"gesture {gesture} was released; press again to drag")
        if not (abs(x) <= _FARTHEST and abs(y) <= _FARTHEST):  # also refuses NaN
            raise ValueError(f"pointer at ({x:g}, {y:g}); give pixels, two numbers within {_FARTHEST:g}")
        _check_time(time, found)
        found.samples.append((time, float(x), float(y)))

    def release(self, gesture: int, time: float | None = None) -> None:
        """Release: the points rest until the end of the next cut and are absent from the one after it."""
        found = self._find(gesture)
        if found.released:
            raise ValueError(f"gesture {gesture} was released already")
        _check_time(time, found)
        found.released, found.release_time = True, time

    def erase(self, gesture: int) -> None:
        """Remove a gesture: its points are absent from the next cut."""
        self._find(gesture)
        del self._gestures[gesture]

    def cut(self, frames: int, time: float | None = None) -> Tracks:
        """The tracks of the next `frames` frames: `frames` x points, ids as in `track_ids`.

        `time`: now, on the pointer's clock (optional, see the class).
        """
        check_counts(frames, self._count())
        _check_time(time, None)
        span = self._span(frames, time)
        fresh = [gesture.new for gesture in self._gestures.values()]
        parts = [(gesture.ids, *gesture.advance(span)) for gesture in self._gestures.values()]
        self._gestures = {number: g for number, g in self._gestures.items() if not g.finished}
        self.frame += frames
        if self._rest:
            kept = [part for part, new in zip(parts, fresh, strict=True) if new or part[2].any()]
            parts = [(ids, positions, np.ones_like(given)) for ids, positions, given in kept]
        if not parts:
            return Tracks.empty(frames, self.size, self.fps)
        return Tracks(
            positions=np.concatenate([positions for _, positions, _ in parts], axis=1),
            visible=np.concatenate([np.repeat(given[:, None], len(ids), 1) for ids, _, given in parts], axis=1),
            size=self.size,
            fps=self.fps,
            ids=np.concatenate([ids for ids, _, _ in parts]),
        ).clipped()

    def _span(self, frames: int, time: float | None) -> Span:
        """The interval of the pointer's clock that the next chunk shows; empty if nothing has a time."""
        presses = [g.pressed for g in self._gestures.values() if g.new and g.pressed is not None]
        later = [t for g in self._gestures.values() for t in g.times() if t is not None]
        moments = sorted({*presses, *later})
        if time is None and not moments:
            return Span(self.frame, frames, 0.0, 0.0)
        start = end = 0.0 if time is None else time
        if moments:
            # The first sample is taken to come one mean interval after the last cut; a press begins the chunk.
            steps = 0 if moments[0] in presses else len(moments) - 1
            start = moments[0] - ((moments[-1] - moments[0]) / steps if steps else 0.0)
            end = moments[-1]
        if time is not None:
            # Real time, except that idle time beyond a chunk's duration (a paused stream) is skipped.
            end = max(end, min(time, end + frames / self.fps))
            start = min(start, end - frames / self.fps)
        start = max(start, self._clock)
        self._clock = end if time is None else max(time, end)
        return Span(self.frame, frames, start, end)

    def _new(self, start: Point, spacing: float, radius: float, mask: np.ndarray | None) -> Gesture:
        grid = grid_around(*start, self.size, spacing=spacing, radius=radius, mask=mask)
        total = self._count() + len(grid)
        if total > MAX_POINTS:
            raise ValueError(
                f"{len(grid)} more points would make {total}, and {MAX_POINTS} are allowed at once; "
                f"give a wider spacing than {spacing:g} or erase a gesture"
            )
        anchor = np.array(start, float)
        ids = np.arange(self._next_id, self._next_id + len(grid))
        return Gesture(ids, grid, anchor, anchor)

    def _add(self, gesture: Gesture) -> int:
        number = self._next_gesture
        self._gestures[number] = gesture
        self._next_gesture += 1
        self._next_id += len(gesture.ids)
        return number

    def _find(self, gesture: int) -> Gesture:
        if gesture not in self._gestures:
            raise ValueError(f"there is no gesture {gesture}; alive are {list(self._gestures) or 'none'}")
        return self._gestures[gesture]

    def _count(self) -> int:
        return sum(len(gesture.ids) for gesture in self._gestures.values())


def drag_tracks(
    start: Point,
    end: Point,
    frames: int,
    size: tuple[int, int],
    fps: float = 24.0,
    *,
    reach: float = 0.75,
    hold: bool = True,
    spacing: float = 8,
    radius: float = 16,
    mask: np.ndarray | None = None,
) -> Tracks:
    """A drag over a whole clip: a grid eases from `start`, reaches `end` after the share `reach` of the time and holds.

    `end` may lie outside the picture; with `hold` False the points are released there.
    """
    if not 0 < reach <= 1:
        raise ValueError(f"reach is {reach}; give the part of the time in which the drag arrives, above 0, at most 1")
    live = LiveTracks(size, fps, rest=False)
    live.path(
        [start, end],
        duration=reach * max(frames - 1, 1) / live.fps,
        ease="smooth",
        spacing=spacing,
        radius=radius,
        mask=mask,
        release_at_end=not hold,
    )
    return live.cut(frames)


def pin_tracks(
    points: Sequence[Point],
    frames: int,
    size: tuple[int, int],
    fps: float = 24.0,
    *,
    spacing: float = 8,
    radius: float = 16,
) -> Tracks:
    """Static grids around some points, over a whole clip."""
    live = LiveTracks(size, fps)
    for x, y in points:
        live.pin(x, y, spacing=spacing, radius=radius)
    return live.cut(frames)


def parse_point(text: str) -> Point:
    """Two finite numbers written "x,y"."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a point; write x,y as in 0.3,0.5 or 40,64") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"{text!r} is not a point; its numbers are finite")
    return x, y


def parse_drag(text: str, size: tuple[int, int]) -> tuple[Point, Point]:
    """Start and end in pixels of a drag written "x0,y0:x1,y1".

    The numbers are fractions of the picture (0 its left or top edge, 1 the other) if all four are at most 1 in
    absolute value, or if the start has a decimal point and lies in 0..1; otherwise all four are pixels. The start must
    lie in the picture, the end may lie anywhere. Raises ValueError also for a start in fractions with an end that is
    too large for them.
    """
    parts = text.split(":")
    if len(parts) != 2:
        raise ValueError(f"{text!r} is not a drag; write x0,y0:x1,y1 as in 0.3,0.5:0.7,0.5 or 40,64:90,64")
    start, end = _parse_points(text, parts, size)
    return start, end


def parse_pin(text: str, size: tuple[int, int]) -> Point:
    """The point in pixels of a pin written "x,y", in fractions or pixels as in parse_drag."""
    (point,) = _parse_points(text, [text], size)
    return point


def _in_fractions(parts: list[str], points: list[Point]) -> bool:
    largest = max(abs(value) for point in points for value in point)
    begins = "." in parts[0] and all(0 <= value <= 1 for value in points[0])
    if begins and largest > _FARTHEST_FRACTION:
        raise ValueError(f"the start is in fractions of the picture and {largest:g} is not; write all in one of them")
    return begins or largest <= 1


def _parse_points(text: str, parts: list[str], size: tuple[int, int]) -> list[Point]:
    """Points in pixels; the first must lie in the picture. Errors quote the whole text."""
    height, width = size
    try:
        points = [parse_point(part) for part in parts]
        if _in_fractions(parts, points):
            points = [(x * width - 0.5, y * height - 0.5) for x, y in points]
            # 1 is the far edge, just outside of the picture: as a start it means the last pixel.
            x, y = points[0]
            points[0] = (x if x < width - 0.5 else width - 1.0, y if y < height - 0.5 else height - 1.0)
        check_start(*points[0], size)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return points


def _check_path(points: ArrayLike) -> np.ndarray:
    line = np.array(points, dtype=float)
    if line.ndim != 2 or line.shape[1] != 2 or not len(line):
        raise ValueError(f"path of shape {line.shape}; give (K, 2), a list of x, y")
    wrong = np.flatnonzero(~(np.abs(line) <= _FARTHEST).all(axis=1))
    if len(wrong):
        x, y = line[wrong[0]]
        raise ValueError(f"path's point {wrong[0]} is ({x:g}, {y:g}); give pixels, numbers within {_FARTHEST:g}")
    return line


def _check_time(time: float | None, gesture: Gesture | None) -> None:
    """Refuse a time that is not finite or is before the gesture's last one."""
    if time is None:
        return
    if not math.isfinite(time):
        raise ValueError(f"time is {time}; give seconds, or None")
    if gesture is None:
        return
    if gesture.latest is not None and time < gesture.latest:
        raise ValueError(f"time {time} is before {gesture.latest}, the gesture's last; use one clock for all of it")
    gesture.latest = time
