"""A click or a box selects an object: GrabCut (Rother et al. 2004), begun from several guesses of how large it is.

Pictures are uint8 (H, W, 3), masks bool (H, W), pixels (x, y) with (0, 0) the centre of the top-left one.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike
from skimage.graph import MCP_Geometric

LARGEST = 160
"""Longer side in pixels at which a picture is cut; larger ones are reduced first, and the mask enlarged."""
SHARES = (0.01, 0.02, 0.035, 0.06, 0.1, 0.16, 0.25)
"""How much of the picture the object may be: a guess each."""
MOST, LEAST = 0.5, 20  # share of the picture, and pixels: what is larger or smaller is no object
ROUNDS = 3
MOST_CORNERS = 256

Box = tuple[float, float, float, float]


def select_object(
    picture: np.ndarray,
    point: tuple[float, float] | None = None,
    box: Box | None = None,
    *,
    shares: Sequence[float] = SHARES,
    rounds: int = ROUNDS,
) -> np.ndarray:
    """The mask of the object at `point`, or within `box` (left, top, right, bottom).

    From a click the picture is flooded in the order of how far every pixel is along paths that shun edges and other
    colours; each of the `shares` is a guess that GrabCut refines in `rounds`. The mask that agrees best with all the
    others is taken: where an object is there, most guesses end at its outline. Where none holds, a disc around the
    click.

    The mask is in one piece, without holes, and holds the click. The same picture and click give the same mask.
    Raises ValueError for a picture, point or box that does not work.
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
    cv2.setRNGSeed(0)  # GrabCut's clusters begin at random
    if point is not None:
        _check_inside(point, (height, width))
        place = np.floor((np.array(point) + 0.5) * ratio).astype(int)
        mask = _at(small, (int(place[0]), int(place[1])), shares, rounds)
    else:
        assert box is not None
        mask = _within(small, _check_box(box, (height, width)) * np.tile(ratio, 2))
    if scale < 1:
        mask = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    return np.asarray(mask, bool)


def outline(mask: np.ndarray) -> np.ndarray:
    """The outer border of a mask's largest piece as a polygon, float (K, 2), within a pixel of it where MOST_CORNERS
    suffice; K = 0 of an empty mask."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.zeros((0, 2))
    largest, error = max(contours, key=len), 0.75
    while len(corners := cv2.approxPolyDP(largest, error, True)[:, 0]) > MOST_CORNERS:
        error *= 2
    return np.asarray(corners, float)


def filled(corners: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """The mask bool (height, width) of what is within a polygon (K, 2), its border included.

    Raises ValueError where it holds no pixel of the picture.
    """
    polygon = np.round(np.asarray(corners, float)).astype(np.int32)
    mask = cv2.fillPoly(np.zeros(size, np.uint8), [polygon], 1) > 0
    if not mask.any():
        raise ValueError("the outline holds nothing of the picture; draw it inside")
    return np.asarray(mask)


def _at(picture: np.ndarray, place: tuple[int, int], shares: Sequence[float], rounds: int) -> np.ndarray:
    distance = _distance(picture, place)
    order = np.sort(distance, axis=None)
    found = []
    for share in shares:
        guess = _piece(distance <= order[int(share * len(order))], place)
        mask = _smooth(_refine(picture, guess, place, rounds), place)
        if LEAST <= mask.sum() <= MOST * mask.size:
            found.append(mask)
    if not found:
        return _disc(picture.shape[:2], place, 0.08 * min(picture.shape[:2]))
    agreement = [sum(_overlap(one, other) for other in found) for one in found]
    return found[int(np.argmax(agreement))]


def _distance(picture: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """How far every pixel is from `place`, (H, W): each costs by its edges and by how its colour differs there."""
    (x, y), reach = place, 3
    lab = cv2.cvtColor(cv2.bilateralFilter(picture, 5, 30, 3), cv2.COLOR_RGB2LAB).astype(np.float32)
    slopes = np.concatenate([cv2.Sobel(lab, -1, 1, 0), cv2.Sobel(lab, -1, 0, 1)], axis=-1) / 8
    edges = np.linalg.norm(slopes, axis=-1)
    patch = lab[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].reshape(-1, 3)
    colour = np.linalg.norm(lab - np.median(patch, axis=0), axis=-1)
    return np.asarray(MCP_Geometric(0.3 + edges + 0.05 * colour).find_costs([(y, x)])[0])


def _refine(picture: np.ndarray, guess: np.ndarray, place: tuple[int, int], rounds: int) -> np.ndarray:
    """GrabCut from a guess: certain around the click, impossible far outside of it."""
    far = cv2.dilate(guess.astype(np.uint8), np.ones((41, 41), np.uint8)) == 0
    labels = np.where(guess, cv2.GC_PR_FGD, np.where(far, cv2.GC_BGD, cv2.GC_PR_BGD)).astype(np.uint8)
    labels[_disc(guess.shape, place, 2)] = cv2.GC_FGD
    return _grab(picture, labels, rounds)


def _grab(picture: np.ndarray, labels: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(picture, labels, (0, 0, 1, 1), *models, rounds, cv2.GC_INIT_WITH_MASK)
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _within(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """GrabCut of what is in a box; all of the box where nothing in it stands out."""
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


def _smooth(mask: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    opened = cv2.morphologyEx(_piece(mask, place).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return _piece(opened > 0, place)


def _piece(mask: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """The piece of a mask that holds a pixel, its holes filled; empty where the mask does not hold it."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8))
    here = pieces[place[1], place[0]]
    return _filled(pieces == here) if here else np.zeros_like(mask)


def _filled(mask: np.ndarray) -> np.ndarray:
    """A mask without its holes: whatever outside of it does not reach the border belongs to it."""
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
    """Edges from 0 to the picture's sides, left, top, right, bottom, cut to the picture."""
    (height, width), edges = size, np.array(box, float) + 0.5
    if edges.shape != (4,) or not np.isfinite(edges).all():
        raise ValueError(f"box is {box}; give left, top, right, bottom in pixels")
    edges = np.clip(edges, 0, np.tile((width, height), 2))
    if edges[2] - edges[0] < 2 or edges[3] - edges[1] < 2:
        raise ValueError(f"box {box} has less than 2 x 2 pixels of the picture; draw a larger one")
    return edges
