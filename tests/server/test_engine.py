"""The engine on the debug model, without any transport: by hand, on a clock of the test's own."""

import gc
import weakref

import numpy as np
import pytest
import torch

from motionstream.model.kv_cache import RollingKVCache
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.engine import Engine
from motionstream.server.host import EngineBusy
from motionstream.server.session import Accepted, Chunk, Ended, Event, Failed, Limits, Queued, Session, Started
from motionstream.session.commands import Erase, Move, Pause, Pin, Press, Prompt, Release, Resume, Steps, Stop
from motionstream.tracks import LiveTracks, Tracks


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def pipeline() -> MotionStreamPipeline:
    """Untrained weights begin at zero where it matters and make grey frames, all alike: these ones do not."""
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    generator = torch.Generator().manual_seed(0)
    for module in (pipeline.model, pipeline.parts.autoencoder):
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    frames = [pipeline.stream(picture(), seed=seed).step() for seed in (0, 1)]
    assert frames[0].std() > 5 and not np.array_equal(*frames)
    return pipeline


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(pipeline: MotionStreamPipeline, clock: Clock) -> Engine:
    """Loaded; the test stands in for the worker by calling `turn`."""
    engine = Engine(lambda: pipeline, Limits(sessions=2, chunks=3), clock=clock)
    engine.load()
    return engine


def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def events(session: Session) -> list[Event]:
    return list(iter(session.take, None))


def chunks(session: Session) -> list[Chunk]:
    return [event for event in events(session) if isinstance(event, Chunk)]


def run(engine: Engine, clock: Clock, seconds: float) -> None:
    """Let time pass as the worker would: sleep as long as `turn` says."""
    end = clock.now + seconds
    while clock.now < end:
        rest = engine.turn()
        clock.now += min(max(rest, 1e-3), end + 1e-3 - clock.now)  # a paused engine would sleep for ever


def press(clock: Clock, gesture: int = 1, x: float = 16, y: float = 16, **more: float) -> Press:
    return Press(time=clock.now, gesture=gesture, x=x, y=y, **more)


# ------------------------------------------------------------------------------------------------------ pacing


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


# ---------------------------------------------------------------------------------------------------- gestures


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


# ---------------------------------------------------------------------------------------- pause, stop, viewers


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
    before = caches()
    for seed in range(6):
        session = engine.open(picture(), seed=seed)
        run(engine, clock, 0.6)
        assert caches() == before + 1
        session.close()
        engine.turn()
        assert caches() == before


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
