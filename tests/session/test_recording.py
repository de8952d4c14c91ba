"""Session files: read back as written, in spite of a crash, and refused in one line where they are damaged."""

import base64
import dataclasses
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from motionstream.session.commands import Camera, Move, Pin, Press, Prompt, Release, Steps
from motionstream.session.commands import Path as DrawnPath
from motionstream.session.director import Director
from motionstream.session.recording import Header, Recorder, Recording, entry_line, header_line
from motionstream.session.take import Entry
from motionstream.tracks import Tracks

ENTRIES = (
    Entry(0, 9, 0.0, ()),
    Entry(1, 12, 0.41, (Press(time=0.1 + 0.2, gesture=1, x=1 / 3, y=10), Prompt(time=0.4, prompt="a “cat”\n"))),
    Entry(2, 12, 0.9, tuple(Move(time=0.4 + n / 100, gesture=1, x=n, y=10) for n in range(40))),
    Entry(3, 12, 1.4, (Release(time=1.0, gesture=1), Steps(time=1.1, steps=2), Pin(time=1.2, gesture=2, x=3, y=3))),
    Entry(4, 12, 1.9, (DrawnPath(time=1.5, gesture=3, points=((4, 4), (20, 9)), speed=30, release=True),)),
)


def header() -> Header:
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    return Header(model="debug", weights="0" * 32, fps=24, seed=-3, steps=3, prompt="ünïcode", picture=picture)


def same(one: Recording, other: Recording) -> bool:
    plain = [{**vars(recording.header), "picture": None} for recording in (one, other)]
    return (
        plain[0] == plain[1]
        and np.array_equal(one.header.picture, other.header.picture)
        and (one.entries == other.entries)
    )


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    recorder = Recorder(tmp_path / "a.jsonl", header())
    for entry in ENTRIES:
        recorder.append(entry)
    recorder.close()
    return tmp_path / "a.jsonl"


def test_what_is_recorded_is_read(recorded: Path) -> None:
    recording = Recording.read(recorded)
    assert same(recording, Recording(header(), ENTRIES))
    assert recording.frames == 57 and recording.header.size == (32, 48)
    assert recorded.stat().st_mode & 0o077 == 0, "what one draws is nobody else's business"
    again = recorded.with_name("b.jsonl")
    recording.write(again)
    assert same(Recording.read(again), recording)


def test_a_depth_map_is_read_back_bit_for_bit_and_moves_its_tracks(tmp_path: Path) -> None:
    depth = np.random.default_rng(1).uniform(0.3, 7, (32, 48)).astype(np.float32)
    entries = (Entry(0, 9, 0.0, (Camera(time=0.0, orbit=(1.0, 0.0)),)), Entry(1, 12, 0.5))
    flat, deep = (Recording(dataclasses.replace(header(), depth=each), entries) for each in (None, depth))
    deep.write(tmp_path / "a.jsonl")
    again = Recording.read(tmp_path / "a.jsonl")
    assert again.header.depth is not None and again.header.depth.dtype == np.float32
    assert np.array_equal(again.header.depth, depth)
    assert not np.array_equal(flat.tracks().positions, again.tracks().positions, equal_nan=True)
    assert np.array_equal(deep.tracks().positions, again.tracks().positions, equal_nan=True)


def test_a_depth_map_is_as_large_as_the_model_sees_the_picture(tmp_path: Path) -> None:
    depth = np.random.default_rng(1).uniform(0.3, 7, (16, 24)).astype(np.float32)
    recording = Recording(dataclasses.replace(header(), scale=2, depth=depth))
    recording.write(tmp_path / "a.jsonl")
    again = Recording.read(tmp_path / "a.jsonl").header
    assert np.array_equal(again.depth, depth) and again.size == (16, 24) and again.frame_size == (32, 48)
    crooked = (tmp_path / "a.jsonl").read_text().replace('"scale":2', '"scale":3')
    (tmp_path / "a.jsonl").write_text(crooked)
    with pytest.raises(ValueError, match="no multiples of its scale 3"):
        Recording.read(tmp_path / "a.jsonl")


def test_a_chunk_can_be_read_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.jsonl", header())
    for count, entry in enumerate(ENTRIES):
        assert len(Recording.read(tmp_path / "a.jsonl").entries) == count
        recorder.append(entry)
    recorder.close()


def test_whatever_a_crash_leaves_of_the_last_line_the_rest_is_read(recorded: Path) -> None:
    whole = recorded.read_bytes()
    last = len(entry_line(ENTRIES[-1]))
    for cut in (1, 2, last // 2, last - 1, last):
        recorded.write_bytes(whole[:-cut])
        assert same(Recording.read(recorded), Recording(header(), ENTRIES[:-1])), cut
    recorded.write_bytes(whole + b"\0" * 500)
    assert same(Recording.read(recorded), Recording(header(), ENTRIES))
    recorded.write_bytes(header_line(header())[:-5])
    with pytest.raises(ValueError, match="empty or cut short"):
        Recording.read(recorded)


def test_a_branch_is_the_head(recorded: Path) -> None:
    recording = Recording.read(recorded)
    assert recording.branch(2).entries == ENTRIES[:2] and recording.branch(0).entries == ()
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=f"chunk is {wrong}; the recording has 5 chunks"):
            recording.branch(wrong)


def test_its_tracks_are_those_of_a_director(recorded: Path) -> None:
    director, cuts = Director((32, 48), 24), []
    for entry in ENTRIES:
        for command in entry.commands:
            if not isinstance(command, Prompt | Steps):
                director.obey(command)
        cuts.append(director.cut(entry.frames, entry.cut))
    expected, tracks = Tracks.join(cuts), Recording.read(recorded).tracks()
    assert tracks.length == 57 and tracks.count == expected.count == 20
    np.testing.assert_array_equal(tracks.positions, expected.positions)
    with pytest.raises(ValueError, match="no chunks yet"):
        Recording(header()).tracks()


def test_a_full_disk_is_said_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.jsonl", header())
    recorder.append(ENTRIES[0])
    with open("/dev/full", "wb") as disk:
        os.dup2(disk.fileno(), recorder._file.fileno())
    with pytest.raises(OSError, match="No space left"):
        recorder.append(ENTRIES[1])
    recorder.close()
    assert recorder._file.closed
    assert same(Recording.read(tmp_path / "a.jsonl"), Recording(header(), ENTRIES[:1]))


def test_a_recorder_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    first = len(header_line(header())) + len(entry_line(ENTRIES[0]))
    recorder = Recorder(tmp_path / "a.jsonl", header(), most=first + 10)
    recorder.append(ENTRIES[0])
    with pytest.raises(ValueError, match="has reached"):
        recorder.append(ENTRIES[1])
    recorder.close()
    assert len(Recording.read(tmp_path / "a.jsonl").entries) == 1


def changed(line: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(line), **fields}).encode() + b"\n"


def packed(depth: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(depth.astype("<f4").tobytes())).decode()


HEAD, FIRST, SECOND = header_line(header()), entry_line(ENTRIES[0]), entry_line(ENTRIES[1])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty or cut short"),
        (b"\xff\xd8\xff\xe0 a photograph\n", "line 1 is not JSON"),
        (b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        (b"[]\n", "line 1 is not a JSON object"),
        (b"{}\n", "no session of MotionStream"),
        (changed(HEAD, version=2), "its version is 2, this program reads 1"),
        (changed(HEAD, seed="x"), "seed is 'x'"),
        (changed(HEAD, fps=1e999), "fps is inf"),
        (changed(HEAD, colour=1), "unknown field 'colour'"),
        (changed(HEAD, size=[32, 32]), "its picture is 48x32, its size 32x32"),
        (changed(HEAD, size=[10**6, 32]), "size is 1000000"),
        (changed(HEAD, size=7), "size is not"),
        (changed(HEAD, picture="!"), "its picture is damaged"),
        (changed(HEAD, picture="aaaa"), "its picture is damaged"),
        (changed(HEAD, picture=None), "its picture is damaged"),
        (changed(HEAD, depth="!"), "its depth map is damaged"),
        (changed(HEAD, depth=7), "its depth map is damaged"),
        (changed(HEAD, depth=packed(np.ones((32, 47)))), "its depth map is not 48x32"),
        (changed(HEAD, depth=packed(np.ones((3200, 4800)))), "its depth map is not 48x32"),
        (changed(HEAD, depth=packed(np.zeros((32, 48)))), "depth is positive"),
        (changed(HEAD, depth=packed(np.full((32, 48), np.nan))), "depth is positive"),
        (HEAD + SECOND, r"line 2 is damaged \(chunk 1 comes where chunk 0 should\)"),
        (HEAD + FIRST + FIRST, r"line 3 is damaged \(chunk 0 comes where chunk 1 should\)"),
        (HEAD + changed(FIRST, cut=1) + SECOND, "before the last chunk"),
        (HEAD + changed(FIRST, frames=0), "frames is 0"),
        (HEAD + changed(FIRST, commands=3), "commands is not a list"),
        (HEAD + changed(FIRST, commands=[{"type": "pause", "t": 0}]), "pause is not recorded"),
        (HEAD + changed(FIRST, commands=[{"type": "follow", "t": 0, "video": "a"}]), "follow is not recorded"),
        (HEAD + changed(FIRST, commands=[{"type": "erase", "gesture": 1}]), "lacks 't'"),
        (HEAD + changed(FIRST, commands=[{"type": "explode", "t": 0}]), "type is 'explode'"),
        (HEAD + b"garbage\n" + FIRST, "line 2 is not JSON"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=word) as caught:
        Recording.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        Recording.read(tmp_path / "none.jsonl")


def test_random_damage_never_ends_in_anything_but_a_value_error(recorded: Path) -> None:
    whole, random = recorded.read_bytes(), np.random.default_rng(5)
    for _ in range(300):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 6)):
            data[place] = random.integers(0, 256)
        recorded.write_bytes(bytes(data))
        try:
            recording = Recording.read(recorded)
            recording.tracks()
        except ValueError as error:
            assert str(error)
