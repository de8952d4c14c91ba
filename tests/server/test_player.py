"""Sessions that record themselves, and streams that go on from a recording: by hand, on a clock of the test's own."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.engine import Engine
from motionstream.server.session import Chunk, Continued, Ended, Event, Failed, Limits, Replaying, Session, Started
from motionstream.server.sources import Video
from motionstream.session.commands import (
    Erase,
    Follow,
    Move,
    Pause,
    Pin,
    Press,
    Prompt,
    Release,
    Restart,
    Resume,
    Steps,
    Unfollow,
    WebcamFrame,
)
from motionstream.session.commands import (
    Path as DrawnPath,
)
from motionstream.session.film import frames_of
from motionstream.session.library import Library
from motionstream.session.recording import Recording
from motionstream.session.replay import Replay
from motionstream.stream import Stream

from .conftest import Clock, events, picture, run


@pytest.fixture
def clock() -> Clock:
    """At a moment that has no end in microseconds."""
    return Clock(1234.56789 + 1 / 3e6)


@pytest.fixture
def engine(pipeline: MotionStreamPipeline, clock: Clock, tmp_path: Path) -> Iterator[Engine]:
    """Loaded; the test stands in for the worker by calling `turn`."""
    with Library(tmp_path / "sessions") as library:
        engine = Engine(lambda: pipeline, Limits(sessions=3, chunks=100), library, clock=clock)
        engine.load()
        yield engine
        engine.close()


def frames(seen: list[Event]) -> list[np.ndarray]:
    return [event.frames for event in seen if isinstance(event, Chunk)]


def perform(engine: Engine, clock: Clock, session: Session) -> list[Event]:
    """A session of everything, clocks that lie and a hand that moves while paused included; what the viewer saw."""
    random = np.random.default_rng(1)

    def drag(gesture: int, samples: int) -> None:
        for x, y in random.uniform(-5, 40, (samples, 2)):
            clock.now += 0.017
            session.submit(Move(time=clock.now + random.normal(0, 0.01), gesture=gesture, x=x, y=y, sent=clock.now))
            engine.turn()

    session.submit(Press(time=clock.now - 60, gesture=1, x=10, y=10))
    drag(1, 20)
    session.submit(Prompt(time=clock.now, prompt="night falls"))
    session.submit(Press(time=clock.now, gesture=2, x=500, y=10))  # refused
    session.submit(DrawnPath(time=clock.now, gesture=3, points=((4, 4), (25, 20)), speed=11, delay=0.2, release=True))
    drag(1, 30)
    session.submit(Pause(time=clock.now))
    drag(1, 50)
    session.submit(Pin(time=clock.now, gesture=4, x=20, y=28, radius=4, spacing=2))
    run(engine, clock, 4.0)
    session.submit(Resume(time=clock.now))
    session.submit(Steps(time=clock.now, steps=2))
    drag(1, 40)
    session.submit(Release(time=clock.now + 5, gesture=1))
    drag(1, 3)  # too late
    run(engine, clock, 0.7)
    session.submit(Erase(time=clock.now, gesture=4))
    session.submit(Steps(time=clock.now, steps=4))
    run(engine, clock, 0.6)
    return events(session)


def test_a_recorded_session_replays_bit_for_bit(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture(), "day", seed=5)
    engine.turn()
    other = engine.open(picture(), seed=6)  # another viewer, who must not matter
    seen = perform(engine, clock, session)
    started = seen[0]
    assert isinstance(started, Started) and started.recording
    made = frames(seen)
    assert len(made) >= 6 and engine.library is not None
    recording = engine.library.recording(started.recording)
    assert len(recording.entries) == len(made)
    names = {command.name for entry in recording.entries for command in entry.commands}
    assert names == {"press", "move", "release", "erase", "prompt", "path", "pin", "steps"}
    again = [shot.frames for shot in Replay(engine.pipeline, recording).shots()]
    assert all(np.array_equal(one, two) for one, two in zip(made, again, strict=True))
    plain = engine.pipeline.stream(picture(), "day", 5)
    assert not np.array_equal(np.concatenate([plain.step() for _ in made]), np.concatenate(made)), "nothing happened"
    film = np.stack(list(frames_of(engine.library.film_path(started.recording))))
    grey = [video.mean(-1).ravel() for video in (film, np.concatenate(made))]  # colours are halved in a film
    assert np.corrcoef(*grey)[0, 1] > 0.8, "the film shows the same, as well as noise can be encoded"
    other.close()


def moving(frames: int) -> np.ndarray:
    """A source of 60 x 80 that goes right."""
    wide = cv2.resize(np.random.default_rng(3).integers(0, 256, (15, 20, 3), np.uint8), (80, 60))
    return np.stack([np.roll(wide, 2 * step, axis=1) for step in range(frames)])


def test_what_follows_a_video_and_a_webcam_replays_without_them(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture(), seed=5)
    session.submit(Follow(time=clock.now, video="a", source=Video(moving(60), 24.0)))
    run(engine, clock, 1.2)
    session.submit(Restart(time=clock.now))
    run(engine, clock, 0.6)
    session.submit(Follow(time=clock.now, webcam=(60, 80)))
    for number, frame in enumerate(moving(30)):
        session.submit(WebcamFrame(time=clock.now, sent=number / 24, jpeg=simplejpeg.encode_jpeg(frame)))
        run(engine, clock, 1 / 24)
        if number == 15:
            session.submit(Pause(time=clock.now))
            run(engine, clock, 3.0)
            session.submit(Resume(time=clock.now))
    session.submit(Unfollow(time=clock.now))
    run(engine, clock, 0.7)
    seen = events(session)
    assert not [event for event in seen if isinstance(event, Failed)]
    assert isinstance(seen[0], Started) and engine.library is not None
    recording = engine.library.recording(seen[0].recording or "")
    names = [command.name for entry in recording.entries for command in entry.commands]
    assert set(names) == {"followed", "restart"} and names.count("followed") >= 5
    again = [shot.frames for shot in Replay(engine.pipeline, recording).shots()]
    assert all(np.array_equal(one, two) for one, two in zip(frames(seen), again, strict=True))
    last = [event for event in seen if isinstance(event, Chunk)][-1]
    assert last.groups == (), "let go"
    branch = engine.branch(recording.branch(2))
    run(engine, clock, 0.2)
    branch.submit(Follow(time=clock.now, video="a", source=Video(moving(60), 24.0)))
    run(engine, clock, 1.2)
    (started,) = (event for event in events(branch) if isinstance(event, Started))
    gone_on = engine.library.recording(started.recording or "").tracks()
    before = recording.branch(2).tracks().ids
    assert set(before.tolist()) < set(gone_on.ids.tolist()), "points of another source have other ids"


def test_one_goes_on_from_an_earlier_chunk(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture(), "day", seed=5)
    seen = perform(engine, clock, session)
    assert isinstance(seen[0], Started) and seen[0].recording and engine.library is not None
    whole = engine.library.recording(seen[0].recording)
    session.close()
    engine.turn()
    branch = engine.branch(whole.branch(3))
    for _ in range(4):
        engine.turn()
    begun = events(branch)
    assert isinstance(begun[0], Started) and begun[0].recording not in (None, seen[0].recording)
    assert begun[1:4] == [Replaying(1, 3), Replaying(2, 3), Replaying(3, 3)]
    (continued,) = (event for event in begun if isinstance(event, Continued))
    assert continued == Continued(3, 33, "night falls", 2, ((3, "path"), (4, "pin"))), "the drag was let go"
    run(engine, clock, 1.0)
    branch.submit(Pin(time=clock.now, gesture=9, x=5, y=5))
    run(engine, clock, 1.0)
    made = [event for event in begun + events(branch) if isinstance(event, Chunk)]
    assert [chunk.chunk for chunk in made[:3]] == [3, 4, 5] and made[0].first == 33 and len(made) >= 4
    assert {group.gesture for group in made[-1].groups} >= {4, 9}
    recording = engine.library.recording(begun[0].recording or "")
    assert recording.entries[:3] == whole.entries[:3] and recording.entries[3].cut >= whole.entries[2].cut
    again = [shot.frames for shot in Replay(engine.pipeline, recording).shots()]
    assert all(np.array_equal(one, two.frames) for one, two in zip(again[3:], made, strict=True))
    assert not np.array_equal(again[3], frames(seen)[3]), "it is another way"
    assert len(list(frames_of(engine.library.film_path(begun[0].recording or "")))) == recording.frames


def test_making_a_recording_again_does_not_starve_others(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = engine.open(picture())
    run(engine, clock, 8.0)
    assert engine.library is not None
    (started,) = (event for event in events(session) if isinstance(event, Started))
    recording = engine.library.recording(started.recording or "")
    session.close()
    engine.turn()
    step = Stream.step

    def slow(stream: Stream, *arguments: object, **keywords: object) -> np.ndarray:
        clock.now += 0.15  # a chunk lasts 0.5 s
        return step(stream, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "step", slow)
    live = engine.open(picture())
    run(engine, clock, 3.0)
    events(live)
    branch = engine.branch(recording)
    times = []
    while not any(isinstance(event, Continued) for event in events(branch)):
        run(engine, clock, 0.02)
        times += [(clock.now, event.first) for event in events(live) if isinstance(event, Chunk)]
    assert len(times) > 3, "the recording was made while the other one streamed"
    late = [moment - first / 24 for moment, first in times]
    assert max(late[2:]) - min(late[2:]) < 0.2, "the live stream keeps its pace"


def test_commands_wait_for_the_branch_and_stopping_does_not(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    run(engine, clock, 3.0)
    assert engine.library is not None
    (started,) = (event for event in events(session) if isinstance(event, Started))
    branch = engine.branch(engine.library.recording(started.recording or ""))
    engine.turn()
    branch.submit(Pin(time=clock.now, gesture=1, x=5, y=5))
    engine.turn()
    (failed,) = (event for event in events(branch) if isinstance(event, Failed))
    assert "cannot pin yet" in failed.message and not failed.fatal
    branch.close()
    engine.turn()
    assert isinstance(events(branch)[-1], Ended) and engine.session_count == 1


def test_a_branch_at_the_start_is_the_stream_anew(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture(), "day", seed=4)
    run(engine, clock, 1.0)
    seen = events(session)
    assert isinstance(seen[0], Started) and engine.library is not None
    branch = engine.branch(engine.library.recording(seen[0].recording or "").branch(0))
    run(engine, clock, 1.0)
    again = events(branch)
    assert isinstance(again[0], Started) and again[1] == Continued(0, 0, "day", 3, ())
    assert np.array_equal(frames(again)[0], frames(seen)[0])


def test_a_recording_of_other_weights_is_refused(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    engine.turn()
    (started,) = (event for event in events(session) if isinstance(event, Started))
    assert engine.library is not None
    recording = engine.library.recording(started.recording or "")
    engine._weights = "another"
    branch = engine.branch(recording)
    engine.turn()
    failed, ended = events(branch)
    assert isinstance(failed, Failed) and failed.fatal and "other weights" in failed.message
    assert isinstance(ended, Ended)


def test_a_recording_that_would_take_too_much_is_refused(engine: Engine, clock: Clock) -> None:
    session = engine.open(picture())
    engine.turn()
    (started,) = (event for event in events(session) if isinstance(event, Started))
    assert engine.library is not None
    recording = engine.library.recording(started.recording or "")
    large = dataclasses.replace(recording.header, picture=np.zeros((4096, 4096, 3), np.uint8))
    branch = engine.branch(Recording(large, recording.entries))
    engine.turn()
    failed = events(branch)[0]
    assert isinstance(failed, Failed) and failed.fatal and "4096x4096 pixels are more" in failed.message


def test_a_full_disk_ends_the_recording_and_not_the_stream(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = engine.open(picture())
    run(engine, clock, 0.6)
    assert len(frames(events(session))) == 2

    log = engine._players[session]._log
    assert log is not None
    with open("/dev/full", "wb") as disk:
        os.dup2(disk.fileno(), log._recorder._file.fileno())
    run(engine, clock, 1.1)
    seen = events(session)
    failed = [event for event in seen if isinstance(event, Failed)]
    assert len(failed) == 1 and "the recording ends here" in failed[0].message and not failed[0].fatal
    assert len(frames(seen)) >= 2

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    assert engine.library is not None
    monkeypatch.setattr(engine.library, "begin", full)
    other = engine.open(picture())
    run(engine, clock, 0.6)
    seen = events(other)
    assert isinstance(seen[0], Started) and seen[0].recording is None
    assert isinstance(seen[1], Failed) and "not recorded" in seen[1].message and len(frames(seen)) >= 1
