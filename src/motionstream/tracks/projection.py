"""A pinhole camera over a picture's depth map: lifts points into space, projects them, and finds which are hidden.

World coordinates are the first camera's: x right, y down, z away from it, in the depth map's unit. Pixels are (x, y),
(0, 0) the centre of the top-left pixel. Axes: N points. Arithmetic is float64 and elementwise, so that a point's result
never depends on how many are computed together.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from motionstream.tracks.depth import check_depth
from motionstream.tracks.tracks import check_size

CELLS = 80
"""Cells of the depth buffer along the picture's longer side."""
TOLERANCE = 1.1
"""A point is hidden if its depth exceeds the nearest by more than this factor, so that slanted ground does not hide
itself."""
NEAREST_DEPTH = 1e-3
"""Points nearer than this share of the middle's depth are invisible."""


@dataclass(frozen=True)
class Pose:
    """A camera's pose: `rotation` (3, 3) from the world's axes to its own, `position` (3,) in the world, and `zoom`, a
    factor of the focal length."""

    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    position: np.ndarray = field(default_factory=lambda: np.zeros(3))
    zoom: float = 1.0


class DepthScene:
    """A picture's pixels as points in space.

    Args:
        depth: (H, W), see `depth.py`; must have the picture's `size` (height, width).
        field_of_view: degrees spanned by the picture's longer side; 50 is about a phone's double zoom.

    Raises ValueError for a depth map of another size.
    """

    def __init__(self, depth: np.ndarray, size: tuple[int, int], field_of_view: float = 50.0) -> None:
        self.size, self.depth = check_size(size), check_depth(depth)
        if self.depth.shape != self.size:
            raise ValueError(f"depth has {self.depth.shape}, the picture {self.size}; use fit_depth")
        if not 1 <= field_of_view <= 170:
            raise ValueError(f"field_of_view is {field_of_view} degrees; give 1 to 170")
        height, width = self.size
        self.focal = max(self.size) / 2 / math.tan(math.radians(field_of_view) / 2)
        self.centre = np.array([(width - 1) / 2, (height - 1) / 2])
        rows, columns = (slice(side // 3, side - side // 3) for side in self.size)
        self.middle = float(np.median(self.depth[rows, columns]))  # the depth of the picture's middle ninth
        self._cell = max(self.size) / CELLS
        self._grid = (math.ceil(height / self._cell), math.ceil(width / self._cell))
        y, x = ((np.arange(count) + 0.5) * self._cell - 0.5 for count in self._grid)
        places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        self._cloud = self.lift(places, self.depth_at(places))

    def depth_at(self, places: np.ndarray) -> np.ndarray:
        """Depth (N,) at pixels (N, 2) of the picture, clamped to its border."""
        limits = (self.size[1] - 1, self.size[0] - 1)
        column, row = np.clip(np.floor(places + 0.5).astype(int), 0, limits).T
        return np.asarray(self.depth[row, column], np.float64)

    def lift(self, places: np.ndarray, depth: np.ndarray, pose: Pose | None = None) -> np.ndarray:
        """World points (N, 3) at pixels (N, 2) and depth (N,) as seen from `pose`, by default the first camera's."""
        pose = pose or Pose()
        flat = (places - self.centre) / (self.focal * pose.zoom)
        camera = np.concatenate([flat * depth[:, None], depth[:, None]], axis=1)
        return _turn(pose.rotation.T, camera) + pose.position

    def project(self, points: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, 2) and depth (N,) of world points (N, 3) seen from `pose`; NaN for those behind the camera."""
        camera = _turn(pose.rotation, points - pose.position)
        depth = camera[:, 2]
        before = depth > NEAREST_DEPTH * self.middle
        safe = np.where(before, depth, np.nan)[:, None]
        return camera[:, :2] / safe * (self.focal * pose.zoom) + self.centre, np.where(before, depth, np.nan)

    def seen(self, places: np.ndarray, depth: np.ndarray, pose: Pose) -> np.ndarray:
        """bool (N,): which points, at pixels (N, 2) and depth (N,) from `pose`, lie in the picture and are not hidden
        by the scene."""
        height, width = self.size
        inside = np.all((places >= -0.5) & (places < (width - 0.5, height - 0.5)), axis=1)
        nearest = self._nearest(pose)
        cell = np.floor((np.where(inside[:, None], places, 0) + 0.5) / self._cell).astype(int)
        return np.asarray(inside & (depth <= TOLERANCE * nearest[cell[:, 1], cell[:, 0]]))

    def _nearest(self, pose: Pose) -> np.ndarray:
        """The depth buffer: the least depth in every cell, infinity where no point of the first picture falls."""
        places, depth = self.project(self._cloud, pose)
        rows, columns = self._grid
        nearest = np.full(rows * columns, np.inf)
        # Every point covers the four cells around it, so that a magnified surface has no holes.
        x, y = (places / self._cell + (0.5 / self._cell - 0.5)).T
        near = (x > -1) & (x < columns) & (y > -1) & (y < rows)  # NaN is not
        x, y, depth = np.floor(x[near]).astype(int), np.floor(y[near]).astype(int), depth[near]
        for column, row in ((x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)):
            inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
            np.minimum.at(nearest, (row * columns + column)[inside], depth[inside])
        return nearest.reshape(rows, columns)


def _turn(rotation: np.ndarray, points: np.ndarray) -> np.ndarray:
    """rotation (3, 3) times every point (N, 3), summed in a fixed order, which matrix products do not guarantee."""
    x, y, z = points[:, 0:1], points[:, 1:2], points[:, 2:3]
    return np.asarray(x * rotation[:, 0] + y * rotation[:, 1] + z * rotation[:, 2])
