"""``motionstream replay`` and ``stream --session``, with a session recorded from the debug model."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motionstream.cli import main
from motionstream.media.videos import read_video
from motionstream.pipeline import MotionStreamPipeline
from motionstream.session.commands import Move, Press, Prompt, Steps
from motionstream.session.fingerprint import fingerprint
from motionstream.session.recording import Header, Recording
from motionstream.session.take import Entry, Take
from motionstream.tracks import Tracks


@pytest.fixture(scope="module")
def recorded() -> tuple[Recording, np.ndarray]:
    """A session of 33 frames, and those."""
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    entries: list[Entry] = []
    take = Take(pipeline.stream(picture, "snow", 7), entries.append)
    header = Header.of(take.stream, 7, fingerprint(pipeline))
    take.obey(Press(time=0, gesture=1, x=10, y=10))
    frames = [take.make(0.01).frames]
    take.obey(Move(time=0.3, gesture=1, x=20, y=12))
    take.obey(Prompt(time=0.3, prompt="rain"))
    frames.append(take.make(0.4).frames)
    take.obey(Steps(time=0.5, steps=1))
    frames.append(take.make(0.9).frames)
    return Recording(header, tuple(entries)), np.concatenate(frames)


@pytest.fixture
def folder(recorded: tuple[Recording, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with session.jsonl in it."""
    monkeypatch.chdir(tmp_path)
    recorded[0].write(tmp_path / "session.jsonl")
    return tmp_path


def replay(*arguments: str) -> int:
    return main(["replay", "session.jsonl", "--untrained", *arguments])


def test_the_same_frames_without_loss(folder: Path, recorded: tuple[Recording, np.ndarray], capsys) -> None:
    assert replay("-o", "out.NPZ", "--save-tracks", "tracks.NPZ") == 0, capsys.readouterr().err
    assert not list(folder.glob(".*")), "numpy adds a suffix of its own"
    for name in ("out", "tracks"):
        (folder / f"{name}.NPZ").rename(folder / f"{name}.npz")
    said = capsys.readouterr().out
    assert "3 chunks, 1.38 s" in said and "the same weights, on cpu" in said
    with np.load(folder / "out.npz") as file:
        assert np.array_equal(file["frames"], recorded[1]) and file["fps"] == 24
    assert np.array_equal(Tracks.load("tracks.npz").positions, recorded[0].tracks().positions)


def test_a_video_has_the_session_s_name(folder: Path) -> None:
    assert replay() == 0
    frames, fps = read_video(folder / "session.mp4")
    assert len(frames) == 33 and fps == 24


def test_a_gif_of_the_first_half_second_with_another_seed(folder: Path, capsys) -> None:
    assert replay("-o", "out.gif", "--until", "0.5", "--seed", "8", "--steps", "2") == 0
    said = capsys.readouterr().out
    assert "will differ from those that were streamed: --steps, --seed" in said and "12 frames, 0.50 s" in said
    with Image.open("out.gif") as gif:
        assert gif.size == (32, 32)


def test_other_weights_are_told(folder: Path, recorded: tuple[Recording, np.ndarray], capsys) -> None:
    lines = (folder / "session.jsonl").read_bytes().replace(recorded[0].header.weights.encode(), b"0" * 32)
    (folder / "session.jsonl").write_bytes(lines)
    assert replay("-o", "out.mp4") == 0
    assert "made with other weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-o", "out.avi"], "end the name in .mp4 or .gif or .npz"),
        (["-o", "session.jsonl"], "it is an input"),
        (["--until", "0"], "--until is 0"),
        (["--steps", "7"], "steps = 7"),
        (["--causal", "c2s1w1"], "chunk 0 cannot be made: it has 9 frames"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, capsys, arguments: list[str], word: str) -> None:
    assert replay(*arguments) == 2
    said = capsys.readouterr().err
    assert word in said and said.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["session.jsonl"]


def test_a_session_at_another_rate_is_sent_to_stream(folder: Path, capsys) -> None:
    lines = (folder / "session.jsonl").read_bytes().replace(b'"fps":24', b'"fps":16')
    (folder / "session.jsonl").write_bytes(lines)
    assert replay() == 2
    assert "16 frames a second, debug makes 24; drive a new stream with it" in capsys.readouterr().err


def test_files_that_are_no_sessions_are_refused(folder: Path, capsys) -> None:
    (folder / "photo.jsonl").write_bytes(b"\xff\xd8\n")
    for name, word in (("photo.jsonl", "line 1 is not JSON"), ("none.jsonl", "No such file")):
        assert main(["replay", name, "--untrained"]) == 2
        assert word in capsys.readouterr().err


def test_a_session_drives_a_stream_of_another_picture(
    folder: Path, recorded: tuple[Recording, np.ndarray], capsys
) -> None:
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)).save("photo.png")
    arguments = ["--model", "debug", "--untrained", "--session", "session.jsonl"]
    assert main(["stream", "photo.png", *arguments, "--save-tracks", "used.npz", "-o", "out.mp4"]) == 0
    capsys.readouterr()
    assert len(read_video("out.mp4")[0]) == 33
    used, given = Tracks.load("used.npz"), recorded[0].tracks()
    assert np.array_equal(used.positions, given.positions)
    assert main(["stream", "photo.png", *arguments, "--tracks", "used.npz"]) == 2
    assert "both give tracks; choose one" in capsys.readouterr().err


def test_its_prompts_and_steps_come_when_they_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from motionstream.stream import Stream

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("photo.png")
    seen, step = [], Stream.step

    def spy(stream: Stream, *arguments: object) -> np.ndarray:
        seen.append((stream.frame, stream.prompt, stream.steps))
        return step(stream, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "step", spy)
    arguments = ["stream", "photo.png", "--model", "debug", "--untrained", "--session", "session.jsonl"]
    assert main(arguments) == 0
    assert seen == [(0, "snow", 3), (9, "rain", 3), (21, "rain", 1)]
    seen.clear()
    assert main([*arguments, "--prompt", "fog"]) == 0
    assert seen == [(0, "fog", 3), (9, "fog", 3), (21, "fog", 1)]
