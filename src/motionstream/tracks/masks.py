"""Selects an object by a click, points or a box: GrabCut (Rother et al. 2004), from several guesses of its mask.

Pictures are uint8 (H, W, 3), masks bool (H, W), pixels (x, y) with (0, 0) the centre of the top-left one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike
from skimage.graph import MCP_Geometric

LARGEST = 160
"""Longer side in pixels at which objects are cut out; larger pictures are reduced first, and the mask is enlarged."""
SHARES = (0.01, 0.02, 0.035, 0.06, 0.1, 0.16, 0.25)
"""Shares of the picture that the object may fill: one guess each."""
MOST, LEAST = 0.5, 20  # largest mask as a share of the picture, smallest in pixels
TIMES = 3
"""A mask must be this many times as large as its hints, else nothing around them looked alike."""
ROUNDS = 3
MOST_CORNERS = 256
MARGIN_DIVISOR = 8
"""Pixels farther from a guess than the longer side divided by this are not of the object."""
SURELY = 0.5
"""Share of the points taken to be on the object for certain: those nearest to the middle one along paths that avoid
edges. The others may miss it."""
BAND, BAND_ROUNDS = 4, 2
"""Half-width in pixels of the band around a coarse outline in which the fine one is sought; GrabCut rounds there."""
HEED, EDGE = 0.9, 15.0
"""Weight of an outline along edges of the picture relative to agreement among masks, and the gradient of a full edge in
CIELAB levels per pixel. (Masks may agree on a patch of sky, whose outline follows no edge.)"""
LIKELY = (0.25, 0.5, 0.75)
"""Probabilities at which a drawn guess is thresholded into masks."""
QUICK_SHARES, QUICK_ROUNDS = (0.02, 0.06, 0.16), 2
"""Guesses and rounds of `cut_out`: fewer than for a click, in a tenth of the time."""

Box = tuple[float, float, float, float]
Draw = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps a picture, uint8 (H, W, 3), points ``on`` (N, 2) an object and points ``off`` (M, 2) it to the probability,
float32 (H, W), that a pixel belongs to the object. It adds guesses, and takes part in choosing the best mask."""


def select_object(
    picture: np.ndarray,
    point: tuple[float, float] | None = None,
    box: Box | None = None,
    draw: Draw | None = None,
) -> np.ndarray:
    """The mask of the object at `point`, or within `box` (left, top, right, bottom). `draw` adds guesses for a point.

    From a click a region grows along paths that avoid edges and other colours; at each of the `SHARES` it is a guess,
    which GrabCut refines. The mask that agrees best with the others and follows edges is taken: on an object, most
    guesses end at its outline. If no mask is plausible, the result is a disc around the click.

    The mask is in one piece, without holes, and contains the click. The same picture and click give the same mask.
    Raises ValueError for an unusable picture, point or box.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape[:2]) < 8:
        raise ValueError(f"picture is {picture.dtype} {picture.shape}; give uint8 (height, width, 3), 8 pixels or more")
    if (point is None) == (box is None):
        raise ValueError(f"point {point} and box {box}: give exactly one of them")
    height, width = picture.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    small = picture
    if scale < 1:
        wanted = (max(8, round(width * scale)), max(8, round(height * scale)))
        small = cv2.resize(picture, wanted, interpolation=cv2.INTER_AREA)
    ratio = np.array([small.shape[1] / width, small.shape[0] / height])
    cv2.setRNGSeed(0)  # GrabCut initializes its clusters at random
    if point is not None:
        _check_inside(point, (height, width))
        place = np.floor((np.array(point) + 0.5) * ratio).astype(int)
        click = (int(place[0]), int(place[1]))
        sure = _disc(small.shape[:2], click, 2)
        hints = _Hints(click, sure, sure, np.zeros_like(sure))
        views = _views(draw, small, np.array([click]), np.zeros((0, 2)), hints)
        guesses = [*_flooded(_distance(small, click), hints, SHARES), *views]
        mask = _best(small, guesses, hints, ROUNDS, views)
    else:
        assert box is not None
        mask = _within(small, _check_box(box, (height, width)) * np.tile(ratio, 2))
    if scale < 1:
        mask = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    return np.asarray(mask, bool)


def cut_out(picture: np.ndarray, on: np.ndarray, off: np.ndarray, draw: Draw | None = None) -> np.ndarray:
    """The mask of the object with points ``on`` (N, 2) on it, N at least 1, and points ``off`` (M, 2) off it.

    Takes about 25 ms at 128×128, plus ``draw``: guesses at half the picture's size around the middle point, then a
    refinement near the outline at full size. The same picture, points and drawing give the same mask.
    """
    cv2.setRNGSeed(0)
    small = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    x, y = _pixels(on, small.shape[:2], 0.5).T
    middle = np.hypot(*(on - on.mean(axis=0)).T).argmin()
    distance = _distance(small, (int(x[middle]), int(y[middle])))
    on = on[distance[y, x].argsort(kind="stable")]
    hints = _hints(on, off, small.shape[:2], 0.5)
    views = _views(draw, picture, on, off, hints)
    coarse = _best(small, [*_flooded(distance, hints, QUICK_SHARES), *views], hints, QUICK_ROUNDS, views)
    enlarged = cv2.resize(coarse.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return _sharpened(picture, enlarged, _hints(on, off, picture.shape[:2], 1.0))


def outline(mask: np.ndarray) -> np.ndarray:
    """The outer border of a mask's largest piece as a polygon, float (K, 2), accurate to a pixel if MOST_CORNERS
    corners suffice; K = 0 for an empty mask."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.zeros((0, 2))
    largest, error = max(contours, key=len), 0.75
    while len(corners := cv2.approxPolyDP(largest, error, True)[:, 0]) > MOST_CORNERS:
        error *= 2
    return np.asarray(corners, float)


def filled(corners: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """The mask, bool (height, width), of a polygon (K, 2), its border included.

    Raises ValueError if it covers no pixel of the picture.
    """
    polygon = np.round(np.asarray(corners, float)).astype(np.int32)
    mask = cv2.fillPoly(np.zeros(size, np.uint8), [polygon], 1) > 0
    if not mask.any():
        raise ValueError("the outline holds nothing of the picture; draw it inside")
    return np.asarray(mask)


@dataclass(frozen=True)
class _Hints:
    """Hints about an object: a ``place`` (x, y) on it, and masks bool (H, W) of pixels that are ``sure`` to belong to
    it, ``likely`` to, and that ``never`` do."""

    place: tuple[int, int]
    sure: np.ndarray
    likely: np.ndarray
    never: np.ndarray

    def fit(self, mask: np.ndarray) -> bool:
        """Whether a mask's size is plausible: not tiny, not hardly more than the hints, not most of the picture."""
        least = max(LEAST, TIMES * int(self.sure.sum()))
        return bool(least <= mask.sum() <= MOST * mask.size)


def _hints(on: np.ndarray, off: np.ndarray, size: tuple[int, int], scale: float) -> _Hints:
    """Hints from points, the surest first, for a picture ``scale`` times as large as the one they refer to."""
    sure, likely, never = (_dots(points, size, scale) for points in (on[: max(1, round(SURELY * len(on)))], on, off))
    x, y = _pixels(on[:1], size, scale)[0]
    return _Hints((int(x), int(y)), sure, likely, never & ~likely)


def _pixels(points: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    return np.clip(np.round((points + 0.5) * scale - 0.5), 0, (size[1] - 1, size[0] - 1)).astype(int)


def _dots(points: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """A mask of the points and the pixels next to them."""
    dots = np.zeros(size, np.uint8)
    for x, y in _pixels(points, size, scale):
        cv2.circle(dots, (int(x), int(y)), 1, 1, -1)
    return dots > 0


def _views(draw: Draw | None, picture: np.ndarray, on: np.ndarray, off: np.ndarray, hints: _Hints) -> list[np.ndarray]:
    """The plausible masks from ``draw``, in the size of the ``hints``."""
    if draw is None:
        return []
    drawn, size = draw(picture, on, off), hints.sure.shape
    if drawn.shape != size:
        drawn = cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_AREA)
    views = (_tidied(drawn > share, hints.sure) for share in LIKELY)
    return [view for view in views if hints.fit(view)]


def _flooded(distance: np.ndarray, hints: _Hints, shares: Sequence[float]) -> list[np.ndarray]:
    """Guesses that contain the hinted place: the nearest pixels by ``distance`` (H, W), for each of these shares of the
    picture."""
    order = np.sort(distance, axis=None)
    return [_piece(distance <= order[int(share * len(order))], hints.place) for share in shares]


def _best(
    picture: np.ndarray,
    guesses: Sequence[np.ndarray],
    hints: _Hints,
    rounds: int,
    views: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Among refined guesses and unrefined ``views``, the mask that agrees best with all and whose outline follows the
    picture's edges."""
    refined = (_tidied(_refine(picture, guess | hints.likely, hints, rounds), hints.sure) for guess in guesses)
    found = [mask for mask in (*refined, *views) if hints.fit(mask)]
    if not found:
        return _disc(picture.shape[:2], hints.place, 0.08 * min(picture.shape[:2])) | hints.sure
    edges = cv2.dilate(_edges(lab_of(picture)), np.ones((3, 3), np.uint8))
    scores = [np.mean([_overlap(one, other) for other in found]) + HEED * _along_edges(one, edges) for one in found]
    return found[int(np.argmax(scores))]


def _along_edges(mask: np.ndarray, edges: np.ndarray) -> float:
    """How well a mask's outline follows ``edges`` (H, W), 0 to 1; the picture's border does not count."""
    inner = cv2.erode(np.pad(mask, 1, mode="edge").astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    outline = edges[mask & ~inner]
    return float(np.clip(outline / EDGE, 0, 1).mean()) if len(outline) else 0.0


def _distance(picture: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """Geodesic distance (H, W) of every pixel from `place`: edges and colours unlike those at the place cost more."""
    (x, y), reach = place, 3
    lab = lab_of(picture)
    patch = lab[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].reshape(-1, 3)
    colour = np.linalg.norm(lab - np.median(patch, axis=0), axis=-1)
    return np.asarray(MCP_Geometric(0.3 + _edges(lab) + 0.05 * colour).find_costs([(y, x)])[0])


def lab_of(picture: np.ndarray) -> np.ndarray:
    """The picture in CIELAB after edge-preserving smoothing, float32 (H, W, 3)."""
    smooth = cv2.bilateralFilter(picture, 5, 30, 3)
    return np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32))


def _edges(lab: np.ndarray) -> np.ndarray:
    """Gradient magnitude (H, W)."""
    slopes = np.concatenate([cv2.Sobel(lab, -1, 1, 0), cv2.Sobel(lab, -1, 0, 1)], axis=-1) / 8
    return np.asarray(np.linalg.norm(slopes, axis=-1))


def _refine(picture: np.ndarray, guess: np.ndarray, hints: _Hints, rounds: int) -> np.ndarray:
    """GrabCut from a guess: hinted pixels are fixed, pixels far outside of the guess are background."""
    far = ~grown(guess, max(guess.shape) // MARGIN_DIVISOR)
    labels = np.where(guess, cv2.GC_PR_FGD, np.where(far, cv2.GC_BGD, cv2.GC_PR_BGD)).astype(np.uint8)
    labels[hints.never] = cv2.GC_BGD
    labels[hints.sure] = cv2.GC_FGD
    return _grab(picture, labels, rounds)


def _sharpened(picture: np.ndarray, mask: np.ndarray, hints: _Hints) -> np.ndarray:
    """GrabCut again in a band around a mask's outline."""
    inner, outer = ~grown(~mask, BAND), grown(mask, BAND)
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[inner] = cv2.GC_FGD
    labels[hints.never | ~outer] = cv2.GC_BGD
    labels[hints.sure] = cv2.GC_FGD
    rows, columns = (_around(np.any(outer, axis=axis), 3 * BAND) for axis in (1, 0))  # all else is background
    out = np.zeros_like(mask)
    out[rows, columns] = _grab(
        np.ascontiguousarray(picture[rows, columns]), np.ascontiguousarray(labels[rows, columns]), BAND_ROUNDS
    )
    return _filled(out | hints.sure)


def _around(some: ArrayLike, pad: int) -> slice:
    """The slice from the first to the last true value, padded by ``pad``."""
    true = np.flatnonzero(some)
    return slice(max(int(true[0]) - pad, 0), int(true[-1]) + pad + 1)


def _grab(picture: np.ndarray, labels: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(picture, labels, (0, 0, 1, 1), *models, rounds, cv2.GC_INIT_WITH_MASK)
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _within(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """GrabCut within a box; the whole box if nothing in it stands out."""
    height, width = picture.shape[:2]
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.minimum(np.ceil(box[2:]).astype(int), (width, height))
    inside = np.zeros((height, width), bool)
    inside[top:bottom, left:right] = True
    if inside.all():
        raise ValueError("the box is the whole picture; leave something outside of it")
    mask = _grab(picture, np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8))
    count, pieces, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return inside
    largest = 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax())
    return _filled(pieces == largest)


def _tidied(mask: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """The pieces of a mask that contain ``sure`` pixels, opened (without thin lines) and without holes."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    _, pieces = cv2.connectedComponents((opened | sure).astype(np.uint8))
    return _filled(np.isin(pieces, np.unique(pieces[sure])))


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Dilate a mask bool (H, W) by so many pixels, with squares."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0)


def _piece(mask: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """The piece of a mask that contains a pixel, its holes filled; empty if the pixel is not in the mask."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8))
    here = pieces[place[1], place[0]]
    return _filled(pieces == here) if here else np.zeros_like(mask)


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill a mask's holes: background that is not connected to the border."""
    _, outside = cv2.connectedComponents((~mask).astype(np.uint8))
    border = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
    return np.asarray(mask | ~np.isin(outside, border))


def _disc(size: Sequence[int], place: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.ogrid[: size[0], : size[1]]
    return np.asarray(np.hypot(x - place[0], y - place[1]) <= radius)


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union."""
    return float((first & second).sum() / max((first | second).sum(), 1))


def _check_inside(point: tuple[float, float], size: tuple[int, int]) -> None:
    (x, y), (height, width) = point, size
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):  # also refuses NaN
        raise ValueError(f"({x:g}, {y:g}) is outside the picture of {width} x {height} pixels; click inside")


def _check_box(box: Box, size: tuple[int, int]) -> np.ndarray:
    """Left, top, right and bottom, measured from the picture's edge, not its first pixel's centre, and clipped."""
    (height, width), edges = size, np.array(box, float) + 0.5
    if edges.shape != (4,) or not np.isfinite(edges).all():
        raise ValueError(f"box is {box}; give left, top, right, bottom in pixels")
    edges = np.clip(edges, 0, np.tile((width, height), 2))
    if edges[2] - edges[0] < 2 or edges[3] - edges[1] < 2:
        raise ValueError(f"box {box} has less than 2 x 2 pixels of the picture; draw a larger one")
    return edges
