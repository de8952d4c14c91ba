"""Drag editing: the result of a single drag is the last frame, brought to the picture's own size.

Axes: pictures uint8 (H, W, 3) at their own size, frames uint8 (T, h, w, 3) at the model's; points (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from motionstream.media.pictures import Fit, fit
from motionstream.pipeline import MotionStreamPipeline
from motionstream.scene import Picture, read_rgb
from motionstream.tracks import Tracks

SAME, CHANGED = 8.0, 24.0
"""Difference between the last and the first frame, in levels of 255: up to the first value a pixel is unchanged, from
the second on fully changed."""
REACH = 1.5
"""Fine detail moves with a dragged point within this many spacings of its grid."""

SEAM = 6.0
"""Width in pixels at the model's size over which changes fade out towards cropped parts."""


@dataclass(frozen=True, eq=False)
class Edit:
    """``picture`` uint8 (H, W, 3): the edited picture at the given one's size. ``transition`` uint8 (T, h, w, 3): the
    frames that lead there, the first being the picture at the model's size."""

    picture: np.ndarray
    transition: np.ndarray


def edit_picture(
    pipeline: MotionStreamPipeline, image: Picture, tracks: Tracks, prompt: str = "", seed: int = 0
) -> Edit:
    """Edit ``image`` by dragging it along ``tracks``, in one of the model's sizes, which should end at rest like those
    of ``drag_tracks``. Raises ValueError as the pipeline does.
    """
    picture = read_rgb(image)
    frames = pipeline(picture, tracks, prompt, seed, size=tracks.size)
    return Edit(enlarge(picture, frames[0], frames[-1], tracks), frames)


def enlarge(picture: np.ndarray, first: np.ndarray, last: np.ndarray, tracks: Tracks) -> np.ndarray:
    """Bring ``last``, a frame at the model's size, to the picture's own size: uint8 (H, W, 3).

    Pixels that are unchanged since ``first``, and cropped parts, are the picture's own. Changed pixels are the enlarged
    frame, plus, near dragged points, the picture's fine detail moved along with them.
    """
    fitting = Fit((picture.shape[0], picture.shape[1]), (last.shape[0], last.shape[1]))
    x, y = (np.arange(side, dtype=np.float32) for side in picture.shape[1::-1])
    places = fitting.to_fitted(np.stack(np.meshgrid(x, y), axis=-1)).astype(np.float32)
    inside = np.all((places >= -0.5) & (places <= np.array(fitting.size[::-1]) - 0.5), axis=-1)

    def enlarged(small: np.ndarray, how: int = cv2.INTER_CUBIC) -> np.ndarray:
        return cv2.remap(small, places[..., 0], places[..., 1], how, borderMode=cv2.BORDER_REPLICATE)

    apart = np.abs(last.astype(np.float32) - first).max(axis=-1)
    changed = np.clip((cv2.GaussianBlur(apart, (0, 0), 1.5) - SAME) / (CHANGED - SAME), 0, 1)
    weight = (enlarged(changed, cv2.INTER_LINEAR) * inside * _fade(places, fitting))[..., None]
    detail = picture.astype(np.float32) - enlarged(fit(picture, fitting.size)[0].astype(np.float32))
    move, near = _moves(tracks)
    source = fitting.to_original(places - enlarged(move, cv2.INTER_LINEAR)).astype(np.float32)
    detail = cv2.remap(detail, source[..., 0], source[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    moved = enlarged(last.astype(np.float32)) + detail * enlarged(near, cv2.INTER_LINEAR)[..., None]
    return np.asarray(np.clip(picture * (1 - weight) + moved * weight + 0.5, 0, 255)).astype(np.uint8)


def _fade(places: np.ndarray, fitting: Fit) -> np.ndarray:
    """Weights (H, W): 1, falling to 0 within ``SEAM`` pixels of a border beyond which the picture was cropped."""
    fade = np.ones(places.shape[:2], np.float32)
    for axis, cropped in enumerate(fitting.crop):
        if cropped > 0.5:
            length = fitting.size[1 - axis]
            border = np.minimum(places[..., axis] + 0.5, length - 0.5 - places[..., axis])
            fade *= np.clip(border / SEAM, 0, 1)
    return fade


def _moves(tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """Displacement of the nearest point visible in the last frame since it was first visible, float32 (h, w, 2), and
    whether such a point is near, float32 (h, w) from 0 to 1."""
    height, width = tracks.size
    rows = np.flatnonzero(tracks.visible[-1])
    if not len(rows):
        return np.zeros((height, width, 2), np.float32), np.zeros((height, width), np.float32)
    starts = tracks.positions[tracks.visible[:, rows].argmax(axis=0), rows]
    ends = tracks.positions[-1, rows]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    best, nearest = np.full((height, width), np.inf), np.zeros((height, width), int)
    for number, end in enumerate(ends):
        distance = np.hypot(x - end[0], y - end[1])
        closer = distance < best
        best[closer], nearest[closer] = distance[closer], number
    between = np.hypot(*(starts[:, None] - starts[None]).transpose(2, 0, 1))
    between[np.diag_indices(len(rows))] = np.inf
    spacing = float(np.median(between.min(axis=1))) if len(rows) > 1 else 8.0
    near = (best <= REACH * spacing).astype(np.float32)
    return (ends - starts)[nearest].astype(np.float32), cv2.GaussianBlur(near, (0, 0), 1)
