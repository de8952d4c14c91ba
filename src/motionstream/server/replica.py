"""One engine among several, as it is reached from another process: told things in batches, and telling what happened.

Nothing here knows how the calls come; `motionstream.server.fleet` makes them, by way of Ray or, in tests, directly.
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

PULSE = 1.0  # seconds: each side says something at least so often
SILENCE = 30.0  # seconds after which the other side is given up


@dataclass(frozen=True, eq=False)
class Order:
    """What one session is told: ``opening`` first of all, then commands, whether anybody looks, whether it is over."""

    opening: Fresh | Recording | None
    commands: tuple[Command, ...]
    watched: bool
    closed: bool


@dataclass(frozen=True)
class Report:
    """How a replica is. Memory in MB."""

    status: Status
    problem: str = ""
    model: ModelInfo | None = None
    memory: float = 0.0
    device_memory: float = 0.0


@dataclass(frozen=True, eq=False)
class News:
    """What a replica says: how it is, and what happened in which session."""

    report: Report
    events: tuple[tuple[str, Event], ...] = ()


class Replica:
    """An engine whose sessions are somebody else's: `tell` opens and steers them, `events` says what they make.

    Sessions are recorded in ``folder``, from which others take them up when this process dies. All methods but the
    constructor and `close` belong to one event loop.
    """

    def __init__(self, load: Callable[[], MotionStreamPipeline], limits: Limits, folder: Path) -> None:
        self._library = Library(folder)
        self.engine = Engine(load, limits, self._library)
        self._sessions: dict[str, Session] = {}
        self._clock = ViewerClock()
        self._heard = self.engine.clock()
        self._listener: object = None  # whom `events` talks to; there is but one at a time
        self._happened = asyncio.Event()
        self._known_to_be_broken = False
        self.engine.start()

    def close(self) -> None:
        """End all sessions and the engine."""
        self.engine.close()
        self._library.close()

    def check_health(self) -> None:
        """RuntimeError where the engine is broken, and whoever listens knows why: only a new process helps."""
        if self._known_to_be_broken:
            raise RuntimeError(self.engine.problem)

    async def tell(self, now: float, orders: dict[str, Order]) -> None:
        """Tell sessions, by names of the caller's, what their viewers want. ``now``: the caller's clock, on which the
        times of the commands are. EngineBusy where no session can be opened."""
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
        """What happens, as it happens, and at least every PULSE seconds how the replica is.

        Ends, and with it all sessions, when another one listens, and when nothing is told for SILENCE seconds.
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
        """The caller wants no more: end its sessions, and `events`."""
        self._listener = None
        self._close_sessions()
        self._happened.set()

    def report(self) -> Report:
        """How the replica is."""
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
        """What the engine's thread calls when a session has something to say."""
        loop, happened = asyncio.get_running_loop(), self._happened

        def notify() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(happened.set)

        return notify

    def _close_sessions(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
