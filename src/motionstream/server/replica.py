"""One of several engines, with an interface for another process: it receives orders in batches and reports events.

Independent of the transport: `motionstream.server.fleet` makes the calls through Ray or, in tests, directly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from motionstream.hardware import memory_mb
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.engine import Engine
from motionstream.server.host import ModelInfo, Status
from motionstream.server.protocol import ViewerClock
from motionstream.server.session import Ended, Event, Failed, Fresh, Limits, Session
from motionstream.session.commands import Command
from motionstream.session.library import Library
from motionstream.session.recording import Recording

PULSE = 1.0  # longest interval in seconds between messages of either side
SILENCE = 30.0  # seconds of silence after which the other side counts as lost


@dataclass(frozen=True, eq=False)
class Order:
    """News for one session: its ``opening``, the first time; commands; whether it is watched; whether it is closed."""

    opening: Fresh | Recording | None
    commands: tuple[Command, ...]
    watched: bool
    closed: bool


@dataclass(frozen=True)
class Report:
    """A replica's state. Memory in MB."""

    status: Status
    problem: str = ""
    model: ModelInfo | None = None
    memory: float = 0.0
    device_memory: float = 0.0


@dataclass(frozen=True, eq=False)
class News:
    """A replica's message: its state, and events by session."""

    report: Report
    events: tuple[tuple[str, Event], ...] = ()


class Replica:
    """An engine whose sessions are controlled by another process: `tell` opens and steers them, `events` returns their
    events.

    Sessions are recorded in ``folder``, from which other replicas continue them if this process dies. All methods but
    the constructor and `close` must be called in one event loop.
    """

    def __init__(self, load: Callable[[], MotionStreamPipeline], limits: Limits, folder: Path) -> None:
        self._library = Library(folder)
        self.engine = Engine(load, limits, self._library)
        self._sessions: dict[str, Session] = {}
        self._clock = ViewerClock()
        self._heard = self.engine.clock()
        self._listener: object = None  # the current call of `events`; there is only one at a time
        self._happened = asyncio.Event()
        self._known_to_be_broken = False
        self.engine.start()

    def close(self) -> None:
        """End all sessions and the engine."""
        self.engine.close()
        self._library.close()

    def check_health(self) -> None:
        """RuntimeError if the engine is broken and the listener has been told why; only a new process helps then."""
        if self._known_to_be_broken:
            raise RuntimeError(self.engine.problem)

    async def tell(self, now: float, orders: dict[str, Order]) -> None:
        """Pass on orders to sessions, by the caller's names. ``now``: the time on the caller's clock, on which commands
        are timed. EngineBusy if a session cannot be opened."""
        self._heard = self.engine.clock()
        self._clock.arrived(now, self._heard)
        for key, order in orders.items():
            if order.opening is not None:
                self._sessions[key] = self.engine.admit(order.opening, self._notify())
            if key in self._sessions:
                self._obey(self._sessions[key], order)

    def _obey(self, session: Session, order: Order) -> None:
        if session.watched != order.watched:
            session.watch(order.watched)
        for command in order.commands:
            try:
                session.submit(replace(command, time=self._clock.to_server(command.time, self._heard)))
            except ValueError as error:
                session.put(Failed(str(error), command.name))
        if order.closed:
            session.close()

    async def events(self) -> AsyncGenerator[News]:
        """Yield events as they happen, and the replica's state at least every PULSE seconds.

        Ends, together with all sessions, when `events` is called again, or without `tell` for SILENCE seconds.
        """
        me = self._listener = object()
        self._close_sessions()
        self._heard = self.engine.clock()
        try:
            while self._listener is me and self.engine.clock() - self._heard < SILENCE:
                self._happened.clear()
                happened = tuple(self._take())
                report = self.report()
                yield News(report, happened)
                self._known_to_be_broken = report.status == "broken"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PULSE):
                        await self._happened.wait()
        finally:
            if self._listener is me:
                self._close_sessions()

    async def leave(self) -> None:
        """End the caller's sessions, and `events`."""
        self._listener = None
        self._close_sessions()
        self._happened.set()

    def report(self) -> Report:
        """The replica's state."""
        model = self.engine.model if self.engine.status == "ready" else None
        device = torch.cuda.memory_reserved() / 1e6 if torch.cuda.is_available() else 0.0
        return Report(self.engine.status, self.engine.problem, model, memory_mb(), device)

    def _take(self) -> list[tuple[str, Event]]:
        taken: list[tuple[str, Event]] = []
        for key, session in list(self._sessions.items()):
            while (event := session.take()) is not None:
                taken.append((key, event))
                if isinstance(event, Ended):
                    del self._sessions[key]
        return taken

    def _notify(self) -> Callable[[], None]:
        """The callback with which the engine's thread announces events."""
        loop, happened = asyncio.get_running_loop(), self._happened

        def notify() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(happened.set)

        return notify

    def _close_sessions(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
