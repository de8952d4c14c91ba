"""What viewers' commands do to a stream: by hand, on a clock of the test's own."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.engine import Engine
from motionstream.server.session import Accepted, Chunk, Failed, Limits, Selected, Started
from motionstream.session.commands import Erase, Move, Pin, Prompt, Release, Select, Steps
from motionstream.tracks import Tracks
from motionstream.tracks.masks import Draw

from .conftest import Clock, chunks, events, picture, press, run


def test_a_drag_becomes_tracks_that_move(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    session.submit(press(clock, 7, radius=4, spacing=4))
    engine.turn()
    for step in range(1, 9):
        clock.now += 0.04
        session.submit(Move(time=clock.now, gesture=7, x=16 + step, y=16, sent=step / 10))
    run(engine, clock, 0.5)
    still, moved = chunks(session)[:2]
    assert [(group.gesture, group.kind) for group in moved.groups] == [(7, "press")]
    assert still.positions.shape == (9, 5, 2) and moved.positions.shape == (12, 5, 2)
    assert np.ptp(still.positions, axis=0).max() == 0
    travelled = moved.positions[-1] - still.positions[-1]
    assert np.allclose(travelled, [8, 0], atol=1e-3), "the last sample is the last frame"
    assert moved.sent == 0.8


def test_the_frames_are_those_of_the_tracks_that_are_reported(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture(), seed=5)
    session.submit(press(clock, 1))
    run(engine, clock, 0.2)
    session.submit(Move(time=clock.now, gesture=1, x=20, y=12))
    run(engine, clock, 0.4)
    made = chunks(session)
    assert len(made) == 2
    replay = engine.pipeline.stream(picture(), seed=5)
    for chunk in made:
        seen = ~np.isnan(chunk.positions).any(-1)
        tracks = Tracks(np.nan_to_num(chunk.positions), seen, (32, 32))
        assert np.array_equal(chunk.frames, replay.step(tracks))
    without = engine.pipeline.stream(picture(), seed=5)
    assert not np.array_equal(made[0].frames, without.step()), "the tracks change nothing"


def test_commands_are_accepted_with_the_frame_they_take_effect_in(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    session.submit(Pin(time=clock.now, gesture=1, x=5, y=5))
    engine.turn()
    accepted = [event for event in events(session) if isinstance(event, Accepted)]
    assert accepted == [Accepted("pin", 0, 1)]
    session.submit(Prompt(time=clock.now, prompt="a red kite"))
    session.submit(press(clock, 2))
    engine.turn()  # the next chunk is not due yet: it is said at once all the same
    assert events(session) == [Accepted("prompt", 9), Accepted("press", 9, 2)]
    run(engine, clock, 0.4)
    (chunk,) = chunks(session)
    assert chunk.first == 9 and {group.gesture for group in chunk.groups} == {1, 2}
    session.submit(Erase(time=clock.now, gesture=1))
    session.submit(Release(time=clock.now, gesture=2))
    run(engine, clock, 1.0)
    later = chunks(session)
    assert {group.gesture for group in later[0].groups} == {2} and not later[-1].groups


def test_a_prompt_changes_the_next_chunk(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    engine.turn()
    session.submit(Prompt(time=clock.now, prompt="a red kite"))
    run(engine, clock, 0.4)
    made = chunks(session)
    twin = engine.pipeline.stream(picture())
    twin.step()
    twin.prompt = "a red kite"
    assert np.array_equal(made[1].frames, twin.step())


def test_a_wrong_command_is_refused_and_the_stream_goes_on(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    engine.turn()
    events(session)
    for command, word in (
        (press(clock, 1, x=500), "outside the picture"),
        (Erase(time=clock.now, gesture=9), "no gesture 9"),
        (press(clock, 1, radius=16, spacing=0.5), "spacing"),
    ):
        session.submit(command)
        engine.turn()
        (failed,) = events(session)
        assert isinstance(failed, Failed) and not failed.fatal and word in failed.message, failed
    # What follows a refused press was on its way already, and is no mistake of its own.
    session.submit(Move(time=clock.now, gesture=1, x=4, y=4))
    session.submit(Release(time=clock.now, gesture=1))
    engine.turn()
    assert events(session) == []
    run(engine, clock, 0.4)
    assert chunks(session)


def test_times_that_run_backwards_or_ahead_do_no_harm(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    session.submit(press(clock))
    for time, x in ((clock.now + 1000, 20.0), (clock.now - 1000, 22.0)):
        session.submit(Move(time=time, gesture=1, x=x, y=16))
    run(engine, clock, 0.9)
    assert not [event for event in events(session) if isinstance(event, Failed)]


def test_a_fast_pointer_is_thinned_to_its_latest_place(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    session.submit(press(clock))
    for step in range(10_000):  # at 100 kHz
        session.submit(Move(time=clock.now + step * 1e-5, gesture=1, x=step / 1000, y=3))
    waiting = session.commands()
    assert 90 <= len(waiting) <= 110
    last = waiting[-1]
    assert isinstance(last, Move) and last.x == 9.999


def test_more_commands_than_may_wait_are_refused(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    with pytest.raises(ValueError, match="4096 commands are waiting"):
        for _ in range(5000):
            session.submit(Prompt(time=clock.now, prompt="more"))


def test_the_overlay_is_bounded(pipeline: MotionStreamPipeline, clock: Clock) -> None:
    engine = Engine(lambda: pipeline, Limits(overlay_points=10), clock=clock)
    engine.load()
    session = engine.open(picture())
    session.submit(press(clock, 1, radius=40, spacing=2))
    session.submit(Pin(time=clock.now, gesture=2, x=3, y=3, radius=2, spacing=1))
    engine.turn()
    (chunk,) = chunks(session)
    assert chunk.positions.shape == (9, 10, 2)
    assert sum(group.count for group in chunk.groups) == 10


def test_steps_change_the_next_chunk(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture(), steps=2)
    engine.turn()
    session.submit(Steps(time=clock.now, steps=4))
    session.submit(Steps(time=clock.now, steps=9))
    run(engine, clock, 0.4)
    seen = events(session)
    assert isinstance(seen[0], Started) and seen[0].steps == 2
    assert seen[1] == Accepted("steps", 9)
    assert isinstance(seen[2], Failed) and "steps = 9" in seen[2].message
    twin = engine.pipeline.stream(picture(), steps=2)
    made = [event for event in seen if isinstance(event, Chunk)]
    assert np.array_equal(made[0].frames, twin.step())
    twin.steps = 4
    assert np.array_equal(made[1].frames, twin.step())


def test_frames_go_on_while_an_object_is_looked_for(engine: Engine, clock: Clock, monkeypatch) -> None:
    found, woken = threading.Event(), threading.Event()

    def look(command: Select, seen: np.ndarray, draw: Draw | None) -> Select:
        assert found.wait(60)
        assert draw == engine.pipeline.model.draw, "what the model draws has a say, as in a replay"
        return replace(command, outline=((2.0, 2.0), (20.0, 2.0), (20.0, 20.0), (2.0, 20.0)))

    monkeypatch.setattr("motionstream.server.player.find", look)
    session = engine.open(picture())
    session.wake = woken.set
    engine.turn()
    session.submit(Select(time=clock.now, request=4, x=12, y=12))
    run(engine, clock, 1.0)
    assert len(chunks(session)) >= 2, "the stream does not wait"
    woken.clear()
    found.set()
    assert woken.wait(60), "the engine is told when it is found"
    engine.turn()
    [selected] = [event for event in events(session) if isinstance(event, Selected)]
    assert selected.request == 4 and selected.area > 200


def test_a_drag_of_an_object_waits_until_that_is_found(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    engine.turn()
    session.submit(Select(time=clock.now, request=4, outline=((2, 2), (20, 2), (20, 20), (2, 20))))
    session.submit(Pin(time=clock.now, gesture=1, x=10, y=10, object=4, spacing=4))
    session.submit(Select(time=clock.now, request=5, x=500, y=1))
    session.submit(Pin(time=clock.now, gesture=2, x=10, y=10, object=5))
    engine.turn()
    told = events(session)
    assert any(isinstance(event, Accepted) and event.gesture == 1 for event in told)
    refused = [event for event in told if isinstance(event, Failed)]
    assert [event.command for event in refused] == ["select", "pin"] and "no object 5" in refused[1].message
