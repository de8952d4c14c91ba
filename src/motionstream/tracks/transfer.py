"""Motion transfer: the motion of a source, a video or a live camera, becomes tracks for the picture.

`LiveTransfer` takes the source's frames as they arrive and gives the tracks of one chunk after another, like
`LiveTracks`; `VideoTransfer` feeds it a video in step with the stream, and `transfer_tracks` converts a whole video.
Points are followed by optical flow from frame to frame, so the source's future is never used. Pixels are (x, y), (0, 0)
the centre of the top-left one; sizes are (height, width); times are seconds. Axes: N points.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from motionstream.media.pictures import Fit
from motionstream.tracks.gestures import parse_point
from motionstream.tracks.tracker import LucasKanade
from motionstream.tracks.tracks import Tracks, check_fps, check_size

LARGEST = 320
"""Longer side in pixels at which a source is tracked; larger ones are reduced."""
SPACING = 11.0
"""Pixels of the picture between points; at least 1/32 of its shorter side."""
CHUNKS = (9, 12)
MOST_FRAMES = 600
"""Most source frames that may wait for a cut; beyond this the oldest are dropped."""
FIRST_ID = 1 << 40
"""First id of transferred points; those of gestures count up from 0."""

Pair = tuple[tuple[float, float], tuple[float, float]]
Waiting = tuple[float, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Similarity:
    """Scales, rotates and shifts points: z -> factor z + shift, with x + iy for a point (x, y)."""

    factor: complex
    shift: complex

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2)."""
        moved = self.factor * (points[..., 0] + 1j * points[..., 1]) + self.shift
        return np.stack([moved.real, moved.imag], axis=-1)

    def inverse(self) -> "Similarity":
        """The inverse similarity."""
        return Similarity(1 / self.factor, -self.shift / self.factor)


def align(source: tuple[int, int], picture: tuple[int, int], pairs: Sequence[Pair] = ()) -> Similarity:
    """The similarity from a source's pixels to the picture's; sizes are (height, width).

    Two pairs of points (one in the source, one in the picture) determine it. One pair determines the shift; scale and
    rotation are then those of the default, which scales the source to cover the picture, centre on centre. Raises
    ValueError for more pairs, equal source points, or equal picture points.
    """
    fitting = Fit(check_size(source), check_size(picture))
    fitted = Similarity(complex(fitting.scale), complex(*fitting.to_fitted(np.zeros(2))))
    ends = [(complex(*start), complex(*end)) for start, end in pairs]
    if len(ends) > 2:
        raise ValueError(f"{len(ends)} pairs of points to align; two say all")
    if not ends:
        return fitted
    (start, end), other = ends[0], ends[-1]
    if len(ends) == 1:
        return Similarity(fitted.factor, end - fitted.factor * start)
    if abs(other[0] - start) < 1 or abs(other[1] - end) < 1:
        raise ValueError("the two pairs of points to align begin or end in one place; give places further apart")
    factor = (other[1] - end) / (other[0] - start)
    return Similarity(factor, end - factor * start)


def point_spacing(size: tuple[int, int]) -> float:
    """Distance in pixels between points, for a picture of this size."""
    return max(SPACING, min(size) / 32)


def parse_pair(text: str) -> Pair:
    """Two points written "sx,sy:dx,dy", the source's and the picture's, in pixels of each."""
    parts = text.split(":")
    if len(parts) != 2:
        raise ValueError(f"{text!r} aligns nothing; write sx,sy:dx,dy, a point of the source and one of the picture")
    return parse_point(parts[0]), parse_point(parts[1])


class LiveTransfer:
    """Points that move with a source, cut into chunks.

    Args:
        source: (height, width) of its frames. size, fps: of the stream.
        pairs: the alignment of source and picture, see `align`.
        first_id: of its points; a further source in the same stream begins with the last one's `next_id`.

    A grid over the picture is mapped onto the source and tracked there. Points that flow loses are dropped; where the
    grid has gaps, new points begin with the next chunk.
    """

    def __init__(
        self,
        source: tuple[int, int],
        size: tuple[int, int],
        fps: float = 24.0,
        pairs: Sequence[Pair] = (),
        *,
        first_id: int = FIRST_ID,
    ) -> None:
        self.source, self.size, self.fps = check_size(source), check_size(size), check_fps(fps)
        self.alignment = align(self.source, self.size, pairs)
        self.spacing = point_spacing(self.size)
        self._flow = LucasKanade(window=15)
        self._grey: np.ndarray | None = None
        self._points = np.zeros((0, 2), np.float32)  # in the reduced source, where they are now
        self._ids = np.zeros(0, np.int64)
        self._next_id = self._unborn = first_id  # points from `_unborn` on have not been in a chunk yet
        self._started = False  # whether a chunk was cut
        # frames since the last cut, preceded by the frame at it: time, ids, positions in the picture
        self._waiting: list[Waiting] = []
        self._reduction = min(1.0, LARGEST / max(self.source))

    @property
    def next_id(self) -> int:
        """The id of its next new point."""
        return self._next_id

    def feed(self, frame: np.ndarray, time: float) -> None:
        """Add the source's next frame, uint8 (height, width, 3), and its time, which must not decrease."""
        if frame.dtype != np.uint8 or frame.shape != (*self.source, 3):
            raise ValueError(f"source frame is {frame.dtype} {frame.shape}; give uint8 {(*self.source, 3)}")
        if not math.isfinite(time) or (self._waiting and time < self._waiting[-1][0]):
            raise ValueError(f"source frame at {time} s, after one at {self._waiting[-1][0] if self._waiting else 0} s")
        grey = self._reduce(frame)
        if self._grey is None:
            self._grey = grey
            self._fill([])
        elif len(self._points):
            found, kept = self._flow.follow(self._grey, grey, self._points)
            kept &= np.all((found >= 0) & (found <= (grey.shape[1] - 1, grey.shape[0] - 1)), axis=1)
            self._points, self._ids = found[kept], self._ids[kept]
        self._grey = grey
        self._waiting.append((time, self._ids, self._places(self._points)))
        if len(self._waiting) > MOST_FRAMES:
            del self._waiting[1]

    def cut(self, frames: int, time: float | None = None) -> Tracks:
        """The tracks of the next chunk: the source's motion since the last cut, up to `time` on its clock or its latest
        frame.

        Of a longer gap only the last two chunks' duration is shown. Without new frames points hold still.
        """
        if not self._waiting:
            return Tracks.empty(frames, self.size, self.fps)
        start, end = self._waiting[0][0], self._waiting[-1][0] if time is None else time
        end = max(start, end)
        start = max(start, end - 2 * frames / self.fps)
        # The stream's first frame is the source's first; later chunks continue where the last one ended.
        moments = np.linspace(start, end, frames) if not self._started else np.linspace(start, end, frames + 1)[1:]
        ids = np.unique(np.concatenate([known for _, known, _ in self._waiting]))
        positions, visible = self._sample(moments, ids)
        _, known, places = self._waiting[0]
        new, rows = known >= self._unborn, np.searchsorted(ids, known)
        # A new point's position in the chunk's first frame is that at the end of the last chunk.
        positions[0, rows[new]], visible[0, rows[new]] = places[new], True
        tracks = Tracks(np.where(visible[..., None], positions, np.nan), visible, self.size, self.fps, ids).clipped()
        last = visible[-1]
        later = [entry for entry in self._waiting if entry[0] > end]
        self._started, self._unborn = True, self._next_id
        self._waiting = self._fill([(end, ids[last], positions[-1, last]), *later])
        return tracks

    def _sample(self, moments: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (T, N, 2) at moments, interpolated between the two frames around each; visible (T, N) if both have
        the point."""
        times = np.array([time for time, _, _ in self._waiting])
        table = np.full((len(times), len(ids), 2), np.nan)
        for row, (_, known, places) in enumerate(self._waiting):
            table[row, np.searchsorted(ids, known)] = places
        after = np.clip(np.searchsorted(times, moments, side="left"), 0, len(times) - 1)
        before = np.maximum(after - 1, 0)
        span = times[after] - times[before]
        weight = np.where(span > 0, (moments - times[before]) / np.where(span > 0, span, 1), 1.0).clip(0, 1)
        positions = table[before] * (1 - weight)[:, None, None] + table[after] * weight[:, None, None]
        return positions, np.isfinite(positions).all(axis=-1)

    def _fill(self, waiting: list[Waiting]) -> list[Waiting]:
        """Add points where the grid over the picture currently has gaps, to all waiting frames; returns these."""
        x, y = (np.arange(self.spacing / 2 - 0.5, side - 0.5, self.spacing) for side in self.size[::-1])
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        taken = self._places(self._points)
        if len(taken):
            squared = (grid**2).sum(1)[:, None] + (taken**2).sum(1) - 2 * grid @ taken.T
            grid = grid[(squared > (0.75 * self.spacing) ** 2).all(axis=1)]
        assert self._grey is not None
        there = (self.alignment.inverse().apply(grid) + 0.5) * self._reduction - 0.5
        height, width = self._grey.shape
        added = there[np.all((there >= 0) & (there <= (width - 1, height - 1)), axis=1)].astype(np.float32)
        ids, places = np.arange(self._next_id, self._next_id + len(added)), self._places(added)
        self._points, self._ids = np.concatenate([self._points, added]), np.concatenate([self._ids, ids])
        self._next_id += len(added)
        return [
            (time, np.concatenate([known, ids]), np.concatenate([before, places])) for time, known, before in waiting
        ]

    def _places(self, points: np.ndarray) -> np.ndarray:
        """Map points (N, 2) of the reduced source to the picture, float64."""
        return self.alignment.apply((points.astype(float) + 0.5) / self._reduction - 0.5)

    def _reduce(self, frame: np.ndarray) -> np.ndarray:
        import cv2

        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if self._reduction == 1:
            return np.asarray(grey)
        wanted = tuple(max(1, round(side * self._reduction)) for side in self.source[::-1])
        return np.asarray(cv2.resize(grey, wanted, interpolation=cv2.INTER_AREA))


class VideoTransfer:
    """Tracks of one chunk after another from a video's motion, in real time at the stream's frame rate.

    ``live`` must be new. After the video's end points hold still; see `ended`.
    """

    def __init__(self, video: Iterable[np.ndarray], source_fps: float, live: LiveTransfer) -> None:
        self.live, self.source_fps = live, check_fps(source_fps)
        self._coming = iter(video)
        self._next = next(self._coming, None)
        self._fed = self._cut = 0  # frames

    @property
    def ended(self) -> bool:
        """Whether its last frame has been shown."""
        return self._next is None and self._fed / self.source_fps <= self._cut / self.live.fps

    def cut(self, frames: int) -> Tracks:
        """The tracks of the next `frames` frames."""
        end = (self._cut + frames - 1) / self.live.fps
        # One frame beyond the chunk's end, so that its last time lies between two frames.
        while self._next is not None and (self._fed == 0 or (self._fed - 1) / self.source_fps < end):
            self.live.feed(self._next, self._fed / self.source_fps)
            self._next, self._fed = next(self._coming, None), self._fed + 1
        self._cut += frames
        return self.live.cut(frames, end)


def transfer_tracks(
    video: Iterable[np.ndarray],
    source_fps: float,
    source: tuple[int, int],
    size: tuple[int, int],
    frames: int,
    fps: float = 24.0,
    *,
    pairs: Sequence[Pair] = (),
    chunks: tuple[int, int] = CHUNKS,
) -> Tracks:
    """Tracks of `frames` frames from the motion of a video at `source_fps`, in real time at the stream's frame rate.

    Equals a live source cut chunk by chunk. After the video's end points hold still. Ids are renumbered.
    """
    transfer, done = VideoTransfer(video, source_fps, LiveTransfer(source, size, fps, pairs)), 0
    parts: list[Tracks] = []
    while done < frames:
        wanted = min(chunks[bool(parts)], frames - done)
        parts.append(transfer.cut(wanted))
        done += wanted
    return Tracks.merge([Tracks.join(parts)], renumber=True)
