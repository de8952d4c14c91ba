"""MotionStream: drag anything in a picture and the video follows, streamed in real time.

The names below load what they need on first use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LiveTracks", "MotionStreamPipeline", "Stream", "Tracks", "__version__"]

if TYPE_CHECKING:
    from motionstream.pipeline import MotionStreamPipeline
    from motionstream.stream import Stream
    from motionstream.tracks import LiveTracks, Tracks

_HOMES = {
    "LiveTracks": "motionstream.tracks",
    "MotionStreamPipeline": "motionstream.pipeline",
    "Stream": "motionstream.stream",
    "Tracks": "motionstream.tracks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'motionstream' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
