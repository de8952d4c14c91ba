"""The worker's side of one session: its stream, its live tracks, and when the next chunk is due."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from motionstream.server.session import (
    Accepted,
    Chunk,
    Command,
    Erase,
    Failed,
    Limits,
    Move,
    Pause,
    Pin,
    Press,
    Prompt,
    Release,
    Resume,
    Session,
    TrackGroup,
)
from motionstream.stream import Stream
from motionstream.tracks import LiveTracks, Tracks

MARGIN = 0.03
"""Seconds a chunk is made ahead of its deadline, for what the engine cannot see: encoding and transport."""

RECENT = 8
"""Chunks whose slowest is taken for what the next one will cost."""


@dataclass(frozen=True, eq=False)
class Held:
    """A gesture that lives: its number in `LiveTracks`, what began it, and the ids of its points."""

    number: int
    kind: str
    ids: np.ndarray


class Player:
    """Obeys commands and makes chunks, each just before the previous one has been played.

    That is as late as possible, so that a chunk follows the pointer as it is now and not as it was.
    """

    def __init__(self, session: Session, stream: Stream, limits: Limits, clock: Callable[[], float]) -> None:
        self.session, self.stream, self.limits, self.clock = session, stream, limits, clock
        self.live = LiveTracks(stream.size, stream.fps)
        self.paused_at: float | None = None
        self._played_until = clock()  # when the viewer has seen everything made so far
        self._playing = 0.0  # seconds that the last chunk lasts
        self._costs: deque[tuple[float, float]] = deque(maxlen=RECENT)  # seconds to the frames, and in all
        self._gestures: dict[int, Held] = {}  # by the viewer's number, oldest first
        self._latest: dict[int, float] = {}  # the viewer's number → its last time
        self._resting: dict[int, Move] = {}  # the viewer's number → where its pointer is, while paused
        self._sent: float | None = None

    def due(self, active: int) -> float:
        """When to begin the next chunk, with ``active`` streams taking turns; infinity while paused."""
        if self.paused_at is not None:
            return math.inf
        own, whole = (max(costs) for costs in zip(*self._costs, strict=True)) if self._costs else (0.0, 0.0)
        ahead = MARGIN + own + whole * (active - 1)
        # Never more than a chunk ahead: an engine that cannot keep up does not pile up old frames as well.
        return self._played_until - min(ahead, self._playing)

    # --------------------------------------------------------------------------------------------- commands

    def obey(self, command: Command) -> None:
        """Carry out one command, or tell the viewer why not."""
        gesture = getattr(command, "gesture", None)
        try:
            accepted = self._carry_out(command)
        except ValueError as error:
            self.session.put(Failed(str(error), command.name, gesture))
            return
        if command.sent is not None:
            self._sent = command.sent if self._sent is None else max(self._sent, command.sent)
        if accepted:
            self.session.put(Accepted(command.name, self.stream.frame, gesture))

    def _carry_out(self, command: Command) -> bool:
        """Whether to acknowledge it: pointer samples are too many, and what had no effect has no frame."""
        match command:
            case Press():
                self._begin(command)
            case Move():
                return self._move(command)
            case Release():
                return self._release(command)
            case Erase():
                if command.gesture not in self._gestures:
                    raise ValueError(f"there is no gesture {command.gesture} to erase")
                self.live.erase(self._gestures[command.gesture].number)
                self._forget_finished()
            case Prompt():
                self.stream.prompt = command.text
            case Pause():
                self.paused_at = self.clock() if self.paused_at is None else self.paused_at
            case Resume():
                self._resume()
            case _:
                raise AssertionError(f"the engine obeys {command.name} itself")
        return True

    def _begin(self, command: Press) -> None:
        if command.gesture in self._gestures:
            raise ValueError(f"gesture {command.gesture} exists already; give each press a new number")
        x, y, spacing, radius = command.x, command.y, command.spacing, command.radius
        if isinstance(command, Pin):
            number = self.live.pin(x, y, spacing=spacing, radius=radius)
        else:
            time = self._time(command, command.gesture)
            number = self.live.drag(x, y, spacing=spacing, radius=radius, time=time)
        self._gestures[command.gesture] = Held(number, command.name, self.live.track_ids(number))

    def _move(self, command: Move) -> bool:
        if command.gesture not in self._gestures:  # its press was refused, or the sample crossed an erasure
            return False
        if self.paused_at is not None:  # only where the pointer ends up matters, and memory stays bounded
            self._resting[command.gesture] = command
            return False
        number = self._gestures[command.gesture].number
        self.live.move(number, command.x, command.y, self._time(command, command.gesture))
        return False

    def _release(self, command: Release) -> bool:
        if command.gesture not in self._gestures:
            return False
        held = self._gestures[command.gesture]
        self._apply_resting(command.gesture)
        self.live.release(held.number, None if held.kind == "pin" else self._time(command, command.gesture))
        return True

    def _resume(self) -> None:
        if self.paused_at is None:
            return
        self._played_until += self.clock() - self.paused_at  # the viewer stood still for as long
        self.paused_at = None
        for gesture in list(self._resting):
            self._apply_resting(gesture)

    def _apply_resting(self, gesture: int) -> None:
        move = self._resting.pop(gesture, None)
        if move is not None and gesture in self._gestures:
            self.live.move(self._gestures[gesture].number, move.x, move.y, self._time(move, gesture))

    def _time(self, command: Command, gesture: int) -> float:
        """A command's time, not in the future and not before the gesture's last: viewers' clocks are guesses."""
        moment = max(min(command.time, self.clock()), self._latest.get(gesture, -math.inf))
        self._latest[gesture] = moment
        return moment

    # ----------------------------------------------------------------------------------------------- chunks

    def make(self) -> None:
        """Make the next chunk, hand it out, and then do what can wait until it is on its way."""
        begun = self.clock()
        first = self.stream.frame
        tracks = self.live.cut(self.stream.next_frames, begun)
        frames = self.stream.step(tracks)
        made = self.clock()
        sent, self._sent = self._sent, None
        positions, groups = self._overlay(tracks)
        self.session.put(Chunk(first, self.stream.fps, frames, made - begun, positions, groups, sent))
        self._forget_finished()
        self._playing = len(frames) / self.stream.fps
        self._played_until = max(self._played_until, made) + self._playing
        self.stream.settle()
        self._costs.append((made - begun, self.clock() - begun))

    def _overlay(self, tracks: Tracks) -> tuple[np.ndarray, tuple[TrackGroup, ...]]:
        """Positions (T, N, 2) with NaN where not visible, at most ``overlay_points``, and whose they are."""
        if tracks.count > self.limits.overlay_points:
            tracks = tracks.select(np.linspace(0, tracks.count - 1, self.limits.overlay_points).round().astype(int))
        # A cut's tracks stand gesture by gesture, oldest first, as the gestures do here.
        counts = [(number, held, int(np.isin(tracks.ids, held.ids).sum())) for number, held in self._gestures.items()]
        assert sum(count for *_, count in counts) == tracks.count
        groups = tuple(TrackGroup(number, held.kind, count) for number, held, count in counts if count)
        return np.where(tracks.visible[..., None], tracks.positions, np.float32(np.nan)), groups

    def _forget_finished(self) -> None:
        alive = set(self.live.gestures)
        self._gestures = {number: held for number, held in self._gestures.items() if held.number in alive}
        self._latest = {number: moment for number, moment in self._latest.items() if number in self._gestures}
        self._resting = {number: move for number, move in self._resting.items() if number in self._gestures}
