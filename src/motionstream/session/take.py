"""A take: one stream under one director. What its frames are, whatever the pace at which they are asked for."""

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
"""The commands that are about the stream itself; all others are about its tracks, and the director's."""


def apply(stream: Stream, command: Command) -> None:
    """Carry out one of `SETTINGS`. ValueError for what the stream cannot do."""
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
    """What went into one chunk: its index, its number of frames, when its tracks were cut (seconds on the take's
    clock), and the commands that were obeyed since the last."""

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
    """A selection with its outline in ``picture``: what is recorded is what was found, not where it was looked for
    alone. ``draw`` helps to find it. Takes a fifth of a second. ValueError where nothing is found, or it does not say
    where to look."""
    if command.outline is not None:
        return command
    if (command.x is None) != (command.y is None):
        raise ValueError(f"x is {command.x}, y is {command.y}; give both, or a box")
    point = None if command.x is None or command.y is None else (command.x, command.y)
    corners = outline(select_object(picture, point, command.box, draw)).tolist()
    return replace(command, outline=tuple((x, y) for x, y in corners))


class Take:
    """Obeys every command that says something about frames, and makes chunks.

    The same entries give the same frames, bit for bit, so ``record``, which is told of every chunk before it is handed
    out, is all that a recording needs. Times are seconds on any one clock. ``depth``: as `Director`.
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
        self.chunk = 0  # the index of the chunk made next
        self._obeyed: list[Command] = []

    def obey(self, command: Command) -> bool:
        """Carry out a command; False where it had no effect. ValueError, saying why, where it cannot be done."""
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
        """Cut the tracks at ``now`` and make the next chunk of them. Call `settle` once its frames are on their way."""
        first = self.stream.frame
        tracks = self.director.cut(self.stream.next_frames, now)
        frames = self.stream.step(tracks)
        self.record(Entry(self.chunk, len(frames), now, tuple(self._obeyed)))
        self.chunk += 1
        self._last = frames[-1]
        self._obeyed.clear()
        return Shot(first, frames, tracks)

    def seen(self) -> np.ndarray:
        """The last frame, uint8 (H, W, 3), in the pixels of which commands speak: what a selection looks at."""
        return np.asarray(Image.fromarray(self._last).reduce(self.stream.scale))

    def settle(self) -> None:
        """Do what the next chunk needs and the last one did not have to wait for."""
        self.stream.settle()
