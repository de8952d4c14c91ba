"""What a cut-out part is attached to, so that a head that is dragged stretches its neck instead of coming off.

A mask may end within a thing: at a neck, in fur, in the sky. From such places it is extended, over pixels that a
network takes for the same thing, until edges or the distance end it. Where no edge ends it there are *anchors*: they
act like tracks that rest (``thing_motion.py``), so the extension stretches and bends, and what lies beyond it stays.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve

from motionstream.tracks.masks import Draw, grown, lab_of

LIKELY = 0.2
"""Drawn probability from which on a pixel may be attached."""
PROMPTS = 24
"""Points of the mask that the network is given."""
WITHIN_PX = 32
"""Greatest distance of an attached pixel from the mask, along either axis."""
STEP, SURER = 3.0, 3.0
"""Two neighbouring pixels hold together if they differ by less than some ``STEP`` levels of CIELAB, and by up to
``SURER`` such steps more where the network is sure of both."""
FADES_PX, ENDS = 12.0, 0.25
"""Distance in which the hold of the mask falls to 1/e where nothing separates pixels, and the hold at which it ends."""
CRACK = 3e-3
"""How well pixels hold together across the strongest edge."""
RIM_PX = 2
"""Width beside a mask that is left to its inaccuracy."""
LEAST_PX = 30
"""Fewest attached pixels beyond that rim."""
APART_PX, SPACING_PX = 4, 4
"""Least distance of an anchor from the mask, and the side of the squares that get one anchor each."""
LETS_GO_PX = 9.0
"""An anchor this near to where a track on its thing began does not hold."""
MOST_ANCHORS = 32
"""Most anchors of a thing."""
NOWHERE = np.zeros((0, 2), np.float32)
"""The anchors of what is attached to nothing."""


def attach(
    picture: np.ndarray, mask: np.ndarray, on: np.ndarray, off: np.ndarray, draw: Draw | None
) -> tuple[np.ndarray, np.ndarray]:
    """Extend the ``mask`` (H, W) of a part of a picture, uint8 (H, W, 3), over what it is attached to.

    Args:
        on: the points (N, 2) by which it is moved. off: points (M, 2) that are not on it. draw: the network; without
            it nothing is attached.

    Returns:
        The extended mask and the anchors, float32 (A, 2), x and y in pixels; the mask itself and no anchors if the part
        is attached to nothing.
    """
    if draw is None or not mask.any():
        return mask, NOWHERE
    drawn = draw(picture, _spread(mask), off)
    if drawn.shape != mask.shape:
        drawn = cv2.resize(drawn, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    likely = mask | ((drawn > LIKELY) & grown(mask, WITHIN_PX))
    across, down = _holds(picture, drawn)
    more = _connected(mask, (_hold(mask, likely, across, down) > ENDS) & ~mask)
    if (more & ~grown(mask, RIM_PX)).sum() < LEAST_PX:
        return mask, NOWHERE
    anchors = _open_ends(mask, more, likely, across, down)
    return (mask | more, anchors) if len(holding(anchors, on)) else (mask, NOWHERE)


def holding(anchors: np.ndarray, on: np.ndarray) -> np.ndarray:
    """The anchors (A, 2) that hold when the thing is moved by the points ``on`` (N, 2): those not near to one."""
    apart = np.linalg.norm(anchors[:, None] - on, axis=-1).min(axis=1, initial=np.inf)
    return anchors[apart > LETS_GO_PX]


def _spread(mask: np.ndarray) -> np.ndarray:
    """Points (N, 2) all over a mask, x and y."""
    points = np.argwhere(mask)[:, ::-1].astype(float)
    return points[np.linspace(0, len(points) - 1, min(PROMPTS, len(points))).round().astype(int)]


def _holds(picture: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well each pixel holds together with the next one to the right (H, W − 1) and below (H − 1, W), 0 to 1."""
    lab = lab_of(picture)

    def downwards(lab: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        steps, sure = np.linalg.norm(np.diff(lab, axis=0), axis=-1), np.minimum(drawn[1:], drawn[:-1])
        return np.asarray(np.exp(-((steps / (STEP * (1 + SURER * sure))) ** 2)) + CRACK)

    return downwards(lab.swapaxes(0, 1), drawn.T).T, downwards(lab, drawn)


def _hold(mask: np.ndarray, likely: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """How much the mask holds each likely pixel (H, W): 1 on it, decaying along the picture (a screened Poisson
    equation on the graph of pixels)."""
    number = np.full(mask.shape, -1)
    number[likely] = np.arange(likely.sum())
    pairs = [(number[:, :-1], number[:, 1:], across), (number[:-1], number[1:], down)]
    one, other, weight = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in range(3))
    both = (one >= 0) & (other >= 0)
    one, other, weight = one[both], other[both], weight[both]
    count = int(likely.sum())
    rows, columns = np.r_[one, other], np.r_[other, one]
    laplacian = coo_matrix((-np.r_[weight, weight], (rows, columns)), (count, count)).tocsr()
    laplacian.setdiag(FADES_PX**-2 - np.asarray(laplacian.sum(axis=1)).ravel())
    free = np.flatnonzero(~mask[likely])
    out = mask.astype(float)
    if len(free):
        fixed = np.flatnonzero(mask[likely])
        given = -np.asarray(laplacian[free][:, fixed].sum(axis=1)).ravel()
        out[likely & ~mask] = spsolve(laplacian[free][:, free].tocsc(), given)
    return out


def _connected(mask: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The parts of ``more`` that touch the mask."""
    _, pieces = cv2.connectedComponents((mask | more).astype(np.uint8), connectivity=4)
    return np.asarray(more & np.isin(pieces, np.unique(pieces[mask])))


def _open_ends(
    mask: np.ndarray, more: np.ndarray, likely: np.ndarray, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """Anchors (A, 2): pixels away from the mask where the extension ends and the thing does not: the next pixel is
    likely to be of it, without an edge in between."""
    beyond, open_end = likely & ~(mask | more), np.zeros_like(mask)
    upper, lower = np.s_[:-1], np.s_[1:]
    left, right = np.s_[:, :-1], np.s_[:, 1:]
    for here, there, holds in (
        (left, right, across),
        (right, left, across),
        (upper, lower, down),
        (lower, upper, down),
    ):
        open_end[here] |= (holds > 0.5) & more[here] & beyond[there]
    places = np.argwhere(open_end & ~grown(mask, APART_PX))
    _, first = np.unique(places // SPACING_PX, axis=0, return_index=True)
    some = np.linspace(0, len(first) - 1, min(len(first), MOST_ANCHORS)).round().astype(int)
    return places[np.sort(first)[some]][:, ::-1].astype(np.float32)
