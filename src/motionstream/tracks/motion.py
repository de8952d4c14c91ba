"""What moves a gesture's points over the frames of one chunk; `gestures.py` is the door to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Ease = Literal["linear", "smooth"]


@dataclass(frozen=True)
class Span:
    """The next chunk: which frames it makes, and which stretch of the pointer's clock they show."""

    first: int
    frames: int
    start: float
    end: float

    def frames_of(self, times: Sequence[float | None], new: bool) -> np.ndarray:
        """Where moments on the clock fall on the chunk's frames (fractional).

        What goes on starts from the last cut's last frame, -1 here; a new gesture starts at frame 0. Moments
        without a time, or on a clock that stands still, are evenly spaced and end with the chunk.
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
    """A drawn line (K, 2), walked by arc length from frame `begin` of the stream in `frames` frames."""

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
    """A rigid grid of points and what moves it."""

    ids: np.ndarray  # (n,)
    grid: np.ndarray  # (n, 2), where its points began
    start: np.ndarray  # (2,), where the pointer was then
    last: np.ndarray  # (2,), where it is in the last frame that was cut
    pressed: float | None = None
    path: Path | None = None
    pinned: bool = False
    new: bool = True  # no frame of it was cut yet
    samples: list[tuple[float | None, float, float]] = field(default_factory=list)  # since the last cut
    released: bool = False
    release_time: float | None = None
    latest: float | None = None  # the last time it was given
    finished: bool = False  # its last frame was cut

    def times(self) -> list[float | None]:
        """When what happened since the last cut happened, the press apart."""
        return [sample[0] for sample in self.samples] + [self.release_time] * self.released

    def advance(self, span: Span) -> tuple[np.ndarray, np.ndarray]:
        """The chunk's positions (frames, n, 2), whether they are given (frames,); forgets the samples."""
        frames = np.arange(span.frames)
        given = np.ones(span.frames, bool)
        if self.new and span.frames == 1:
            # The only frame is the start: what the pointer did since, no longer datable, is for the next cut.
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
        # With nothing else to date it by, a release happened before this chunk and not at its end.
        return 0.0 if undated and not self.samples and not self.new else float(moments[-1])

    def _follow(self, frames: np.ndarray, moments: np.ndarray) -> np.ndarray:
        origin = 0 if self.new else -1
        known_at = np.concatenate([[origin], moments[: len(self.samples)]])
        known = np.concatenate([self.last[None], np.array([sample[1:] for sample in self.samples]).reshape(-1, 2)])
        anchors = np.stack([np.interp(frames, known_at, known[:, axis]) for axis in (0, 1)], axis=-1)
        if self.new:
            anchors[0] = self.start
        return anchors
