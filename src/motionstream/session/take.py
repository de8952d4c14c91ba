"""A take: one stream under one director. Its frames depend only on its entries, not on the pace of generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from motionstream.session.commands import Command, Prompt, Refresh, Restart, Select, Steps
from motionstream.session.director import Director
from motionstream.stream import Stream
from motionstream.tracks import Tracks
from motionstream.tracks.masks import Draw, outline, select_object

SETTINGS = (Prompt, Steps, Restart, Refresh)
"""Commands for the stream itself; all others concern its tracks and go to the director."""


def apply(stream: Stream, command: Command) -> None:
    """Carry out one of `SETTINGS`. ValueError if the stream cannot."""
    match command:
        case Prompt():
            stream.prompt = command.prompt
        case Steps():
            stream.steps = command.steps
        case Restart():
            stream.restart(command.seed)
        case Refresh():
            stream.adaptive = command.adaptive
        case _:
            raise AssertionError(f"{command.name} is no setting of a stream")


@dataclass(frozen=True)
class Entry:
    """The input of one chunk: its index, its number of frames, the time of its cut (seconds on the take's clock), and
    the commands carried out since the last cut."""

    chunk: int
    frames: int
    cut: float
    commands: tuple[Command, ...] = ()


@dataclass(frozen=True, eq=False)
class Shot:
    """One chunk: ``frames`` uint8 (T, H, W, 3) from frame ``first`` on, and the tracks they follow."""

    first: int
    frames: np.ndarray
    tracks: Tracks


def find(command: Select, picture: np.ndarray, draw: Draw | None = None) -> Select:
    """Complete a selection by the object's outline in ``picture``, so that the result is recorded, not only the query.
    ``draw``: see ``tracks.masks``. Takes 0.2 s. ValueError if the selection gives no valid place."""
    if command.outline is not None:
        return command
    if (command.x is None) != (command.y is None):
        raise ValueError(f"x is {command.x}, y is {command.y}; give both, or a box")
    point = None if command.x is None or command.y is None else (command.x, command.y)
    corners = outline(select_object(picture, point, command.box, draw)).tolist()
    return replace(command, outline=tuple((x, y) for x, y in corners))


class Take:
    """Carries out all commands that affect frames, and generates chunks.

    The same entries give the same frames, bit for bit, so a recording needs only the entries, which ``record`` gets
    before each chunk is returned. Times are seconds on any one clock. ``depth``: see `Director`.
    """

    def __init__(
        self,
        stream: Stream,
        record: Callable[[Entry], object] = lambda entry: None,
        *,
        depth: np.ndarray | None = None,
    ) -> None:
        self.stream, self.record, self.depth = stream, record, depth
        self.director = Director(stream.size, stream.fps, depth)
        self._last = stream.picture
        self.chunk = 0  # index of the next chunk
        self._obeyed: list[Command] = []

    def obey(self, command: Command) -> bool:
        """Carry out a command; False if it had no effect. ValueError with the reason if it is impossible."""
        if isinstance(command, SETTINGS):
            apply(self.stream, command)
        else:
            if isinstance(command, Select):
                command = find(command, self.seen(), self.stream.model.draw)
            if not self.director.obey(command):
                return False
        self._obeyed.append(command)
        return True

    def make(self, now: float) -> Shot:
        """Cut the tracks at ``now`` and generate the next chunk. Call `settle` after sending its frames."""
        first = self.stream.frame
        tracks = self.director.cut(self.stream.next_frames, now)
        frames = self.stream.step(tracks)
        self.record(Entry(self.chunk, len(frames), now, tuple(self._obeyed)))
        self.chunk += 1
        self._last = frames[-1]
        self._obeyed.clear()
        return Shot(first, frames, tracks)

    def seen(self) -> np.ndarray:
        """The last frame at the model's size, uint8 (H, W, 3), in whose pixels commands are given; for selections."""
        return np.asarray(Image.fromarray(self._last).reduce(self.stream.scale))

    def settle(self) -> None:
        """Do the clean pass, which the next chunk needs but the last one did not have to wait for."""
        self.stream.settle()
