"""Trackers: video to tracks. `LucasKanade` and `TemplateTracker` need OpenCV only; `cotracker.py` has adapters.

Axes: video uint8 (T, H, W, 3), points float32 (N, 2) in pixels of frame 0, (0, 0) the centre of the top-left
pixel.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from motionstream.tracks.cotracker import CoTracker, CoTrackerOnline
from motionstream.tracks.grids import grid_points
from motionstream.tracks.point_log import PointLog
from motionstream.tracks.template import TemplateTracker
from motionstream.tracks.tracks import Tracks

__all__ = [
    "TRACKERS",
    "CoTracker",
    "CoTrackerOnline",
    "LucasKanade",
    "TemplateTracker",
    "Tracker",
    "grid_points",
    "make_tracker",
]

TRACKERS = ("lucas-kanade", "template", "cotracker", "cotracker-online")


class Tracker(Protocol):
    """Follows points of a video's first frame."""

    def track(self, video: np.ndarray, points: np.ndarray, fps: float = 24.0) -> Tracks:
        """video uint8 (T, H, W, 3), points float (N, 2) in frame 0 -> Tracks of T frames, ids 0..N-1.

        A point that is lost, hidden or out of the picture is invisible; so is one that starts outside.
        """
        ...


@dataclass(frozen=True)
class LucasKanade:
    """Pyramidal Lucas-Kanade optical flow (OpenCV), each step checked by going back.

    A point is lost for good when the flow fails, backward flow misses its origin by more than `max_error` pixels, or it
    leaves the picture; it then stays at its last position. Made for textured video: large soft shapes mislead it, see
    `TemplateTracker`.
    """

    window: int = 21
    levels: int = 3
    max_error: float = 1.0

    def __post_init__(self) -> None:
        if self.window < 3 or self.levels < 0 or not self.max_error > 0:
            raise ValueError(f"{self}; give window >= 3, levels >= 0 and max_error > 0")

    def track(self, video: np.ndarray, points: np.ndarray, fps: float = 24.0) -> Tracks:
        """See Tracker."""
        import cv2

        track = PointLog(video, points)
        track.record(0)
        before = cv2.cvtColor(video[0], cv2.COLOR_RGB2GRAY)
        for frame in range(1, len(video)):
            after = cv2.cvtColor(video[frame], cv2.COLOR_RGB2GRAY)
            index = np.flatnonzero(track.alive)
            if len(index):
                track.update(index, *self.follow(before, after, track.current[index]))
            track.record(frame)
            before = after
        return track.tracks(fps)

    def follow(self, before: np.ndarray, after: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the next grey picture of points float32 (n, 2) of one, uint8 (H, W), and whether they passed the
        check (n,)."""
        end, found = self._flow(before, after, points)
        back, returned = self._flow(after, before, end)
        return end, found & returned & (np.hypot(*(back - points).T) <= self.max_error)

    def _flow(self, before: Any, after: Any, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 2) in another grey picture of points of one, and whether they were found (n,)."""
        import cv2

        window = (self.window, self.window)
        end, found, _ = cv2.calcOpticalFlowPyrLK(
            before, after, start, start.copy(), winSize=window, maxLevel=self.levels
        )
        return np.asarray(end), np.asarray(found)[:, 0] == 1


def make_tracker(name: str, cotracker: tuple[str, str] | None = None, device: str = "cpu") -> Tracker:
    """The tracker of a name in ``TRACKERS``; ``cotracker`` (repository, checkpoint) and ``device`` are CoTracker's.

    Raises ValueError where CoTracker's files are missing or do not fit.
    """
    repository, checkpoint = cotracker or (None, None)
    if name == "cotracker":
        return CoTracker(repository, checkpoint, device)
    if name == "cotracker-online":
        return CoTrackerOnline(repository, checkpoint, device)
    if name not in TRACKERS:
        raise ValueError(f"tracker = {name!r}: give one of {', '.join(TRACKERS)}")
    return TemplateTracker() if name == "template" else LucasKanade()
