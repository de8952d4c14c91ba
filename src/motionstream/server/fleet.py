"""Several engines in other processes as one host. A session stays with its engine; if that is lost, another engine
continues the session from its recording.

A thread with its own event loop communicates with the replicas. It is independent of Ray: a `Remote` is anything with a
replica's three methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from motionstream.server.host import EngineBusy, Host, ModelInfo, ReplicaState
from motionstream.server.replica import PULSE, SILENCE, News, Order, Report
from motionstream.server.session import (
    Accepted,
    Chunk,
    Continued,
    Ended,
    Event,
    Failed,
    Fresh,
    Limits,
    Session,
    Started,
)
from motionstream.session.commands import Command, Move, Pause, WebcamFrame
from motionstream.session.library import Library
from motionstream.session.recording import Recording

logger = logging.getLogger(__name__)

PACE = 0.005  # shortest time in seconds between two calls to one replica; orders in between are sent together
RETRY = 1.0  # seconds before a lost replica is called again
MOST_LOSSES = 2  # losses of a session without a new frame in between; beyond this it may be the cause


class Remote(Protocol):
    """A `Replica`, or a proxy for one in another process. Any exception from its calls means that it is lost."""

    def events(self) -> AsyncGenerator[News]: ...

    async def tell(self, now: float, orders: dict[str, Order]) -> None: ...

    async def leave(self) -> None: ...


@dataclass(eq=False)
class Seat:
    """A session's assignment: the opening with which any replica can start its stream, and the current replica."""

    session: Session
    key: str
    opening: Fresh | Recording
    link: Link | None = None
    recording: str | None = None  # name of the recording that ``link`` writes
    begun: bool = False  # whether that contains the whole stream, so that ``opening`` no longer counts
    paused: bool = False
    losses: int = 0
    commands: list[Command] = field(default_factory=list)  # the fleet's own, sent before the viewer's
    told: tuple[bool, bool] | None = None  # (watched, closed) as sent to ``link``; None before it knows the session

    def order(self) -> Order | None:
        """News for the replica; None if there are none."""
        opening = self.opening if self.told is None else None
        commands = (*self.commands, *self._wanted(self.session.commands()))
        self.commands.clear()
        state = (self.session.watched, self.session.closed)
        if not commands and state == self.told:
            return None
        self.told = state
        return Order(opening, commands, *state)

    def _wanted(self, commands: list[Command]) -> list[Command]:
        again = isinstance(self.opening, Recording) and not self.begun  # pointer motion during a replay has no effect
        return [command for command in commands if not (again and isinstance(command, Move | WebcamFrame))]


@dataclass(eq=False)
class Link:
    """The fleet's view of a replica. ``report`` is None while it is unreachable."""

    number: int
    remote: Remote
    report: Report | None = None
    losses: int = 0
    seats: dict[str, Seat] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> ReplicaState:
        report = self.report or Report("loading")
        return ReplicaState(
            report.status, len(self.seats), self.losses, report.problem, report.memory, report.device_memory
        )


class Fleet(Host):
    """Assigns sessions to replicas, at most ``limits.sessions`` to each, the least busy first; the others wait here.

    ``library``: in the folder in which the replicas record their sessions.
    """

    wakes_for_moves = True

    def __init__(
        self,
        remotes: Sequence[Remote],
        limits: Limits,
        library: Library,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(replace(limits, sessions=limits.sessions * len(remotes)), library, clock)
        self.status, self.problem = "loading", ""
        self._library, self._each = library, limits.sessions
        self._links = [Link(number, remote) for number, remote in enumerate(remotes)]
        self._seats: dict[Session, Seat] = {}
        self._keys = itertools.count(1)
        self._model: ModelInfo | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="motionstream-fleet", daemon=True)

    def start(self) -> None:
        """See `Host`."""
        self._thread.start()

    def close(self) -> None:
        """See `Host`; the replicas are notified."""
        with self._changed:
            self._closing = True
        self._call(self._over.set)
        if self._thread.ident is not None:
            self._thread.join()

    def wake(self) -> None:
        """See `Host`."""
        self._call(self._arrange)

    def require_ready(self) -> None:
        """See `Host`. Once the model is known it stays known: while replicas restart, sessions wait for them."""
        if self._model is None:
            reason = f"could not be loaded: {self.problem}" if self.status == "broken" else "is still loading; wait"
            raise EngineBusy(f"the model {reason}")

    @property
    def model(self) -> ModelInfo:
        """See `Host`."""
        self.require_ready()
        assert self._model is not None
        return self._model

    @property
    def session_count(self) -> int:
        """See `Host`."""
        return sum(len(link.seats) for link in self._links)

    @property
    def queue_length(self) -> int:
        """See `Host`."""
        return max(0, len(self._sessions) - self.session_count)

    @property
    def replicas(self) -> list[ReplicaState]:
        """See `Host`."""
        return [link.state for link in self._links]

    def _call(self, act: Callable[[], None]) -> None:
        """Call a function in the fleet's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(act)

    # ------------------------------------------------------------------------------------------- the fleet's thread

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = [tasks.create_task(self._keep(link)) for link in self._links]
                # For sessions opened before there was a loop:
                self._arrange()
                if not self._closing:
                    await self._over.wait()
                for task in keeping:
                    task.cancel()
        except ExceptionGroup as group:  # an error of the fleet itself; those of replicas are handled in _keep
            logger.exception("the fleet broke")
            self.status, self.problem = "broken", str(group.exceptions[0])
        for session in list(self._sessions):
            self._end(session, Ended("the server is stopping"))
        await asyncio.gather(*(self._leave(link) for link in self._links if link.report is not None))

    async def _leave(self, link: Link) -> None:
        try:
            async with asyncio.timeout(PULSE):
                await link.remote.leave()
        except Exception as error:
            logger.warning("replica %d did not take leave (%s)", link.number, type(error).__name__)

    async def _keep(self, link: Link) -> None:
        """Communicate with a replica; start again whenever it is lost."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(link))
                    tasks.create_task(self._talk(link))
            except ExceptionGroup as group:
                await self._lose(link, group.exceptions[0])
            await asyncio.sleep(RETRY)

    async def _listen(self, link: Link) -> None:
        async with contextlib.aclosing(link.remote.events()) as events:
            while True:
                async with asyncio.timeout(SILENCE):
                    news = await anext(events)
                if news.report.status == "broken" and link.seats:
                    raise ConnectionError(news.report.problem)  # before passing on that its sessions have ended
                for key, event in news.events:
                    if key in link.seats:
                        self._pass_on(link.seats[key], event)
                known, link.report = link.report, news.report
                self._model = self._model or news.report.model
                if known is None or known.status != news.report.status:
                    self._arrange()

    async def _talk(self, link: Link) -> None:
        told = -math.inf
        while True:
            orders = {key: order for key, seat in link.seats.items() if (order := seat.order()) is not None}
            if orders or self.clock() - told >= PULSE:
                told = self.clock()
                async with asyncio.timeout(SILENCE):
                    await link.remote.tell(told, orders)
            # (asyncio.wait_for can swallow a cancellation that coincides with the event.)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PULSE):
                    await link.wake.wait()
            link.wake.clear()
            await asyncio.sleep(PACE)

    # ------------------------------------------------------------------------------------------------ sessions

    def _arrange(self) -> None:
        """Assign waiting sessions to replicas with room, and tell the others their places in the queue."""
        waiting = []
        for session in list(self._sessions):
            if session not in self._seats:
                opening, session.opening = session.opening, None
                assert opening is not None
                self._seats[session] = Seat(session, str(next(self._keys)), opening)
            seat = self._seats[session]
            if seat.link is None and not self._end_if_closed(session):
                seat.link = self._least_busy()
                if seat.link is None:
                    session.refuse_commands()
                    waiting.append(session)
                else:
                    seat.link.seats[seat.key] = seat
        waiting = [session for session in waiting if not self._end_if_closed(session)]
        for place, session in enumerate(waiting, start=1):
            session.tell_place(place, len(waiting))
        self._look()
        for link in self._links:
            link.wake.set()

    def _least_busy(self) -> Link | None:
        ready = [link for link in self._links if link.state.status == "ready" and len(link.seats) < self._each]
        return min(ready, key=lambda link: len(link.seats), default=None)

    def _look(self) -> None:
        """Update the fleet's status: ready if any replica is, broken if all are."""
        states = self.replicas
        found = {state.status for state in states}
        self.status = "ready" if "ready" in found else "loading" if "loading" in found else "broken"
        self.problem = next((state.problem for state in states if state.problem), "")

    def _pass_on(self, seat: Seat, event: Event) -> None:
        """Pass on a replica's event to the viewer."""
        match event:
            case Started():
                seat.recording, seat.begun = event.recording, isinstance(seat.opening, Fresh)
            case Continued():
                seat.begun, event = True, replace(event, paused=seat.paused)
                if seat.paused:  # a stream that continues on another replica is running
                    seat.commands.append(Pause(time=self.clock()))
                    self.wake()
            case Accepted(command="pause" | "resume"):
                seat.paused = event.command == "pause"
            case Chunk():
                seat.losses = 0
            case Ended():
                self._end(seat.session, event)
                self._arrange()
                return
        seat.session.put(event)

    async def _lose(self, link: Link, error: BaseException) -> None:
        """Handle the loss of a replica: its sessions continue from their recordings, on any replica with room."""
        lost = list(link.seats.values())
        if link.report is not None:
            link.losses += 1
            logger.warning("replica %d was lost (%s: %s)", link.number, type(error).__name__, _first_line(error))
        link.report = None
        for seat in lost:
            try:
                seat.opening = await asyncio.to_thread(self._opening, seat)
            except ValueError as reason:
                seat.session.put(Failed(f"the stream's engine was lost, and {reason}", fatal=True))
                self._end(seat.session, Ended("its engine was lost"))
                continue
            seat.begun, seat.told, seat.link = False, None, None
            seat.losses += 1
        link.seats.clear()
        self._arrange()

    def _opening(self, seat: Seat) -> Fresh | Recording:
        """The opening from which a lost session continues. ValueError if it cannot."""
        if seat.losses >= MOST_LOSSES:
            raise ValueError(f"so were {seat.losses} before it; start another stream")
        if not seat.begun:
            return seat.opening
        if seat.recording is None:
            raise ValueError("the stream was not recorded; start another")
        return self._library.recording(seat.recording)

    def _end_if_closed(self, session: Session) -> bool:
        if session.closed:
            self._end(session, Ended("stopped"))
        return session.closed

    def _end(self, session: Session, event: Ended) -> None:
        self._forget(session)
        seat = self._seats.pop(session, None)
        if seat is not None and seat.link is not None:
            seat.link.seats.pop(seat.key, None)
        session.end(event)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
