"""Replays against the stream that was recorded."""

import dataclasses

import numpy as np
import pytest

from motionstream.pipeline import MotionStreamPipeline
from motionstream.session.commands import Camera, Erase, Followed, Move, Press, Prompt, Steps
from motionstream.session.fingerprint import fingerprint
from motionstream.session.followed import pack_points
from motionstream.session.recording import Header, Recording
from motionstream.session.replay import Replay
from motionstream.session.take import Entry, Take
from motionstream.tracks.transfer import FIRST_ID, LiveTransfer, VideoTransfer


def record(pipeline: MotionStreamPipeline, picture: np.ndarray, **settings) -> tuple[Recording, list[np.ndarray]]:
    """A short session of every kind of change, and its frames."""
    entries: list[Entry] = []
    take = Take(pipeline.stream(picture, "snow", 7, **settings), entries.append)
    header = Header.of(take.stream, 7, fingerprint(pipeline))
    take.obey(Press(time=0, gesture=1, x=10, y=10))
    frames = [take.make(0.01).frames]
    take.obey(Prompt(time=0.2, prompt="rain"))
    take.obey(Move(time=0.3, gesture=1, x=20, y=12))
    frames.append(take.make(0.4).frames)
    take.obey(Steps(time=0.5, steps=1))
    frames.append(take.make(0.9).frames)
    return Recording(header, tuple(entries)), frames


def test_the_frames_are_the_same(pipeline, picture) -> None:
    recording, frames = record(pipeline, picture)
    replay = Replay(pipeline, recording)
    assert replay.left == 3
    made = [shot.frames for shot in replay.shots()]
    assert replay.left == 0
    assert all(np.array_equal(one, other) for one, other in zip(made, frames, strict=True))


def test_larger_frames_are_the_same_too(pipeline, tmp_path) -> None:
    """Of the picture that was seen, not of the one that was given."""
    large = np.random.default_rng(3).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    recording, frames = record(pipeline, large, scale=2)
    recording.write(tmp_path / "a.jsonl")
    again = Recording.read(tmp_path / "a.jsonl")
    assert again.header.scale == 2 and frames[0].shape[1:3] == again.header.frame_size
    made = [shot.frames for shot in Replay(pipeline, again).shots()]
    assert all(np.array_equal(one, other) for one, other in zip(made, frames, strict=True))
    plain, _ = record(pipeline, large)
    assert plain.header.size == again.header.size == plain.header.frame_size
    assert np.array_equal(plain.tracks().positions, again.tracks().positions, equal_nan=True)


def test_what_was_followed_needs_no_source_again(pipeline, picture, tmp_path) -> None:
    entries: list[Entry] = []
    take = Take(pipeline.stream(picture, seed=7), entries.append)
    source = np.stack([np.roll(picture, step, axis=1) for step in range(40)])
    video = VideoTransfer(source, 24, LiveTransfer(source.shape[1:3], take.stream.size))
    frames = []
    for cut in (0.0, 0.5, 1.0):
        take.obey(Followed(time=cut, points=pack_points(video.cut(take.stream.next_frames))))
        frames.append(take.make(cut).frames)
    Recording(Header.of(take.stream, 7, fingerprint(pipeline)), tuple(entries)).write(tmp_path / "a.jsonl")
    recording = Recording.read(tmp_path / "a.jsonl")
    made = [shot.frames for shot in Replay(pipeline, recording).shots()]
    assert all(np.array_equal(one, other) for one, other in zip(made, frames, strict=True))
    assert recording.tracks().count > 8 and recording.tracks().ids.min() >= FIRST_ID
    still = Take(pipeline.stream(picture, seed=7))
    assert not np.array_equal(still.make(0.0).frames, frames[0]), "and it did something"
    wrong = dataclasses.replace(entries[1], chunk=0, frames=9)
    with pytest.raises(ValueError, match="chunk 0 cannot be made: 12 frames of a followed source"):
        Replay(pipeline, Recording(recording.header, (wrong,))).step()


def test_a_camera_has_the_recorded_depth_map(pipeline, picture) -> None:
    depth = np.random.default_rng(2).uniform(0.5, 4, pipeline.config.size).astype(np.float32)
    made = []
    for each in (None, depth):
        entries: list[Entry] = []
        take = Take(pipeline.stream(picture, seed=7), entries.append, depth=each)
        take.make(0.0)
        take.obey(Camera(time=0.1, orbit=(1.0, 0.0)))
        made.append(take.make(0.5).frames)
    recording = Recording(Header.of(take.stream, 7, fingerprint(pipeline), take.depth), tuple(entries))
    again = [shot.frames for shot in Replay(pipeline, recording).shots()][-1]
    assert np.array_equal(again, made[1]) and not np.array_equal(again, made[0])


def test_one_goes_on_from_a_branch_as_the_recorded_one_would(pipeline, picture) -> None:
    recording, frames = record(pipeline, picture)
    replay = Replay(pipeline, recording.branch(2))
    list(replay.shots())
    for command in recording.entries[2].commands:
        replay.take.obey(command)
    assert np.array_equal(replay.take.make(0.9).frames, frames[2])
    other = Replay(pipeline, recording.branch(2))
    list(other.shots())
    assert not np.array_equal(other.take.make(0.9).frames, frames[2]), "three steps instead of one"


def test_other_settings_are_those_of_a_stream_begun_with_them(pipeline, picture) -> None:
    recording, frames = record(pipeline, picture)
    for change in ({"seed": 8}, {"steps": 2}, {"prompt": "fog"}):
        twin = Take(
            pipeline.stream(picture, change.get("prompt", "snow"), change.get("seed", 7), steps=change.get("steps"))
        )
        for entry, shot, own in zip(
            recording.entries, Replay(pipeline, recording, **change).shots(), frames, strict=True
        ):
            for command in entry.commands:
                if not isinstance(command, {"seed": (), "steps": Steps, "prompt": Prompt}[next(iter(change))]):
                    twin.obey(command)
            assert np.array_equal(shot.frames, twin.make(entry.cut).frames)
            assert not np.array_equal(shot.frames, own)


def test_what_cannot_be_made_is_said(pipeline, picture) -> None:
    recording, _ = record(pipeline, picture)
    wrong = Entry(0, 9, 0.0, (Erase(time=0, gesture=5),))
    with pytest.raises(ValueError, match="chunk 0 cannot be made: there is no gesture 5"):
        Replay(pipeline, Recording(recording.header, (wrong,))).step()
    with pytest.raises(ValueError, match="it has 21 frames, this model makes 9 at once"):
        Replay(pipeline, Recording(recording.header, (Entry(0, 21, 0.0),))).step()
    slower = Recording(dataclasses.replace(recording.header, fps=16.0), recording.entries)
    with pytest.raises(ValueError, match=r"16 frames a second, debug makes 24.*--session"):
        Replay(pipeline, slower)


def test_other_weights_have_another_fingerprint(pipeline) -> None:
    other = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    before = fingerprint(other)
    assert before == fingerprint(MotionStreamPipeline.from_pretrained("debug", untrained=True)) != fingerprint(pipeline)
    parameter = next(p for p in other.parts.autoencoder.parameters() if p.numel() > 64)
    parameter.mul_(1.5)
    assert fingerprint(other) != before
