"""The bookkeeping that trackers share."""

import numpy as np

from motionstream.tracks.tracks import Tracks, check_counts


class PointLog:
    """The points' current positions while a tracker goes through a video, and those recorded so far.

    video: uint8 (T, H, W, 3). points: float (N, 2), x and y in pixels of frame 0; those outside are lost at once. Lost
    points stay lost: invisible, at their last position. Raises ValueError naming what is wrong.
    """

    def __init__(self, video: np.ndarray, points: np.ndarray) -> None:
        video, points = np.asarray(video), np.asarray(points)
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
            raise ValueError(f"video is {video.dtype} {video.shape}; give uint8 (frames, height, width, 3)")
        if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "fiu":
            raise ValueError(f"points are {points.dtype} {points.shape}; give float32 (points, 2), x and y")
        wrong = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(wrong):
            raise ValueError(f"point {wrong[0]} is {points[wrong[0]].tolist()}; give finite pixels")
        check_counts(len(video), len(points))
        self.size = (video.shape[1], video.shape[2])
        self.current = np.array(points, np.float32)
        self.alive = self._inside(self.current)
        self.positions = np.zeros((len(video), len(points), 2), np.float32)
        self.visible = np.zeros((len(video), len(points)), bool)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        height, width = self.size
        inside = (points >= -0.5) & (points < (width - 0.5, height - 0.5))
        return np.asarray(inside.all(axis=1))

    def update(self, index: np.ndarray, found: np.ndarray, kept: np.ndarray) -> None:
        """Move the points `index` to `found` (n, 2) where `kept` (n,) and inside; the others are lost."""
        found = found.astype(np.float32)
        kept = kept & self._inside(found)
        self.current[index[kept]] = found[kept]
        self.alive[index[~kept]] = False

    def record(self, frame: int) -> None:
        """Record the current points as those of `frame`."""
        self.positions[frame], self.visible[frame] = self.current, self.alive

    def tracks(self, fps: float) -> Tracks:
        """The recorded tracks."""
        return Tracks(self.positions, self.visible, self.size, fps)
