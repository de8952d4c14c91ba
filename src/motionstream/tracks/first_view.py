"""How much of a first view is still in the picture, told by the tracks alone."""

import numpy as np

from motionstream.tracks.tracks import Tracks

LEAST_POINTS = 8
LEAST_AGREEING = 0.5
"""Share of the points that a motion of the whole picture must explain; what a drag alone moves does not."""
LEAST_SPREAD = 0.5
"""Share of the picture's width and of its height that they must span."""
GRID = 16


class FirstView:
    """Adds up how the whole picture moves, chunk by chunk.

    Of every chunk the similarity that most of its points agree on is taken (RANSAC), if they span the picture; pins
    beside a drag agree that nothing moves. `share` is what of a grid over the first view the composed motion leaves in
    the picture: 1 at first, 0 when the camera has gone elsewhere.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._last: dict[int, np.ndarray] = {}  # id -> where a point was in the last chunk's last frame
        self.reset()

    def reset(self) -> None:
        """What is seen now becomes the first view."""
        x, y = ((np.arange(GRID) + 0.5) * (side / GRID) - 0.5 for side in self.size[::-1])
        self._grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    @property
    def share(self) -> float:
        """Of the first view in the picture, 0 to 1."""
        height, width = self.size
        inside = (self._grid >= -0.5) & (self._grid < (width - 0.5, height - 0.5))
        return float(inside.all(axis=1).mean())

    def add(self, tracks: Tracks) -> float:
        """The next chunk's tracks; returns the share after it."""
        rows = np.flatnonzero(tracks.visible[-1])
        first = {row: self._last.get(int(tracks.ids[row])) for row in rows.tolist()}
        # A point that begins here is compared with where it begins.
        begins = {row: tracks.positions[np.argmax(tracks.visible[:, row]), row] for row in rows.tolist()}
        before = np.array([begins[row] if place is None else place for row, place in first.items()]).reshape(-1, 2)
        after = tracks.positions[-1, rows].astype(float)
        self._last = {int(tracks.ids[row]): tracks.positions[-1, row] for row in rows.tolist()}
        motion = self._motion(before.astype(float), after)
        if motion is not None:
            self._grid = self._grid @ motion[:, :2].T + motion[:, 2]
        return self.share

    def _motion(self, before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
        """The similarity (2, 3) of the whole picture, or None where the points do not tell."""
        import cv2

        extent = np.ptp(before, axis=0) if len(before) else np.zeros(2)
        if len(before) < LEAST_POINTS or (extent < LEAST_SPREAD * np.array(self.size[::-1])).any():
            return None
        motion, agree = cv2.estimateAffinePartial2D(before, after, ransacReprojThreshold=2.0)
        if motion is None or not np.isfinite(motion).all() or agree.mean() < LEAST_AGREEING:
            return None
        return np.asarray(motion)
