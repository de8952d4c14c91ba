"""A kept session as files for others: MP4, GIF, tracks, or the session's own.

None of it needs the model or its device: films are kept as frames are made, and tracks are made without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from motionstream.media import atomic_path
from motionstream.session.film import frames_of, write_mp4
from motionstream.session.library import Library

GIF_FRAMES = 600  # at most: 50 seconds, some tens of megabytes; Pillow holds them all
GIF_RATE = 12.5  # frames a second, at most: a GIF's clock has hundredths of seconds
GIF_SUFFIXES = (".gif",)


def export_mp4(library: Library, name: str, path: Path) -> None:
    """The film as it is, in an MP4 file. ValueError where there is none."""
    write_mp4(library.film_path(name), library.recording(name).header.fps, path)


def export_gif(library: Library, name: str, path: Path) -> None:
    """The film's first ``GIF_FRAMES / GIF_RATE`` seconds as a GIF. ValueError where there is none."""
    write_gif(path, frames_of(library.film_path(name)), library.recording(name).header.fps)


def export_tracks(library: Library, name: str, path: Path) -> None:
    """The tracks that the frames followed, as `Tracks` saves them. ValueError where there are none, or too many."""
    library.recording(name).tracks().save(path)


def export_recording(library: Library, name: str, path: Path) -> None:
    """The session's file up to its last whole line."""
    library.recording(name).write(path)


EXPORTS: dict[str, tuple[str, Callable[[Library, str, Path], None]]] = {
    "mp4": (".mp4", export_mp4),
    "gif": (".gif", export_gif),
    "tracks": (".npz", export_tracks),
    "recording": (".jsonl", export_recording),
}
"""What a session can become: the file's suffix, and what writes it (any thread may; it takes seconds)."""


def write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write frames uint8 (H, W, 3) as a GIF that repeats, thinned to GIF_RATE and cut after GIF_FRAMES; whole or not
    at all. ValueError without frames."""
    step = max(1, round(fps / GIF_RATE))
    pictures = islice(_pictures(islice(iter(frames), 0, None, step)), GIF_FRAMES)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"cannot write {path}: there are no frames")
    with atomic_path(path, GIF_SUFFIXES) as temporary:
        duration = round(1000 * step / fps, -1)  # milliseconds, in whole hundredths of seconds
        first.save(temporary, save_all=True, append_images=pictures, duration=duration, loop=0, disposal=1)


def _pictures(frames: Iterable[np.ndarray]) -> Iterator[Image.Image]:
    for frame in frames:
        yield Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
