"""Films: every chunk can be read as soon as it is written, and an MP4 is the film itself."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from motionstream.media.videos import read_video
from motionstream.session.film import Film, frames_of, write_mp4

RANDOM = np.random.default_rng(0)
GROUND = np.kron(RANDOM.integers(60, 200, (12, 16, 1)), np.ones((4, 4, 3))).astype(np.uint8)  # 48 x 64, smooth enough


def chunk(count: int, first: int) -> np.ndarray:
    """A square that wanders over the ground."""
    frames = np.repeat(GROUND[None], count, 0)
    for number, frame in enumerate(frames):
        frame[10:20, first + number : first + number + 10] = (250, 40, 40)
    return frames


def close(frames: np.ndarray, other: np.ndarray) -> bool:
    error = (frames.astype(float) - other) ** 2
    return frames.shape == other.shape and 10 * np.log10(255**2 / error.mean()) > 30


def test_a_chunk_can_be_read_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    film = Film(tmp_path / "a.h264", (48, 64), 24)
    made = []
    for count in (9, 12, 12):
        made.append(chunk(count, sum(map(len, made))))
        film.append(made[-1])
        shown = np.stack(list(frames_of(tmp_path / "a.h264")))
        assert close(shown, np.concatenate(made))
    film.close()


def test_an_mp4_plays_at_its_rate_and_shows_the_same(tmp_path: Path) -> None:
    film = Film(tmp_path / "a.h264", (48, 64), 16)
    film.append(chunk(9, 0))
    film.append(chunk(12, 9))
    write_mp4(tmp_path / "a.h264", 16, tmp_path / "a.mp4")  # while the film goes on
    film.append(chunk(12, 21))
    film.close()
    frames, fps = read_video(tmp_path / "a.mp4")
    assert fps == 16 and np.array_equal(frames, np.stack(list(frames_of(tmp_path / "a.h264")))[:21])


def test_every_chunk_begins_with_a_key_frame_that_needs_nothing_before_it(tmp_path: Path) -> None:
    film = Film(tmp_path / "a.h264", (48, 64), 24)
    sizes = []
    for count, first in ((9, 0), (12, 9), (12, 21)):
        film.append(chunk(count, first))
        sizes.append((tmp_path / "a.h264").stat().st_size)
    film.close()
    with av.open(str(tmp_path / "a.h264"), format="h264") as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert [number for number, key in enumerate(keys) if key] == [0, 9, 21]
    (tmp_path / "tail.h264").write_bytes((tmp_path / "a.h264").read_bytes()[sizes[0] :])
    assert close(np.stack(list(frames_of(tmp_path / "tail.h264"))), np.concatenate([chunk(12, 9), chunk(12, 21)]))


def test_what_a_crash_leaves_is_read(tmp_path: Path) -> None:
    film = Film(tmp_path / "a.h264", (48, 64), 24)
    for first in (0, 12):
        film.append(chunk(12, first))
    film.close()
    whole = (tmp_path / "a.h264").read_bytes()
    (tmp_path / "a.h264").write_bytes(whole[:-3])
    frames = np.stack(list(frames_of(tmp_path / "a.h264")))
    assert len(frames) >= 23 and close(frames[:23], np.concatenate([chunk(12, 0), chunk(12, 12)])[:23])


def test_a_full_disk_is_said_once(tmp_path: Path) -> None:
    film = Film(tmp_path / "a.h264", (48, 64), 24)
    with open("/dev/full", "wb") as disk:
        os.dup2(disk.fileno(), film._file.fileno())
    with pytest.raises(OSError, match="No space left"):
        film.append(chunk(12, 0))
    film.close()
    assert film._file.closed


def test_a_film_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    film = Film(tmp_path / "a.h264", (48, 64), 24, most=4000)
    with pytest.raises(ValueError, match="the film has reached"):
        for _ in range(50):
            film.append(chunk(12, 0))
    film.close()
    assert (tmp_path / "a.h264").stat().st_size <= 4000
