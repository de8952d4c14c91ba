"""Point tracks, which condition the model: made from gestures, cameras or video, and stored as .npz files."""

from motionstream.tracks.gestures import (
    LiveTracks,
    drag_tracks,
    parse_drag,
    parse_pin,
    parse_point,
    pin_tracks,
)
from motionstream.tracks.grids import grid_around, grid_points
from motionstream.tracks.tracks import MAX_FRAMES, MAX_POINTS, Tracks

__all__ = [
    "MAX_FRAMES",
    "MAX_POINTS",
    "LiveTracks",
    "Tracks",
    "drag_tracks",
    "grid_around",
    "grid_points",
    "parse_drag",
    "parse_pin",
    "parse_point",
    "pin_tracks",
]
