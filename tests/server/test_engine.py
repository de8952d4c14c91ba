"""The engine on the debug model, without any transport: its pace, its sessions and what they cost. By hand, on a clock
of the test's own."""

import gc
import weakref

import numpy as np
import pytest

from motionstream.model.kv_cache import RollingKVCache
from motionstream.pipeline import MotionStreamPipeline
from motionstream.scene import usual_scale
from motionstream.server.engine import Engine
from motionstream.server.host import EngineBusy
from motionstream.server.session import Accepted, Chunk, Ended, Failed, Limits, Queued, Started
from motionstream.session.commands import Move, Pause, Pin, Resume, Stop
from motionstream.tracks import LiveTracks

from .conftest import Clock, chunks, events, picture, press, run


def test_chunks_come_at_the_playback_rate(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    times = []
    for _ in range(200):
        engine.turn()
        times += [(clock.now, chunk.first) for chunk in chunks(session)]
        clock.now += 0.02
    assert [first for _, first in times[:4]] == [0, 9, 21, 33]
    assert times[0][0] == 100.0, "the first chunk is made at once"
    # A chunk is made within its margin before the frames until then have been played, never after.
    for moment, first in times[1:]:
        played_until = 100.0 + first / 24
        assert played_until - 0.06 <= moment <= played_until + 1e-9


def test_late_chunks_move_the_deadline_instead_of_catching_up(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    engine.turn()
    clock.now += 60.0  # the machine slept
    run(engine, clock, 0.4)
    assert [chunk.first for chunk in chunks(session)] == [0, 9]


def test_two_streams_take_turns_and_do_not_touch_each_other(engine: Engine, clock: Clock) -> None:
    first, second = engine.open(picture(), seed=1), engine.open(picture(), seed=2)
    run(engine, clock, 1.0)
    a, b = chunks(first), chunks(second)
    assert len(a) == len(b) == 3
    alone = engine.pipeline.stream(picture(), seed=1)
    for chunk in a:
        assert np.array_equal(chunk.frames, alone.step())


def test_nothing_is_made_while_nobody_looks(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    run(engine, clock, 0.1)
    session.watch(False)
    run(engine, clock, 10.0)
    before = [chunk.first for chunk in chunks(session)]
    assert len(before) <= 2
    session.watch(True)
    engine.turn()
    assert [chunk.first for chunk in chunks(session)] == [before[-1] + (12 if before[-1] else 9)], "at once, and one"
    session.submit(Pause(time=clock.now))
    for watched in (False, True):
        session.watch(watched)
        engine.turn()
    run(engine, clock, 2.0)
    assert not chunks(session), "a pause outlasts it"
    session.submit(Resume(time=clock.now))
    run(engine, clock, 0.1)
    assert len(chunks(session)) == 1


def test_chunks_tell_what_each_stage_took(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    run(engine, clock, 1.0)
    first, second, *_ = chunks(session)
    assert set(first.stages) == {"conditions", "generate", "decode", "settle"}
    assert first.stages["settle"] == 0 < second.stages["settle"], "that of the chunk before"
    assert min(second.stages.values()) > 0


def test_pausing_changes_when_frames_come_and_not_what_they_are(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture(), seed=11)
    session.submit(Pin(time=clock.now, gesture=1, x=9, y=9))
    run(engine, clock, 0.6)
    made = chunks(session)
    session.submit(Pause(time=clock.now))
    run(engine, clock, 30.0)
    assert chunks(session) == [] and len(made) == 2
    session.submit(Resume(time=clock.now))
    run(engine, clock, 0.6)
    made += chunks(session)
    assert [chunk.first for chunk in made] == [0, 9, 21, 33][: len(made)] and len(made) >= 3
    twin = engine.pipeline.stream(picture(), seed=11)
    live = LiveTracks((32, 32))
    live.pin(9, 9)
    for chunk in made:
        assert np.array_equal(chunk.frames, twin.step(live.cut(twin.next_frames)))


def test_a_drag_while_paused_ends_up_where_the_pointer_did(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    session.submit(press(clock, radius=0))
    run(engine, clock, 0.2)
    session.submit(Pause(time=clock.now))
    for step in range(3000):
        clock.now += 0.01
        session.submit(Move(time=clock.now, gesture=1, x=step % 31, y=5))
        engine.turn()
    session.submit(Resume(time=clock.now))
    run(engine, clock, 0.5)
    assert np.allclose(chunks(session)[-1].positions[-1, 0], [2999 % 31, 5], atol=1e-3)


def test_a_slow_viewer_loses_the_oldest_frames_and_no_control(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    run(engine, clock, 4.0)
    session.submit(press(clock))
    engine.turn()
    seen = events(session)
    assert isinstance(seen[0], Started) and isinstance(seen[1], Accepted), "control does not wait behind frames"
    made = [event for event in seen if isinstance(event, Chunk)]
    assert len(made) == 3
    assert made[0].dropped == made[0].first > 0, "everything before what is left was dropped"
    assert [chunk.dropped for chunk in made[1:]] == [0, 0]


def test_more_than_allowed_wait_their_turn_and_are_told_their_place(pipeline, clock: Clock) -> None:
    engine = Engine(lambda: pipeline, Limits(sessions=2, queue=3), clock=clock)
    engine.load()
    running = [engine.open(picture()) for _ in range(2)]
    waiting = [engine.open(picture()) for _ in range(3)]
    with pytest.raises(EngineBusy, match="all 2 streams are taken and 3 viewers wait already"):
        engine.open(picture())
    engine.turn()
    assert [events(session) for session in waiting] == [[Queued(1, 3)], [Queued(2, 3)], [Queued(3, 3)]]
    assert (engine.session_count, engine.queue_length) == (2, 3)
    run(engine, clock, 1.0)
    assert not any(events(session) for session in waiting), "said once, and nothing is made for them"
    waiting[1].submit(press(clock))
    engine.turn()
    [refused] = events(waiting[1])
    assert isinstance(refused, Failed) and "waits for its turn" in refused.message and not refused.fatal
    waiting[0].submit(Stop(time=clock.now))  # one loses patience
    engine.turn()
    assert isinstance(events(waiting[0])[-1], Ended)
    assert [events(session) for session in waiting[1:]] == [[Queued(1, 2)], [Queued(2, 2)]]
    running[0].close()
    engine.turn()
    engine.turn()
    seen = events(waiting[1])
    assert isinstance(seen[0], Started) and isinstance(seen[1], Chunk)
    assert events(waiting[2]) == [Queued(1, 1)]
    assert (engine.session_count, engine.queue_length) == (2, 1)


def test_streams_that_ask_for_too_much_are_served_alike(engine: Engine, clock: Clock) -> None:
    """The device takes 0.4 s for 0.5 s of video: two streams get 1.25 chunks a second each, neither starves."""
    sessions = [engine.open(picture(), seed=seed) for seed in (1, 2)]
    engine.turn()
    for session in sessions:
        step = engine._players[session].take.stream.step

        def slow(*arguments, step=step):
            clock.now += 0.4
            return step(*arguments)

        engine._players[session].take.stream.step = slow  # type: ignore[method-assign]
    counts = np.zeros(2)
    end = clock.now + 20.0
    while clock.now < end:
        rest = engine.turn()
        counts += [len(chunks(session)) for session in sessions]
        clock.now += min(max(rest, 1e-3), 0.5)
    assert abs(counts[0] - counts[1]) <= 1 and counts.sum() >= 48


def caches() -> int:
    gc.collect()
    return sum(type(each) is RollingKVCache for each in gc.get_objects())


def test_sessions_that_come_and_go_leave_no_cache(engine: Engine, clock: Clock) -> None:
    gc.collect()
    gc.freeze()
    before = caches()
    for seed in range(3):
        session = engine.open(picture(), seed=seed)
        run(engine, clock, 0.6)
        assert caches() == before + 1
        session.close()
        engine.turn()
        assert caches() == before
    gc.unfreeze()


@pytest.mark.parametrize("how", ["stop", "close"])
def test_ending_frees_the_stream(engine: Engine, clock: Clock, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[weakref.ref] = []
    begin = MotionStreamPipeline.stream

    def remembered(*arguments, **keywords):
        stream = begin(*arguments, **keywords)
        streams.append(weakref.ref(stream))
        return stream

    monkeypatch.setattr(MotionStreamPipeline, "stream", remembered)
    session = engine.open(picture())
    run(engine, clock, 0.5)
    assert streams[0]() is not None and engine.session_count == 1
    if how == "stop":
        session.submit(Stop(time=clock.now))
    else:
        session.close()
    engine.turn()
    gc.collect()
    assert streams[0]() is None and engine.session_count == 0
    assert isinstance(events(session)[-1], Ended)
    with pytest.raises(ValueError, match="the stream has ended"):
        session.submit(press(clock))


def test_an_error_ends_its_own_stream_only(engine: Engine, clock: Clock) -> None:
    broken, sound = engine.open(picture()), engine.open(picture())
    engine.turn()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    engine._players[broken].take.stream.step = fail  # type: ignore[assignment]
    run(engine, clock, 1.0)
    failed, ended = events(broken)[-2:]
    assert isinstance(failed, Failed) and failed.fatal and isinstance(ended, Ended)
    assert len(chunks(sound)) == 3 and engine.session_count == 1


def test_a_picture_that_cannot_be_used_is_told(engine: Engine) -> None:
    session = engine.open(np.zeros((4, 4), np.uint8))
    engine.turn()
    failed, ended = events(session)
    assert isinstance(failed, Failed) and failed.fatal and "uint8" in failed.message and isinstance(ended, Ended)


def test_frames_are_as_large_as_the_limits_say(pipeline: MotionStreamPipeline, clock: Clock) -> None:
    for scale, shown in ((None, usual_scale(pipeline.config, pipeline.device)), (2, 2), (3, 3)):
        engine = Engine(lambda: pipeline, Limits(scale=scale), clock=clock)
        engine.load()
        session = engine.open(picture())
        run(engine, clock, 0.5)
        made = events(session)
        [started] = [event for event in made if isinstance(event, Started)]
        frames = next(event for event in made if isinstance(event, Chunk)).frames
        assert frames.shape[1:3] == (shown * started.size[0], shown * started.size[1])
    engine = Engine(lambda: pipeline, Limits(scale=5), clock=clock)
    engine.load()
    assert engine.status == "broken" and "scale = 5" in engine.problem
