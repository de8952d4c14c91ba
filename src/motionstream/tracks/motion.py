"""The motion of a gesture's points over the frames of one chunk; used through `gestures.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Ease = Literal["linear", "smooth"]


@dataclass(frozen=True)
class Span:
    """The next chunk: its frames in the stream, and the interval of the pointer's clock that they show."""

    first: int
    frames: int
    start: float
    end: float

    def frames_of(self, times: Sequence[float | None], new: bool) -> np.ndarray:
        """Times on the clock as fractional frames of the chunk.

        A continuing gesture starts from the last cut's last frame, -1 here; a new one starts at frame 0. Missing times,
        or times on a clock that stands still, are evenly spaced and end with the chunk.
        """
        origin, last = (0 if new else -1), self.frames - 1
        known = [time for time in times if time is not None]
        if len(known) == len(times) and self.end > self.start:
            fraction = np.clip((np.array(known) - self.start) / (self.end - self.start), 0, 1)
        else:
            fraction = np.arange(1, len(times) + 1) / max(len(times), 1)
        return origin + (last - origin) * fraction


@dataclass(frozen=True)
class Path:
    """A drawn line (K, 2), followed by arc length from frame `begin` of the stream for `frames` frames."""

    points: np.ndarray
    begin: float
    frames: float
    ease: Ease
    release_at_end: bool

    def walk(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 2) and whether the path still holds its points (n,), at frames of the stream."""
        progress = (frames - self.begin) / self.frames
        u = np.clip(progress, 0, 1)
        u = u * u * (3 - 2 * u) if self.ease == "smooth" else u
        length = np.concatenate([[0.0], np.hypot(*np.diff(self.points, axis=0).T).cumsum()])
        where = np.stack([np.interp(u * length[-1], length, self.points[:, axis]) for axis in (0, 1)], axis=-1)
        return where, (progress <= 1 + 1e-9) | (not self.release_at_end)


@dataclass
class Gesture:
    """A rigid grid of points and the pointer, pin or path that moves it."""

    ids: np.ndarray  # (n,)
    grid: np.ndarray  # (n, 2), where its points began
    start: np.ndarray  # (2,), where the pointer was then
    last: np.ndarray  # (2,), where the pointer was in the last frame that was cut
    pressed: float | None = None
    path: Path | None = None
    pinned: bool = False
    new: bool = True  # no frame of it was cut yet
    samples: list[tuple[float | None, float, float]] = field(default_factory=list)  # since the last cut
    released: bool = False
    release_time: float | None = None
    latest: float | None = None  # time of its latest event
    finished: bool = False  # its last frame was cut

    def times(self) -> list[float | None]:
        """Times of the samples and the release since the last cut, without the press."""
        return [sample[0] for sample in self.samples] + [self.release_time] * self.released

    def advance(self, span: Span) -> tuple[np.ndarray, np.ndarray]:
        """The chunk's positions (frames, n, 2) and whether they are specified (frames,); forgets the samples."""
        frames = np.arange(span.frames)
        given = np.ones(span.frames, bool)
        if self.new and span.frames == 1:
            # The only frame is the start: later samples are kept, without their times, for the next cut.
            anchors = self.start[None]
            self.samples = [(None, x, y) for _, x, y in self.samples]
            self.release_time = None
        else:
            moments = span.frames_of(self.times(), self.new)
            if self.path is not None:
                anchors, given = self.path.walk(span.first + frames)
            else:
                anchors = self._follow(frames, moments)
            if self.released:
                given = given & (frames < self._release_frame(span, moments))
            self.samples = []
            self.finished = not given[-1]
        self.last, self.new = anchors[-1], False
        return self.grid + (anchors - self.start)[:, None], given

    def _release_frame(self, span: Span, moments: np.ndarray) -> float:
        undated = self.release_time is None or span.end <= span.start
        # Without any time or sample, a release counts as before this chunk, not at its end.
        return 0.0 if undated and not self.samples and not self.new else float(moments[-1])

    def _follow(self, frames: np.ndarray, moments: np.ndarray) -> np.ndarray:
        origin = 0 if self.new else -1
        known_at = np.concatenate([[origin], moments[: len(self.samples)]])
        known = np.concatenate([self.last[None], np.array([sample[1:] for sample in self.samples]).reshape(-1, 2)])
        anchors = np.stack([np.interp(frames, known_at, known[:, axis]) for axis in (0, 1)], axis=-1)
        if self.new:
            anchors[0] = self.start
        return anchors
