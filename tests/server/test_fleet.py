"""Several engines as one host, in this process: their calls are made directly, and fail when the test says so."""

import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server import fleet as fleet_module
from motionstream.server.fleet import Fleet
from motionstream.server.host import EngineBusy
from motionstream.server.replica import News, Order, Replica
from motionstream.server.session import (
    Accepted,
    Chunk,
    Continued,
    Ended,
    Event,
    Failed,
    Limits,
    Queued,
    Session,
    Started,
)
from motionstream.session.commands import Move, Pause, Pin, Press, Prompt, Stop
from motionstream.session.library import Library
from motionstream.session.replay import Replay


class Line:
    """To a replica that can be killed, and then is started anew when it is called, unless ``mends`` is False."""

    def __init__(self, make: Callable[[], Replica]) -> None:
        self.make, self.replica = make, make()
        self.dead, self.mends = threading.Event(), True

    async def events(self) -> AsyncGenerator[News]:
        if self.dead.is_set():
            if not self.mends:
                raise ConnectionError("nobody is there")
            self.replica, self.dead = self.make(), threading.Event()
        async for news in self.replica.events():
            if self.dead.is_set():
                raise ConnectionError("the process died")
            yield news

    async def tell(self, now: float, orders: dict[str, Order]) -> None:
        if self.dead.is_set():
            raise ConnectionError("the process died")
        await self.replica.tell(now, orders)

    async def leave(self) -> None:
        await self.replica.leave()

    def kill(self, *, mends: bool = True) -> None:
        self.mends = mends
        self.dead.set()
        self.replica.engine.close()


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library(tmp_path / "sessions") as library:
        yield library


@pytest.fixture
def lines(lively_pipeline: MotionStreamPipeline, library: Library) -> Iterator[list[Line]]:
    def make() -> Replica:
        return Replica(lambda: lively_pipeline, Limits(sessions=1), library.folder)

    lines = [Line(make), Line(make)]
    yield lines
    for line in lines:
        line.replica.close()


@pytest.fixture
def fleet(lines: list[Line], library: Library, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Two replicas that run one stream each."""
    monkeypatch.setattr(fleet_module, "RETRY", 0.05)
    with Fleet(lines, Limits(sessions=1), library) as fleet:
        until(lambda: [state.status for state in fleet.replicas] == ["ready", "ready"])
        yield fleet


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


class Viewer:
    """Takes everything that a session says."""

    def __init__(self, session: Session) -> None:
        self.session, self.seen = session, list[Event]()

    def take(self) -> list[Event]:
        self.seen += iter(self.session.take, None)
        return self.seen

    def wait(self, kind: type, total: int = 1) -> list:
        """Until so many of a kind have come, since the beginning; all of them."""
        until(lambda: len(self.all(kind)) >= total)
        return self.all(kind)

    def watch(self, chunks: int = 1) -> None:
        """Until so many more chunks have come."""
        self.wait(Chunk, len(self.all(Chunk)) + chunks)

    def all(self, kind: type) -> list:
        return [event for event in self.take() if isinstance(event, kind)]


def open_on(fleet: Fleet, noise: np.ndarray, seed: int = 0) -> Viewer:
    viewer = Viewer(fleet.open(noise, "day", seed))
    viewer.wait(Started)
    return viewer


def test_sessions_are_dealt_out_and_the_next_one_waits(fleet: Fleet, noise: np.ndarray) -> None:
    first, second = open_on(fleet, noise), open_on(fleet, noise)
    assert [state.sessions for state in fleet.replicas] == [1, 1]
    assert (fleet.limits.sessions, fleet.session_count, fleet.queue_length) == (2, 2, 0)
    third, fourth = Viewer(fleet.open(noise)), Viewer(fleet.open(noise))
    assert fourth.wait(Queued) == [Queued(2, 2)]
    until(lambda: third.all(Queued)[-1] == Queued(1, 2))
    third.session.submit(Pin(time=fleet.clock(), gesture=1, x=9, y=9))
    assert "waits for its turn" in third.wait(Failed)[0].message
    third.session.submit(Stop(time=fleet.clock()))
    third.wait(Ended)
    assert fourth.wait(Queued, 2)[-1] == Queued(1, 1)
    second.session.close()
    second.wait(Ended)
    fourth.watch()
    first.watch()
    assert (fleet.session_count, fleet.queue_length) == (2, 0)


def test_commands_arrive_when_they_were_meant(fleet: Fleet, library: Library, noise: np.ndarray) -> None:
    viewer = open_on(fleet, noise)
    viewer.watch()
    pressed = fleet.clock()
    viewer.session.submit(Press(time=pressed, sent=5.0, gesture=1, x=16, y=16))
    for step in range(1, 20):
        viewer.session.submit(Move(time=fleet.clock(), sent=5.0 + step, gesture=1, x=16 + step, y=16))
        time.sleep(0.005)
    assert viewer.wait(Accepted)[-1].command == "press"
    until(lambda: any(chunk.sent == 24.0 for chunk in viewer.all(Chunk)))
    viewer.session.close()
    viewer.wait(Ended)
    entries = library.recording(viewer.all(Started)[0].recording).entries
    moves = [command for entry in entries for command in entry.commands if isinstance(command, Move)]
    assert [move.x for move in moves] == [16.0 + step for step in range(1, 20)], "all of them, in their order"
    assert all(a.time < b.time for a, b in pairwise(moves)), "and rhythm"


def test_a_lost_session_goes_on_elsewhere_with_the_frames_of_its_recording(
    fleet: Fleet, lines: list[Line], library: Library, noise: np.ndarray, lively_pipeline: MotionStreamPipeline
) -> None:
    viewer, other = open_on(fleet, noise, seed=7), open_on(fleet, noise, seed=8)
    viewer.session.submit(Pin(time=fleet.clock(), gesture=4, x=9, y=9))
    viewer.session.submit(Prompt(time=fleet.clock(), prompt="night"))
    viewer.wait(Accepted, 2)
    viewer.watch(2)
    fourth = Viewer(fleet.open(noise))  # it came later: what was lost goes first
    lines[0].kill()
    [_, started] = viewer.wait(Started, 2)
    [continued] = viewer.wait(Continued)
    assert (continued.prompt, continued.gestures, continued.paused) == ("night", ((4, "pin"),), False)
    viewer.session.submit(Pin(time=fleet.clock(), gesture=5, x=20, y=9))
    viewer.watch(3)
    until(lambda: fleet.replicas[0].losses == 1)
    viewer.session.close()
    viewer.wait(Ended)
    recording = library.recording(started.recording)
    assert [one.gesture for entry in recording.entries for one in entry.commands if isinstance(one, Pin)] == [4, 5]
    again = {shot.first: shot.frames for shot in Replay(lively_pipeline, recording).shots()}
    seen = viewer.all(Chunk)
    assert [chunk.first for chunk in seen] == sorted({chunk.first for chunk in seen}), "no frame comes twice"
    assert any(chunk.first < continued.frame for chunk in seen) and seen[-1].first > continued.frame
    assert all(np.array_equal(chunk.frames, again[chunk.first]) for chunk in seen)
    assert len(other.all(Started)) == 1 and not other.all(Continued), "the other session is not touched"
    fourth.watch()


def test_what_stood_still_stands_still_elsewhere(fleet: Fleet, lines: list[Line], noise: np.ndarray) -> None:
    viewer = open_on(fleet, noise)
    viewer.watch()
    viewer.session.submit(Pause(time=fleet.clock()))
    viewer.wait(Accepted)
    lines[0].kill()
    assert viewer.wait(Continued)[0].paused
    assert viewer.wait(Accepted, 2)[-1].command == "pause"


def test_without_another_replica_sessions_wait_for_their_own(
    fleet: Fleet, lines: list[Line], noise: np.ndarray
) -> None:
    lines[1].kill(mends=False)
    until(lambda: fleet.replicas[1].losses == 1)
    viewer = open_on(fleet, noise)
    viewer.watch()
    lines[0].kill(mends=False)
    assert viewer.wait(Queued) == [Queued(1, 1)]
    until(lambda: fleet.status == "loading")
    waiting = Viewer(fleet.open(noise))
    assert waiting.wait(Queued) == [Queued(2, 2)]
    lines[0].mends = True
    viewer.wait(Continued)
    viewer.watch()
    assert fleet.status == "ready" and waiting.all(Queued)[-1] == Queued(1, 1)


def test_a_session_that_kills_replicas_is_ended(fleet: Fleet, lines: list[Line], noise: np.ndarray) -> None:
    viewer = open_on(fleet, noise)
    viewer.session.watch(False)  # no new frames come between its losses
    for losses in range(1, 4):
        viewer.wait(Started, losses)
        [number] = [number for number, state in enumerate(fleet.replicas) if state.sessions]
        lines[number].kill()
        until(lambda: sum(state.losses for state in fleet.replicas) == losses)  # noqa: B023
    viewer.wait(Ended)
    assert viewer.all(Failed)[-1].fatal and "so were 2 before it" in viewer.all(Failed)[-1].message
    until(lambda: [state.status for state in fleet.replicas] == ["ready", "ready"])


def test_what_was_not_recorded_is_told_to_be_lost(
    fleet: Fleet, lines: list[Line], library: Library, noise: np.ndarray
) -> None:
    viewer = open_on(fleet, noise)
    viewer.watch()
    for file in library.folder.iterdir():
        file.unlink()
    lines[0].kill()
    viewer.wait(Ended)
    assert viewer.all(Failed)[-1].fatal and "engine was lost, and" in viewer.all(Failed)[-1].message


def test_a_broken_engine_is_unhealthy_and_its_sessions_go_on_elsewhere(
    fleet: Fleet, lines: list[Line], noise: np.ndarray
) -> None:
    viewer = open_on(fleet, noise)
    viewer.watch()
    lines[0].replica.check_health()
    engine = lines[0].replica.engine

    def fail() -> float:
        raise RuntimeError("the device is gone")

    engine.turn = fail  # type: ignore[method-assign]
    viewer.wait(Continued)
    until(lambda: fleet.replicas[0].status == "broken")

    def is_unhealthy() -> bool:
        try:
            lines[0].replica.check_health()
        except RuntimeError as error:
            return "the device is gone" in str(error)
        return False

    until(is_unhealthy)
    assert "the device is gone" in fleet.replicas[0].problem and fleet.status == "ready"
    assert not viewer.all(Failed)


def test_a_model_that_no_replica_can_load_breaks_the_fleet(library: Library, noise: np.ndarray) -> None:
    def fail() -> MotionStreamPipeline:
        raise ValueError("no weights for 'nano'")

    replicas = [Replica(fail, Limits(sessions=1), library.folder) for _ in range(2)]
    fleet = Fleet(replicas, Limits(sessions=1), library)
    with pytest.raises(EngineBusy, match="still loading"):
        fleet.open(noise)
    with fleet:
        until(lambda: fleet.status == "broken")
        assert fleet.problem == "no weights for 'nano'"
        with pytest.raises(EngineBusy, match="no weights for 'nano'"):
            fleet.open(noise)
    for replica in replicas:
        replica.close()


def test_closing_the_fleet_ends_its_sessions(fleet: Fleet, lines: list[Line], noise: np.ndarray) -> None:
    viewers = [Viewer(fleet.open(noise)) for _ in range(3)]
    viewers[0].watch()
    fleet.close()
    for viewer in viewers:
        assert isinstance(viewer.take()[-1], Ended)
    until(lambda: lines[0].replica.engine.session_count == 0)
    with pytest.raises(EngineBusy, match="the server is stopping"):
        fleet.open(noise)
