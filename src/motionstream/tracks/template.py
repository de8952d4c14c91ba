"""The tracker for measurements: finds patches of the first frame by correlation, with subpixel alignment.

Points are complex numbers x + iy, so that a moved, rotated and scaled patch is z -> pose * z + centre: |pose| is its
scale and the angle of pose its rotation, relative to frame 0.
Axes: N points, P the patch's side, D = P * P * 3 its values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from motionstream.tracks.point_log import PointLog
from motionstream.tracks.tracks import Tracks

_ITERATIONS = 8  # of Gauss-Newton; steps are well below 0.01 px after these
_MAX_SHIFT = 2.5  # largest distance in pixels from the start of an alignment; beyond it, it found another place
_MAX_TURN = 0.3  # largest change of pose in one frame: 17 degrees or 30 % in scale
_SCALES = (0.4, 2.5)  # smallest and largest scale of the patch relative to frame 0
_MIN_TEXTURE = 0.5  # smallest contrast, in levels of 255: about the rounding error of a flat 8-bit picture


@dataclass(frozen=True)
class TemplateTracker:
    """Template matching for small rendered video, whose large soft shapes mislead optical flow.

    Every point's patch of frame 0 (`patch` pixels a side, the centre weighing most) is aligned to each frame by
    inverse-compositional Gauss-Newton (Baker and Matthews 2004) over shift, rotation and scale, starting from the
    previous frame's result. If the correlation stays below `search`, the patch in its present pose is also searched
    within `radius` pixels (normalised cross-correlation). Templates are always frame 0's, so nothing drifts; brightness
    and contrast do not matter. A point is lost for good if its correlation is below `threshold`, its patch has no
    texture, or it leaves the picture; it then stays at its last position. `smoothing` (sigma in pixels) makes patches
    of sharp and of slightly blurred pictures comparable.
    """

    patch: int = 11
    radius: int = 8
    threshold: float = 0.5
    search: float = 0.9
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        if self.patch < 3 or self.patch % 2 == 0:
            raise ValueError(f"patch is {self.patch}; give an odd number of pixels, at least 3")
        if self.radius < 1:
            raise ValueError(f"radius is {self.radius}; give at least 1 pixel")
        if not 0 < self.threshold <= self.search <= 1:
            values = f"threshold {self.threshold}, search {self.search}"
            raise ValueError(f"{values}; give 0 < threshold <= search <= 1")
        if not self.smoothing > 0:
            raise ValueError(f"smoothing is {self.smoothing}; give a positive sigma in pixels")

    @property
    def margin(self) -> int:
        """Pixels by which frames are padded, by reflection, so that patches and searches stay inside."""
        return self.patch + self.radius

    def track(self, video: np.ndarray, points: np.ndarray, fps: float = 24.0) -> Tracks:
        """See Tracker."""
        track = PointLog(video, points)
        first = self._prepare(video[0])
        centre = _complex(track.current) + self.margin * (1 + 1j)
        templates = _Templates(first, np.where(track.alive, centre, 0), self.patch)
        track.alive &= templates.textured
        track.record(0)
        pose = np.ones(len(centre), complex)
        for frame in range(1, len(video)):
            index = np.flatnonzero(track.alive)
            best = self._locate(self._prepare(video[frame]), templates, index, centre[index], pose[index])
            centre[index], pose[index] = best.centre, best.pose
            found = np.stack([best.centre.real, best.centre.imag], axis=-1) - self.margin
            track.update(index, found, best.score >= self.threshold)
            track.record(frame)
        return track.tracks(fps)

    def _prepare(self, picture: np.ndarray) -> np.ndarray:
        import cv2

        edge = self.margin
        wide = cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_REFLECT_101)
        return np.asarray(cv2.GaussianBlur(wide.astype(np.float32), (0, 0), self.smoothing))

    def _locate(
        self,
        picture: np.ndarray,
        templates: "_Templates",
        index: np.ndarray,
        centre: np.ndarray,
        pose: np.ndarray,
    ) -> "_Fit":
        """The best fit for the points `index`, given their centre and pose one frame earlier."""
        best = _Fit(centre.copy(), pose.copy(), np.full(len(index), -1.0))
        best.improve(np.arange(len(index)), templates.align(picture, index, centre, pose))
        unsure = np.flatnonzero(best.score < self.search)
        peaks = centre.copy()
        for row in unsure:
            patch = templates.posed(index[row], pose[row])
            peaks[row] = _search(picture, patch, centre[row], self.radius)
        best.improve(unsure, templates.align(picture, index[unsure], peaks[unsure], pose[unsure]))
        # An edge or a blur leaves rotation and scale undetermined: then fit the shift alone, in the last known pose.
        bad = np.flatnonzero(best.score < self.threshold)
        best.improve(bad, templates.align(picture, index[bad], peaks[bad], pose[bad], shift_only=True))
        return best


@dataclass
class _Fit:
    """Centres and poses of patches, and their correlation there (-1: not found)."""

    centre: np.ndarray
    pose: np.ndarray
    score: np.ndarray

    def improve(self, rows: np.ndarray, other: "_Fit") -> None:
        """Adopt the `other` fit of the patches `rows` where it is better."""
        better = other.score > self.score[rows]
        for mine, new in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[rows[better]] = new[better]


class _Templates:
    """Patches (N, D) of the first frame, weighted, mean-free and of unit length, and their derivatives."""

    def __init__(self, picture: np.ndarray, centre: np.ndarray, patch: int) -> None:
        self.picture, self.centre = picture, centre
        half = patch // 2
        x, y = np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1))
        self.offsets = x + 1j * y
        weights = np.exp(-0.5 * (np.abs(self.offsets) / (0.18 * patch)) ** 2)[..., None]  # to 3 sigma
        self.weights = (weights / weights.sum()).astype(np.float32)

        where = centre[:, None, None] + self.offsets
        self.patches, contrast = self._normalise(_sample(picture, where))
        self.textured = contrast > _MIN_TEXTURE
        along_x = _sample(picture, where + 0.5) - _sample(picture, where - 0.5)
        along_y = _sample(picture, where + 0.5j) - _sample(picture, where - 0.5j)
        x, y = x[..., None], y[..., None]
        # Shift in x and y, scale, rotation: the real and imaginary parts of centre and pose.
        slopes = [along_x, along_y, along_x * x + along_y * y, along_y * x - along_x * y]
        scale = np.maximum(contrast, 1e-3)[:, None]
        self.slopes = np.stack([self._centred(slope) / scale for slope in slopes], axis=1)  # (N, 4, D)
        # Remove the component along the patch itself: a change of contrast, not motion.
        self.slopes -= (self.slopes @ self.patches[..., None]) * self.patches[:, None]
        self.hessian = self.slopes @ self.slopes.transpose(0, 2, 1)
        damping = 1e-3 / 4 * np.trace(self.hessian, axis1=1, axis2=2) + 1e-12
        self.hessian += damping[:, None, None] * np.eye(4, dtype=np.float32)

    def _centred(self, patches: np.ndarray) -> np.ndarray:
        """(N, P, P, 3) -> (N, D): minus the weighted mean, times the root of the weights, so that inner products are
        weighted."""
        mean = (patches * self.weights).sum(axis=(1, 2), keepdims=True)
        return ((patches - mean) * np.sqrt(self.weights)).reshape(len(patches), 3 * self.offsets.size)

    def _normalise(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (N, D), whose inner products are correlations, and their former lengths, the contrast (N,)."""
        vectors = self._centred(patches)
        contrast = np.sqrt((vectors**2).sum(axis=1))
        return vectors / np.maximum(contrast, 1e-3)[:, None], contrast

    def posed(self, index: int, pose: complex) -> np.ndarray:
        """One point's patch (P, P, 3) of the first frame, in a pose."""
        return _sample(self.picture, self.centre[index] + self.offsets / pose)

    def align(
        self,
        picture: np.ndarray,
        index: np.ndarray,
        centre: np.ndarray,
        pose: np.ndarray,
        shift_only: bool = False,
    ) -> _Fit:
        """Fit the patches `index` to a picture, starting from their centres and poses."""
        start, before = centre, pose
        unknowns = 2 if shift_only else 4
        slopes, hessian = self.slopes[index, :unknowns], self.hessian[index, :unknowns, :unknowns]
        for _ in range(_ITERATIONS):
            error = self._look(picture, centre, pose) - self.patches[index]
            step = np.linalg.solve(hessian, slopes @ error[..., None])[..., 0]
            shift = step[:, 0] + 1j * step[:, 1]
            shift = shift / np.maximum(np.abs(shift), 1)  # at most a pixel
            if not shift_only:
                turn = np.clip(step[:, 2], -0.1, 0.1) + 1j * np.clip(step[:, 3], -0.1, 0.1)
                pose = pose / (1 + turn)
            centre = centre - pose * shift
        score = (self._look(picture, centre, pose) * self.patches[index]).sum(axis=1)
        size = np.abs(pose)
        plausible = np.abs(centre - start) < _MAX_SHIFT
        plausible &= (np.abs(pose / before - 1) < _MAX_TURN) & (_SCALES[0] < size) & (size < _SCALES[1])
        return _Fit(centre, pose, np.where(plausible, score, -1.0))

    def _look(self, picture: np.ndarray, centre: np.ndarray, pose: np.ndarray) -> np.ndarray:
        where = centre[:, None, None] + pose[:, None, None] * self.offsets
        return self._normalise(_sample(picture, where))[0]


def _complex(points: np.ndarray) -> np.ndarray:
    return points[:, 0].astype(float) + 1j * points[:, 1]


def _sample(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Sample a picture (H, W, 3) bilinearly: complex positions (...,) -> values (..., 3)."""
    height, width = picture.shape[:2]
    x = np.clip(where.real, 0, width - 1.001)
    y = np.clip(where.imag, 0, height - 1.001)
    column, row = x.astype(np.int64), y.astype(np.int64)
    right = (x - column).astype(np.float32)[..., None]
    below = (y - row).astype(np.float32)[..., None]
    pixels, index = picture.reshape(height * width, -1), row * width + column
    upper = pixels[index] * (1 - right) + pixels[index + 1] * right
    lower = pixels[index + width] * (1 - right) + pixels[index + width + 1] * right
    return np.asarray(upper * (1 - below) + lower * below)


def _search(picture: np.ndarray, patch: Any, near: complex, radius: int) -> complex:
    """The whole pixel within `radius` of `near` around which a patch correlates best."""
    import cv2

    reach = len(patch) // 2 + radius
    column, row = round(near.real), round(near.imag)
    window = picture[row - reach : row + reach + 1, column - reach : column + reach + 1]
    scores = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED)
    down, right = divmod(int(scores.argmax()), scores.shape[1])
    return complex(column + right - radius, row + down - radius)
