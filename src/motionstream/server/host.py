"""The interface between the web application and the engines, in this process or in others."""

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
    """The request is valid, but the engine is loading or too many sessions wait already; try again later."""


@dataclass(frozen=True)
class ModelInfo:
    """Description of a loaded model. ``trained``: whether it went through all training stages."""

    config: ModelConfig
    trained: bool


@dataclass(frozen=True)
class ReplicaState:
    """The state of one of several engines. ``losses``: number of times it was lost and restarted; memory in MB."""

    status: Status
    sessions: int
    losses: int
    problem: str
    memory: float
    device_memory: float


class Host(ABC):
    """Holds sessions in the order of their arrival: up to ``limits.sessions`` have a stream, a few more wait.

    ``library`` stores the sessions; without one nothing is recorded. ``clock`` returns seconds and never decreases. Use
    the host as a context manager, or call ``start`` and ``close``.
    """

    status: Status
    problem: str
    wakes_for_moves = False
    """Whether pointer samples should wake it immediately, rather than being fetched with the next chunk."""

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
        """Start working; returns at once, while the model loads."""

    @abstractmethod
    def close(self) -> None:
        """End all sessions; returns when all work has stopped."""

    @abstractmethod
    def wake(self) -> None:
        """Notify the host of news in a session, from any thread."""

    @abstractmethod
    def require_ready(self) -> None:
        """Raise EngineBusy with the reason until the model is known."""

    @property
    @abstractmethod
    def model(self) -> ModelInfo:
        """The model's description; raises as ``require_ready`` until it is known."""

    @property
    def session_count(self) -> int:
        """Number of sessions that have a stream or are about to."""
        return min(len(self._sessions), self.limits.sessions)

    @property
    def queue_length(self) -> int:
        """Number of sessions that wait for a free stream."""
        return max(0, len(self._sessions) - self.limits.sessions)

    @property
    def replicas(self) -> list[ReplicaState]:
        """The states of engines in other processes; empty if the engine runs in this one."""
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
        """Open a stream from ``picture``, uint8 (H, W, 3) of any size. It begins at once, or, if all streams are taken,
        when one has ended (`Queued` tells the place).

        ``steps``: denoising steps per chunk, the model's own when None. ``depth``: depth map with the picture's aspect
        ratio, for the camera (see tracks/depth.py); a generic prior when None.

        ``notify`` is called, from another thread, whenever there is something to ``take``. Raises EngineBusy while the
        model is loading or too many sessions wait. Later errors reach the session as `Failed`.
        """
        return self.admit(Fresh(picture, prompt, seed, steps, depth), notify)

    def branch(self, head: Recording, notify: Callable[[], None] = lambda: None) -> Session:
        """Continue from the end of a recording or its head. Its chunks are generated again first, as fast as other
        streams allow: `Replaying` reports the progress, `Continued` that the viewer's commands count. Raises as `open`
        does."""
        return self.admit(head, notify)

    def admit(self, opening: Fresh | Recording, notify: Callable[[], None] = lambda: None) -> Session:
        """`open` or `branch`, depending on the type of ``opening``."""
        self.require_ready()
        with self._changed:
            if self._closing:
                raise EngineBusy("the server is stopping")
            # Closed sessions do not count: the worker ends them before it begins this one.
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
