"""The link between a viewer and the engine: events to the viewer, and the `Session` that carries them and commands.

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
    """Limits of one engine and each of its sessions."""

    sessions: int = 4
    queue: int = 16  # further sessions that may wait for a free stream
    commands: int = 4096  # waiting commands per session
    samples_per_second: float = 1000  # per pointer; faster samples are thinned
    chunks: int = 3  # waiting chunks per session; the oldest is dropped first
    overlay_points: int = 512  # points per chunk that are sent for the overlay
    scale: int | None = 1  # size of frames relative to the model's; None: what the device can do live

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 1 <= value <= 100_000:
                raise ValueError(f"{name} = {value}: give 1 to 100000")


@dataclass(frozen=True, eq=False)
class Fresh:
    """The opening of a new stream. ``picture``: uint8 (H, W, 3) of any size. ``steps``: the model's own when None.
    ``depth``: float32 with the picture's aspect ratio, a generic prior when None."""

    picture: np.ndarray
    prompt: str = ""
    seed: int = 0
    steps: int | None = None
    depth: np.ndarray | None = None


@dataclass(frozen=True)
class Queued:
    """No stream is free: the session waits in ``place`` 1, 2 … ``of`` the queue, and begins automatically."""

    place: int
    of: int


@dataclass(frozen=True)
class Started:
    """The stream has started. ``size``: (height, width). ``steps``: denoising steps per chunk. ``depth``: whether the
    camera has the picture's depth map rather than the generic prior."""

    size: tuple[int, int]
    fps: float
    seed: int
    steps: int
    recording: str | None = None  # the session's name in the library
    depth: bool = False


@dataclass(frozen=True)
class Replaying:
    """A recording's chunks are being generated again: ``done`` chunks ``of``."""

    done: int
    of: int


@dataclass(frozen=True)
class Continued:
    """The stream of a recording continues with ``chunk``, whose first frame is ``frame``.

    ``gestures``: number and kind of active pins and paths; drags were released, since no pointer holds them.
    ``paused``: whether it is paused, because it was when its engine was lost.
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
    """The object found by a selection: its outline, a polygon of points (x, y), and its number of pixels."""

    request: int
    object: int
    outline: list[list[float]]
    area: int


@dataclass(frozen=True)
class Failed:
    """A command was refused, or (``fatal``) the stream ended with an error. ``message`` is for users."""

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

    ``frames``: uint8 (T, H, W, 3) of chunk ``chunk``, beginning with frame ``first``. ``positions``: float32 (T, N, 2),
    the points that the model followed, NaN where not visible; ``groups``: their gestures. ``latency``: seconds from the
    cut to the frames. ``sent``: time of the latest command or pointer sample in it, on the viewer's clock. ``dropped``:
    number of frames dropped before these. ``stages``: seconds of conditions, generate and decode, and of the previous
    settle.
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
    """One viewer's stream. `submit`, `take`, `watch` and `close` may be called from any thread; the rest is for the
    engine."""

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
        self.closed = False  # the viewer has left for good
        self.watched = True  # whether somebody watches; nothing is generated otherwise
        self.ended = False  # no further events will come
        self.look: Callable[[WebcamFrame], None] | None = None  # takes frames while a webcam is followed
        self.wake = wake
        """Makes the engine process this session soon."""
        self._limits, self._notify = limits, notify
        self._wakes_for_moves = wakes_for_moves
        self._told: Queued | None = None  # the place in the queue last reported to the viewer
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._control: deque[Control] = deque()
        self._chunks: deque[Chunk] = deque()
        self._dropped = 0

    def submit(self, command: Command) -> None:
        """Queue a command. Raises ValueError if the stream has ended or too many commands are waiting."""
        if isinstance(command, WebcamFrame) and (look := self.look) is not None:
            look(command)  # immediately, so that it is tracked while a chunk is generated
            return
        if isinstance(command, Follow | Unfollow):
            self.look = None  # later frames are for the next source
        with self._lock:
            if self.ended or self.closed:
                raise ValueError(f"cannot {command.name}: the stream has ended; start another")
            last = self._commands[-1] if self._commands else None
            close = last is not None and command.time - last.time < 1 / self._limits.samples_per_second
            if close and isinstance(command, Move) and isinstance(last, Move) and command.gesture == last.gesture:
                # The newest position with the older time, so that a pointer that never rests is thinned, not held back.
                self._commands[-1] = replace(command, time=last.time)
                return
            if isinstance(command, WebcamFrame) and isinstance(last, WebcamFrame):
                self._commands[-1] = command
                return
            if len(self._commands) >= self._limits.commands:
                raise ValueError(f"{len(self._commands)} commands are waiting already; send fewer")
            self._commands.append(command)
            # Pointer samples are needed only when the next chunk is cut, unless they accumulate.
            many = len(self._commands) > self._limits.commands // 16
            wake = self._wakes_for_moves or many or not isinstance(command, Move)
        if wake:
            self.wake()

    def take(self) -> Event | None:
        """The next event, or None. Control events come before chunks."""
        with self._lock:
            if self._control:
                return self._control.popleft()
            if not self._chunks:
                return None
            dropped, self._dropped = self._dropped, 0
            return replace(self._chunks.popleft(), dropped=dropped)

    def watch(self, watched: bool) -> None:
        """Set whether anybody watches; otherwise the stream stops."""
        self.watched = watched
        self.wake()

    def close(self) -> None:
        """End the stream and free its memory soon, because the viewer has left."""
        self.closed = True
        self.wake()

    def commands(self) -> list[Command]:
        """All commands submitted since the last call, in order."""
        with self._lock:
            waiting, self._commands = self._commands, deque()
        return list(waiting)

    def refuse_commands(self) -> None:
        """Refuse all commands but Stop, while the session waits for a stream."""
        for command in self.commands():
            if isinstance(command, Stop):
                self.closed = True
            elif not isinstance(command, Move | WebcamFrame):
                self.put(Failed(f"cannot {command.name} yet: the stream waits for its turn", command.name))

    def tell_place(self, place: int, of: int) -> None:
        """Report the session's place in the queue to the viewer if it has changed."""
        told = Queued(place, of)
        if told != self._told:
            self._told = told
            self.put(told)

    def put(self, event: Event) -> None:
        """Queue an event for the viewer; if too many chunks wait, the oldest are dropped."""
        with self._lock:
            if isinstance(event, Chunk):
                self._chunks.append(event)
                while len(self._chunks) > self._limits.chunks:
                    self._dropped += len(self._chunks.popleft().frames)
            else:
                self._control.append(event)
                if isinstance(event, Started):
                    self._told = None  # it may wait again if its engine is lost
        self._notify()

    def end(self, event: Ended) -> None:
        """Queue the last event; waiting chunks and the opening are dropped."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
            self._chunks.clear()
            self._commands.clear()
            self._control.append(event)
            self.opening = None
        self._notify()
