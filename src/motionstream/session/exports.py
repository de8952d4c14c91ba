"""Exports a stored session: as MP4, GIF, tracks or recording.

None of these needs the model: films are stored while frames are generated, and tracks are made without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from motionstream.media.files import atomic_path
from motionstream.session.film import frames_of, write_mp4
from motionstream.session.library import Library

GIF_FRAMES = 600  # at most: about 50 seconds, some tens of megabytes, which Pillow holds in memory
GIF_RATE = 12.5  # largest frame rate; GIF durations are in hundredths of a second
GIF_SUFFIXES = (".gif",)


def export_mp4(library: Library, name: str, path: Path) -> None:
    """Write the film as MP4, without re-encoding. ValueError if there is none."""
    write_mp4(library.film_path(name), library.recording(name).header.fps, path)


def export_gif(library: Library, name: str, path: Path) -> None:
    """Write the beginning of the film as a GIF, at most ``GIF_FRAMES`` frames. ValueError if there is none."""
    write_gif(path, frames_of(library.film_path(name)), library.recording(name).header.fps)


def export_tracks(library: Library, name: str, path: Path) -> None:
    """Write the tracks that the frames followed, with `Tracks.save`. ValueError if there are none or too many."""
    library.recording(name).tracks().save(path)


def export_recording(library: Library, name: str, path: Path) -> None:
    """Write the recording up to its last complete line."""
    library.recording(name).write(path)


EXPORTS: dict[str, tuple[str, Callable[[Library, str, Path], None]]] = {
    "mp4": (".mp4", export_mp4),
    "gif": (".gif", export_gif),
    "tracks": (".npz", export_tracks),
    "recording": (".jsonl", export_recording),
}
"""Export formats: the file's suffix, and the function that writes it (in any thread; it takes seconds)."""


def write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write frames uint8 (H, W, 3) as a looping GIF, thinned to about GIF_RATE and cut after GIF_FRAMES; whole or not
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
