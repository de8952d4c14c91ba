"""Estimates from the tracks alone how much of the first view is still in the picture."""

import numpy as np

from motionstream.tracks.tracks import Tracks

LEAST_POINTS = 8
LEAST_AGREEING = 0.5
"""Smallest share of the points that a motion of the whole picture must explain, so that a drag is not taken for one."""
LEAST_SPREAD = 0.5
"""Smallest share of the picture's width and of its height that the points must span."""
GRID = 16


class FirstView:
    """Composes the motion of the whole picture, chunk by chunk.

    Each chunk contributes the similarity that most of its points agree on (RANSAC), if they span the picture. (With
    pins beside a drag, most agree on no motion.) `share` is the share of a grid over the first view that the composed
    motion leaves in the picture: 1 at first, 0 once the camera has left it.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._last: dict[int, np.ndarray] = {}  # id -> where a point was in the last chunk's last frame
        self.reset()

    def reset(self) -> None:
        """Make the current view the first view."""
        x, y = ((np.arange(GRID) + 0.5) * (side / GRID) - 0.5 for side in self.size[::-1])
        self._grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    @property
    def share(self) -> float:
        """Share of the first view that is in the picture, 0 to 1."""
        height, width = self.size
        inside = (self._grid >= -0.5) & (self._grid < (width - 0.5, height - 0.5))
        return float(inside.all(axis=1).mean())

    def add(self, tracks: Tracks) -> float:
        """Add the next chunk's tracks; returns the new `share`."""
        rows = np.flatnonzero(tracks.visible[-1])
        first = {row: self._last.get(int(tracks.ids[row])) for row in rows.tolist()}
        # A point that begins in this chunk is compared with its first position.
        begins = {row: tracks.positions[np.argmax(tracks.visible[:, row]), row] for row in rows.tolist()}
        before = np.array([begins[row] if place is None else place for row, place in first.items()]).reshape(-1, 2)
        after = tracks.positions[-1, rows].astype(float)
        self._last = {int(tracks.ids[row]): tracks.positions[-1, row] for row in rows.tolist()}
        motion = self._motion(before.astype(float), after)
        if motion is not None:
            self._grid = self._grid @ motion[:, :2].T + motion[:, 2]
        return self.share

    def _motion(self, before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
        """The similarity (2, 3) of the whole picture, or None if the points do not determine one."""
        import cv2

        extent = np.ptp(before, axis=0) if len(before) else np.zeros(2)
        if len(before) < LEAST_POINTS or (extent < LEAST_SPREAD * np.array(self.size[::-1])).any():
            return None
        motion, agree = cv2.estimateAffinePartial2D(before, after, ransacReprojThreshold=2.0)
        if motion is None or not np.isfinite(motion).all() or agree.mean() < LEAST_AGREEING:
            return None
        return np.asarray(motion)
