"""The engine in its own thread: loading, working, breaking."""

import dataclasses
import threading
from collections.abc import Callable

import numpy as np
import pytest

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.engine import Engine
from motionstream.server.host import EngineBusy
from motionstream.server.session import Chunk, Ended, Failed, Limits, Started
from motionstream.session.commands import Stop

from .conftest import events, picture


def wait_for(condition: Callable[[], bool], changed: threading.Event) -> None:
    for _ in range(400):
        if condition():
            return
        changed.wait(0.05)
        changed.clear()
    raise AssertionError("it did not happen")


def test_the_worker_runs_all_of_it(pipeline: MotionStreamPipeline) -> None:
    changed, seen = threading.Event(), []
    with Engine(lambda: pipeline) as engine:
        wait_for(lambda: engine.status == "ready", changed)
        session = engine.open(picture(), notify=changed.set)

        def chunk_came() -> bool:
            seen.extend(events(session))
            return any(isinstance(event, Chunk) for event in seen)

        wait_for(chunk_came, changed)
        session.submit(Stop(time=engine.clock()))
        wait_for(lambda: engine.session_count == 0, changed)
        other = engine.open(picture(), notify=changed.set)
    assert isinstance(seen[0], Started)
    assert isinstance(events(other)[-1], Ended), "closing the engine ends its streams"


def test_loading_and_broken_are_told_apart() -> None:
    def fail() -> MotionStreamPipeline:
        raise ValueError("no weights for 'nano'")

    engine = Engine(fail)
    assert engine.status == "loading"
    with pytest.raises(EngineBusy, match="still loading"):
        engine.open(picture())
    engine.load()
    assert engine.status == "broken" and engine.problem == "no weights for 'nano'"
    with pytest.raises(EngineBusy, match="no weights for 'nano'"):
        engine.open(picture())


@pytest.mark.parametrize("device_works", [True, False])
def test_a_device_that_computes_no_more_breaks_the_engine(
    pipeline: MotionStreamPipeline, monkeypatch: pytest.MonkeyPatch, device_works: bool
) -> None:
    """After a failure of a stream the device is tried: where it works, the others go on."""
    changed = threading.Event()
    with Engine(lambda: pipeline) as engine:
        wait_for(lambda: engine.status == "ready", changed)
        sound = engine.open(picture(), notify=changed.set)
        wait_for(lambda: sound in engine._players, changed)

        def fail(*_: object) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        if not device_works:
            monkeypatch.setattr(engine, "_check_device", fail)
        failing = engine.open(np.zeros((40, 48, 3), np.uint8), notify=changed.set)
        wait_for(lambda: failing in engine._players, changed)
        monkeypatch.setattr(engine._players[failing].take, "make", fail)
        wait_for(lambda: failing.ended, changed)
        assert any(isinstance(event, Failed) and event.fatal for event in events(failing))
        if device_works:
            events(sound)
            wait_for(lambda: any(isinstance(event, Chunk) for event in events(sound)), changed)
            assert engine.status == "ready"
            return
        wait_for(lambda: sound.ended, changed)
        assert engine.status == "broken" and "illegal memory access" in engine.problem
        [ended] = [event for event in events(sound) if isinstance(event, Ended)]
        assert "illegal memory access" in ended.reason
        with pytest.raises(EngineBusy, match="the engine is broken: RuntimeError: CUDA error"):
            engine.open(picture())


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_limits_name_what_is_wrong(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0"):
        Limits(**{name: 0})
