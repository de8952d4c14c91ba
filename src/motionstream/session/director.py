"""The director: what a viewer's gestures ask for becomes the tracks of one chunk after another.

It knows no clock and no transport. Given the same commands with the same times and the same cuts it gives the same
tracks, bit for bit: recordings rely on that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from motionstream.session.commands import Command, Erase, Move, Path, Pin, Press, Release
from motionstream.tracks import LiveTracks, Tracks


@dataclass(frozen=True)
class TrackGroup:
    """``count`` neighbouring points of the overlay belong to one gesture."""

    gesture: int
    kind: str  # press | pin | path
    count: int


@dataclass(frozen=True, eq=False)
class Held:
    """A gesture that lives: its number in `LiveTracks`, what began it, and the ids of its points."""

    number: int
    kind: str
    ids: np.ndarray


class Director:
    """Holds the gestures of one stream. ``size`` is (height, width); times are seconds on any one clock."""

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        self._live = LiveTracks(size, fps)
        self._held: dict[int, Held] = {}  # by the viewer's number, oldest first
        self._shown: dict[int, Held] = {}  # those of the last cut
        self._latest: dict[int, float] = {}  # the viewer's number → its last time

    @property
    def gestures(self) -> tuple[tuple[int, str], ...]:
        """The viewer's number of every gesture that lives, and what began it (press, pin or path), oldest first."""
        return tuple((number, held.kind) for number, held in self._held.items())

    def obey(self, command: Command) -> bool:
        """Carry out a command about gestures; False where it had no effect, since its gesture is gone already.

        Raises ValueError for what cannot be done, saying why; nothing has changed then.
        """
        match command:
            case Press() | Path():
                if command.gesture in self._held:
                    raise ValueError(f"gesture {command.gesture} exists already; give each one a new number")
                number = self._begin(command)
                self._held[command.gesture] = Held(number, command.name, self._live.track_ids(number))
            case Move() | Release():
                return self._follow(command)
            case Erase():
                if command.gesture not in self._held:
                    raise ValueError(f"there is no gesture {command.gesture} to erase")
                self._live.erase(self._held[command.gesture].number)
                self._forget_finished()
            case _:
                raise AssertionError(f"{command.name} is not about gestures")
        return True

    def cut(self, frames: int, now: float) -> Tracks:
        """The tracks of the next ``frames`` frames; ``now``: the moment of the cut, on the commands' clock."""
        tracks = self._live.cut(frames, now)
        self._shown = dict(self._held)
        self._forget_finished()
        return tracks

    def overlay(self, tracks: Tracks, most: int) -> tuple[np.ndarray, tuple[TrackGroup, ...]]:
        """What to draw over the frames of the last cut: float32 (T, N, 2) with NaN where not visible, and whose points
        they are. ``most``: points at most, evenly chosen."""
        if tracks.count > most:
            tracks = tracks.select(np.linspace(0, tracks.count - 1, most).round().astype(int))
        # A cut's tracks stand gesture by gesture, oldest first, as the gestures do here.
        counts = [(number, held, int(np.isin(tracks.ids, held.ids).sum())) for number, held in self._shown.items()]
        assert sum(count for *_, count in counts) == tracks.count
        groups = tuple(TrackGroup(number, held.kind, count) for number, held, count in counts if count)
        return np.where(tracks.visible[..., None], tracks.positions, np.float32(np.nan)), groups

    def _begin(self, command: Press | Path) -> int:
        """The number that `LiveTracks` gives a new gesture."""
        spacing, radius = command.spacing, command.radius
        match command:
            case Pin():
                return self._live.pin(command.x, command.y, spacing=spacing, radius=radius)
            case Press():
                time = self._time(command)
                return self._live.drag(command.x, command.y, spacing=spacing, radius=radius, time=time)
            case Path():
                return self._live.path(
                    command.points,
                    start=command.delay,
                    duration=command.duration,
                    speed=command.speed,
                    ease=command.ease,
                    release_at_end=command.release,
                    spacing=spacing,
                    radius=radius,
                )

    def _follow(self, command: Move | Release) -> bool:
        if command.gesture not in self._held:  # its press was refused, or the sample crossed an erasure
            return False
        held = self._held[command.gesture]
        if isinstance(command, Move):
            self._live.move(held.number, command.x, command.y, self._time(command))
        else:
            self._live.release(held.number, None if held.kind == "pin" else self._time(command))
        return True

    def _time(self, command: Press | Move | Release) -> float:
        """A command's time, not before the gesture's last: viewers' clocks are guesses."""
        moment = max(command.time, self._latest.get(command.gesture, -math.inf))
        self._latest[command.gesture] = moment
        return moment

    def _forget_finished(self) -> None:
        alive = set(self._live.gestures)
        self._held = {number: held for number, held in self._held.items() if held.number in alive}
        self._latest = {number: moment for number, moment in self._latest.items() if number in self._held}
