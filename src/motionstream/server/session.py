"""What passes between a viewer and the engine: events out, and the `Session` that carries them and the commands in.

Points are (x, y) pixels with (0, 0) the centre of the top-left pixel; times are seconds; frames are counted from the
start of the stream.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from motionstream.session.commands import Command, Follow, Move, Stop, Unfollow, WebcamFrame
from motionstream.session.director import TrackGroup
from motionstream.session.recording import Recording


@dataclass(frozen=True)
class Limits:
    """What one engine, and each of its sessions, may use."""

    sessions: int = 4
    queue: int = 16  # more of them, which wait until one of those has ended
    commands: int = 4096  # waiting to be obeyed, of one session
    samples_per_second: float = 1000  # of one pointer; what comes faster is thinned
    chunks: int = 3  # waiting to be taken, of one session; the oldest goes first
    overlay_points: int = 512  # of a chunk's track positions
    scale: int | None = 1  # frames so many times as large as the model's; None: as the device can

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 1 <= value <= 100_000:
                raise ValueError(f"{name} = {value}: give 1 to 100000")


@dataclass(frozen=True, eq=False)
class Fresh:
    """What a new stream begins with: ``picture`` uint8 (H, W, 3) of any size; ``steps`` None: the model's own;
    ``depth`` float32 of its shape, a plain guess when None."""

    picture: np.ndarray
    prompt: str = ""
    seed: int = 0
    steps: int | None = None
    depth: np.ndarray | None = None


@dataclass(frozen=True)
class Queued:
    """No stream is free: the session is in ``place`` 1, 2 … ``of`` those that wait, and begins by itself."""

    place: int
    of: int


@dataclass(frozen=True)
class Started:
    """The stream exists. ``size`` is (height, width), ``steps`` the number of denoising steps of a chunk; ``depth``:
    whether the camera has the picture's depth map, or only a plain guess."""

    size: tuple[int, int]
    fps: float
    seed: int
    steps: int
    recording: str | None = None  # the name under which the session is kept
    depth: bool = False


@dataclass(frozen=True)
class Replaying:
    """A stream that goes on from a recording is still being made up to there: ``done`` chunks ``of``."""

    done: int
    of: int


@dataclass(frozen=True)
class Continued:
    """The stream of a recording goes on: the next chunk is ``chunk``, its first frame ``frame``.

    ``gestures``: number and kind of those that hold; drags were released, for nobody holds them. ``paused``: whether it
    stands still at once, for it did so when its engine was lost.
    """

    chunk: int
    frame: int
    prompt: str
    steps: int
    gestures: tuple[tuple[int, str], ...]
    paused: bool = False


@dataclass(frozen=True)
class Accepted:
    """A command takes effect in the chunk that begins with ``frame``."""

    command: str
    frame: int
    gesture: int | None = None


@dataclass(frozen=True)
class Selected:
    """The object that a selection found: its outline, points (x, y) of a polygon, and how many pixels it has."""

    request: int
    object: int
    outline: list[list[float]]
    area: int


@dataclass(frozen=True)
class Failed:
    """A command was refused, or (``fatal``) the stream ended by an error. ``message`` is for people."""

    message: str
    command: str | None = None
    gesture: int | None = None
    fatal: bool = False


@dataclass(frozen=True)
class Ended:
    """The last event of every session."""

    reason: str


@dataclass(frozen=True, eq=False)
class Chunk:
    """Frames to play.

    ``frames`` uint8 (T, H, W, 3) from frame ``first`` on are those of chunk ``chunk``. ``positions`` float32 (T, N, 2),
    NaN where not visible: the points the model followed, ``groups`` saying whose they are. ``latency``: seconds from
    the cut to the frames. ``sent``: the latest command or pointer sample in it, on the viewer's clock. ``dropped``: how
    many frames nobody took before these. ``stages``: seconds of conditions, generate and decode, and of the settling
    before them.
    """

    chunk: int
    first: int
    fps: float
    frames: np.ndarray
    latency: float
    positions: np.ndarray
    groups: tuple[TrackGroup, ...]
    sent: float | None = None
    dropped: int = 0
    stages: dict[str, float] = field(default_factory=dict)


Control = Queued | Started | Replaying | Continued | Accepted | Selected | Failed | Ended
Event = Control | Chunk


class Session:
    """One viewer's stream. `submit`, `take` and `close` may be called from any thread; the rest is the engine's."""

    def __init__(
        self,
        opening: Fresh | Recording,
        limits: Limits,
        notify: Callable[[], None],
        wake: Callable[[], None],
        *,
        wakes_for_moves: bool = False,
    ) -> None:
        self.opening: Fresh | Recording | None = opening  # until the stream has begun
        self.closed = False  # the viewer is gone for good
        self.watched = True  # somebody looks; nothing is made while nobody does
        self.ended = False  # nothing will come any more
        self.look: Callable[[WebcamFrame], None] | None = None  # takes the viewer's webcam while that is followed
        self.wake = wake
        """Has the engine look at this session soon."""
        self._limits, self._notify = limits, notify
        self._wakes_for_moves = wakes_for_moves
        self._told: Queued | None = None  # its place in the queue, as the viewer knows it
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._control: deque[Control] = deque()
        self._chunks: deque[Chunk] = deque()
        self._dropped = 0

    def submit(self, command: Command) -> None:
        """Queue a command. Raises ValueError when the stream has ended or too many commands are waiting."""
        if isinstance(command, WebcamFrame) and (look := self.look) is not None:
            look(command)  # at once: it is tracked while a chunk is made
            return
        if isinstance(command, Follow | Unfollow):
            self.look = None  # frames from now on are for what is followed next
        with self._lock:
            if self.ended or self.closed:
                raise ValueError(f"cannot {command.name}: the stream has ended; start another")
            last = self._commands[-1] if self._commands else None
            close = last is not None and command.time - last.time < 1 / self._limits.samples_per_second
            if close and isinstance(command, Move) and isinstance(last, Move) and command.gesture == last.gesture:
                # The newest place, but the older time: a pointer that never rests is thinned, not held back.
                self._commands[-1] = replace(command, time=last.time)
                return
            if isinstance(command, WebcamFrame) and isinstance(last, WebcamFrame):
                self._commands[-1] = command
                return
            if len(self._commands) >= self._limits.commands:
                raise ValueError(f"{len(self._commands)} commands are waiting already; send fewer")
            self._commands.append(command)
            # A pointer's samples are wanted when the next chunk is cut, not before, unless they pile up.
            many = len(self._commands) > self._limits.commands // 16
            wake = self._wakes_for_moves or many or not isinstance(command, Move)
        if wake:
            self.wake()

    def take(self) -> Event | None:
        """The next event, or None. Control comes before chunks, so that it never waits behind them."""
        with self._lock:
            if self._control:
                return self._control.popleft()
            if not self._chunks:
                return None
            dropped, self._dropped = self._dropped, 0
            return replace(self._chunks.popleft(), dropped=dropped)

    def watch(self, watched: bool) -> None:
        """Whether anybody looks just now: the stream stands still while nobody does."""
        self.watched = watched
        self.wake()

    def close(self) -> None:
        """The viewer is gone: end the stream and free its memory, soon."""
        self.closed = True
        self.wake()

    def commands(self) -> list[Command]:
        """Everything submitted since the last call, in order."""
        with self._lock:
            waiting, self._commands = self._commands, deque()
        return list(waiting)

    def refuse_commands(self) -> None:
        """While the session waits for a stream: nothing but to stop can be obeyed."""
        for command in self.commands():
            if isinstance(command, Stop):
                self.closed = True
            elif not isinstance(command, Move | WebcamFrame):
                self.put(Failed(f"cannot {command.name} yet: the stream waits for its turn", command.name))

    def tell_place(self, place: int, of: int) -> None:
        """While the session waits for a stream: its place, told where that has changed."""
        told = Queued(place, of)
        if told != self._told:
            self._told = told
            self.put(told)

    def put(self, event: Event) -> None:
        """Hand an event to the viewer; of chunks the oldest are dropped when too many wait."""
        with self._lock:
            if isinstance(event, Chunk):
                self._chunks.append(event)
                while len(self._chunks) > self._limits.chunks:
                    self._dropped += len(self._chunks.popleft().frames)
            else:
                self._control.append(event)
                if isinstance(event, Started):
                    self._told = None  # it may come to wait again, where its engine is lost
        self._notify()

    def end(self, event: Ended) -> None:
        """The last event; chunks still waiting and what it began with are let go."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
            self._chunks.clear()
            self._commands.clear()
            self._control.append(event)
            self.opening = None
        self._notify()
