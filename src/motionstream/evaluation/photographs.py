"""A folder of photographs with their credits and test gestures (``examples/photographs``)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from motionstream.media.pictures import read_picture
from motionstream.tracks import Tracks
from motionstream.tracks.gestures import Point, drag_tracks, pin_tracks

TABLE = "photographs.json"
INSET = 0.1
"""Distance of the corner points from the picture's edges, as a share of its sides."""
CLEAR = 0.25
"""A corner point nearer than this to the drag, as a share of the picture's shorter side, is left out."""
PIN_RADIUS = 8.0
CAMERA_SPACING = 12.0
ZOOM, PAN = 1.15, (-0.06, 0.03)
"""The camera's effect by the last frame: magnification, and shift to the right and down as shares of the sides."""


@dataclass(frozen=True)
class Photograph:
    """A picture file ``path`` with its credits, and ``drag``: start and end in fractions of the picture, with points
    within ``radius`` pixels at a shorter side of 128."""

    path: Path
    name: str
    title: str
    kind: str
    author: str
    licence: str
    source: str
    origin: str
    drag: tuple[Point, Point]
    radius: float

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for point in self.drag for value in point):
            raise ValueError(f"{self.name}: drag is {self.drag}; give fractions of the picture, 0 to 1")
        if not self.radius > 0:
            raise ValueError(f"{self.name}: radius is {self.radius}; give a positive number of pixels")

    def read(self) -> np.ndarray:
        """The picture, uint8 (H, W, 3)."""
        return read_picture(self.path)

    def corners(self, size: tuple[int, int]) -> list[Point]:
        """Points near the picture's corners, in pixels, without those near the drag."""
        places = [(x, y) for y in (INSET, 1 - INSET) for x in (INSET, 1 - INSET)]
        reach = CLEAR * min(size)
        ends = [np.array(to_pixels(end, size)) for end in self.drag]
        pixels = [to_pixels(place, size) for place in places]
        return [p for p in pixels if all(np.linalg.norm(end - p) > reach for end in ends)]

    def dragged(self, frames: int, size: tuple[int, int], fps: float) -> Tracks:
        """The drag alone, which arrives after three quarters of the time and holds."""
        start, end = (to_pixels(point, size) for point in self.drag)
        return drag_tracks(start, end, frames, size, fps, radius=self.radius * min(size) / 128)

    def pinned(self, frames: int, size: tuple[int, int], fps: float) -> Tracks:
        """The drag, with pinned corners."""
        radius = PIN_RADIUS * min(size) / 128
        pins = pin_tracks(self.corners(size), frames, size, fps, radius=radius)
        return Tracks.merge([self.dragged(frames, size, fps), pins], renumber=True)


def camera(frames: int, size: tuple[int, int], fps: float) -> Tracks:
    """A camera that approaches and moves aside: a grid over the picture, scaled by ``ZOOM`` and shifted by ``PAN``."""
    height, width = size
    spacing = CAMERA_SPACING * min(size) / 128
    x, y = (np.arange(spacing / 2, side, spacing) - 0.5 for side in (width, height))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    centre = (np.array([width, height]) - 1) / 2
    progress = np.linspace(0, 1, frames)[:, None, None]
    growth, moved = 1 + (ZOOM - 1) * progress, np.array([PAN[0] * width, PAN[1] * height]) * progress
    positions = (centre + growth * (grid - centre) + moved).astype(np.float32)
    return Tracks(positions, np.ones(positions.shape[:2], bool), size, fps).clipped()


def to_pixels(place: Point, size: tuple[int, int]) -> Point:
    """Convert a place in fractions of a picture (0 its left or top edge) to pixels."""
    return place[0] * size[1] - 0.5, place[1] * size[0] - 0.5


def read_photographs(folder: Path) -> list[Photograph]:
    """The photographs of a folder, in the order of its table.

    Raises ValueError if the table is missing or damaged, or names a missing picture.
    """
    table = folder / TABLE
    if not table.is_file():
        raise ValueError(
            f"there is no {TABLE} in --photographs {folder.absolute()}; run this in the root of MotionStream's "
            "repository, or give the path of its examples/photographs"
        )
    wanted = {field.name for field in fields(Photograph)} - {"path"}
    try:
        rows = json.loads(table.read_text(encoding="utf-8"))
        found = []
        for row in rows:
            if set(row) != wanted:
                raise ValueError(f"an entry has {sorted(row)}, not {sorted(wanted)}")
            start, end = row.pop("drag")
            drag = ((float(start[0]), float(start[1])), (float(end[0]), float(end[1])))
            found.append(Photograph(path=folder / f"{row['name']}.jpg", drag=drag, **row))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValueError(f"cannot read {table}: {error}") from error
    for photograph in found:
        if not photograph.path.is_file():
            raise ValueError(f"{table} names {photograph.path.name}, which is not there")
    if not found:
        raise ValueError(f"{table} names no picture")
    return found
