"""Grids of points: around a pointer, inside a mask, over the whole picture.

Pixels are (x, y) with (0, 0) the centre of the top-left pixel; `size` is (height, width).
"""

import math

import numpy as np

from motionstream.tracks.tracks import check_size


def check_start(x: float, y: float, size: tuple[int, int]) -> None:
    """Refuse a point that is not in the picture, naming the numbers."""
    height, width = size
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"start ({x:g}, {y:g}) is not a point; give two finite numbers")
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        raise ValueError(
            f"start ({x:g}, {y:g}) is outside the picture of {width} x {height} pixels; "
            f"start where x is in 0..{width - 1} and y in 0..{height - 1}"
        )


def grid_around(
    x: float,
    y: float,
    size: tuple[int, int],
    *,
    spacing: float = 8,
    radius: float = 16,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Points `spacing` pixels apart around (x, y): float64 (N, 2), rows from the top, x fastest.

    Without a mask: those within `radius` of (x, y), which is itself a point of the grid. With a mask (bool,
    (height, width)): those inside the mask at any distance, or, if the mask falls between the grid's points, its pixel
    nearest to (x, y). Points outside the picture are left out. There is always at least one point.

    Raises ValueError for a start outside the picture, a spacing below one pixel, a negative radius, an empty
    mask or one of another size.
    """
    height, width = size
    check_start(x, y, size)
    if not (math.isfinite(spacing) and spacing >= 1):
        raise ValueError(f"spacing is {spacing} pixels; give at least 1")
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius is {radius} pixels; give 0 (a single point) or more")
    # A mask may lie anywhere in the picture; the longest possible offset is its diagonal.
    steps = int(min(radius if mask is None else math.inf, height + width) // spacing)
    columns = x + spacing * _offsets(x, width, spacing, steps)
    rows = y + spacing * _offsets(y, height, spacing, steps)
    points = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    if mask is None:
        return points[np.hypot(*(points - (x, y)).T) <= radius * (1 + 1e-9)]
    return _inside_mask(points, mask, (x, y), size)


def _offsets(centre: float, length: int, spacing: float, steps: int) -> np.ndarray:
    """Multiples of `spacing` from `centre` that stay in -0.5 <= x < length - 0.5, at most `steps` each way."""
    first = max(math.ceil((-0.5 - centre) / spacing), -steps)
    stop = min(math.ceil((length - 0.5 - centre) / spacing), steps + 1)
    return np.arange(first, stop)


def _inside_mask(points: np.ndarray, mask: np.ndarray, start: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape != size:
        raise ValueError(f"mask is {mask.dtype} {mask.shape}; give bool {size}, the picture's height and width")
    if not mask.any():
        raise ValueError("mask is empty; mark at least one pixel")
    columns, rows = np.floor(points + 0.5).astype(int).T
    chosen = points[mask[rows, columns]]
    if len(chosen):
        return chosen
    pixels = np.argwhere(mask)[:, ::-1].astype(float)
    nearest = np.hypot(*(pixels - start).T).argmin()
    return pixels[nearest : nearest + 1]


def grid_points(size: tuple[int, int], count: int) -> np.ndarray:
    """A uniform grid of count x count points over the picture: float32 (count * count, 2), x fastest.

    Laid out as CoTracker lays out its own grid (a margin of 1/64 of the width on every side), which is how
    the paper's 50 x 50 tracks were made (appendix D): at 832 x 480, x spans 13..819 and y 13..467.
    """
    height, width = check_size(size)
    if count < 1:
        raise ValueError(f"count is {count}; a grid has at least 1 point a side")
    if count == 1:
        return np.array([[width / 2, height / 2]], np.float32)
    margin = width / 64
    columns = np.linspace(margin, width - margin, count)
    rows = np.linspace(margin, height - margin, count)
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(np.float32)
