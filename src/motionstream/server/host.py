"""What the application talks to: something that makes streams, be it an engine in this process or several elsewhere."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from motionstream.config import ModelConfig
from motionstream.server.session import Fresh, Limits, Session
from motionstream.session.library import Library
from motionstream.session.recording import Recording

Status = Literal["loading", "ready", "broken"]


class EngineBusy(ValueError):
    """Nothing wrong with the request: the engine is loading, or too many wait already. Try again later."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model once it is loaded. ``trained``: all its stages were."""

    config: ModelConfig
    trained: bool


@dataclass(frozen=True)
class ReplicaState:
    """How one of several engines is. ``losses``: how often it was lost and started anew; memory in MB."""

    status: Status
    sessions: int
    losses: int
    problem: str
    memory: float
    device_memory: float


class Host(ABC):
    """Holds sessions in the order in which they came: up to ``limits.sessions`` have a stream, a few more wait.

    ``library`` keeps the sessions; without one nothing is recorded. ``clock`` gives seconds and never runs backwards.
    Use it as a context manager, or call ``start`` and ``close``.
    """

    status: Status
    problem: str
    wakes_for_moves = False
    """Whether it wants to know of a pointer's samples as they come, not only when it looks."""

    def __init__(
        self, limits: Limits | None = None, library: Library | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or Limits()
        self.library = library
        self.clock = clock
        self._sessions: list[Session] = []
        self._changed = threading.Condition()
        self._closing = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def start(self) -> None:
        """Begin to work; returns at once, while the model loads."""

    @abstractmethod
    def close(self) -> None:
        """End all sessions; returns when nothing works any more."""

    @abstractmethod
    def wake(self) -> None:
        """There is something new in a session. From any thread."""

    @abstractmethod
    def require_ready(self) -> None:
        """EngineBusy, with the reason, until the model is known."""

    @property
    @abstractmethod
    def model(self) -> ModelInfo:
        """What is streamed; as ``require_ready`` until it is known."""

    @property
    def session_count(self) -> int:
        """How many sessions have a stream, or are about to."""
        return min(len(self._sessions), self.limits.sessions)

    @property
    def queue_length(self) -> int:
        """How many sessions wait until one of those has ended."""
        return max(0, len(self._sessions) - self.limits.sessions)

    @property
    def replicas(self) -> list[ReplicaState]:
        """The engines elsewhere that do the work; none where it is done here."""
        return []

    def open(
        self,
        picture: np.ndarray,
        prompt: str = "",
        seed: int = 0,
        notify: Callable[[], None] = lambda: None,
        *,
        steps: int | None = None,
        depth: np.ndarray | None = None,
    ) -> Session:
        """Begin a stream from ``picture``, uint8 (H, W, 3) of any size; the first chunk is made at once, or, where all
        streams are taken, when one has ended (`Queued` tells the place).

        ``steps``: denoising steps of a chunk, the model's own when None. ``depth``: of the picture's shape, for the
        camera (see tracks/depth.py), a plain guess when None.

        ``notify`` is called, from another thread, whenever there is something to ``take``. Raises EngineBusy while the
        model is loading or too many wait. What goes wrong later is told to the session as `Failed`.
        """
        return self.admit(Fresh(picture, prompt, seed, steps, depth), notify)

    def branch(self, head: Recording, notify: Callable[[], None] = lambda: None) -> Session:
        """Go on from where a recording, or its head, ends. Its chunks are made again first, as fast as other streams
        allow: `Replaying` tells how far it is, `Continued` when the viewer's commands count. Raises as `open`."""
        return self.admit(head, notify)

    def admit(self, opening: Fresh | Recording, notify: Callable[[], None] = lambda: None) -> Session:
        """As `open` or `branch`, whichever it is."""
        self.require_ready()
        with self._changed:
            if self._closing:
                raise EngineBusy("the server is stopping")
            # Those that were closed are ended by the worker before it begins this one.
            limits, taken = self.limits, sum(not session.closed for session in self._sessions)
            if taken >= limits.sessions + limits.queue:
                raise EngineBusy(
                    f"all {limits.sessions} streams are taken and {limits.queue} viewers wait already; try again later"
                )
            session = Session(opening, self.limits, notify, self.wake, wakes_for_moves=self.wakes_for_moves)
            self._sessions.append(session)
        self.wake()
        return session

    def _forget(self, session: Session) -> None:
        with self._changed:
            self._sessions = [other for other in self._sessions if other is not session]
