"""Sources whose motion is known, followed in a thread: a video as if it were cut at once, a webcam as it comes."""

import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.follower import MOST_WAITING, Follower
from motionstream.server.sources import FASTEST, Rate, Video
from motionstream.session.commands import Follow, WebcamFrame
from motionstream.stream import Stream
from motionstream.tracks.transfer import FIRST_ID, LiveTransfer, VideoTransfer

SOURCE = (60, 80)


@pytest.fixture(scope="module")
def stream() -> Stream:
    """Of 32 x 32 pixels, 24 frames a second."""
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    return pipeline.stream(np.zeros((32, 32, 3), np.uint8))


def film(frames: int = 40) -> np.ndarray:
    """A texture that goes right, a pixel a frame."""
    wide = np.random.default_rng(3).integers(0, 256, (15, 40, 3), np.uint8)
    wide = cv2.resize(wide, (160, 60), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.roll(wide, step, axis=1)[:, 40:120] for step in range(frames)])


def follow_video(frames: np.ndarray, **fields: Any) -> Follow:
    return Follow(time=0, video="a", source=Video(frames, 24.0), **fields)


@pytest.fixture
def words() -> list[str]:
    """What it complains of."""
    return []


@pytest.fixture
def webcam(stream: Stream, words: list[str]) -> Iterator[Follower]:
    follower = Follower(Follow(time=0, webcam=SOURCE), stream, FIRST_ID, words.append)
    yield follower
    follower.close()


def look(frame: np.ndarray | bytes, sent: float) -> WebcamFrame:
    jpeg = frame if isinstance(frame, bytes) else encode(frame)
    return WebcamFrame(time=0, sent=sent, jpeg=jpeg)


def encode(frame: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95)


def test_a_video_is_cut_as_one_would_at_once(stream: Stream) -> None:
    follower = Follower(follow_video(film(), align=((40, 30, 16, 16),)), stream, FIRST_ID, print)
    twin = VideoTransfer(film(), 24.0, LiveTransfer(SOURCE, stream.size, 24, [((40, 30), (16, 16))]))
    for frames in (9, 12, 12):
        tracks, expected = follower.cut(frames), twin.cut(frames)
        assert np.array_equal(tracks.positions, expected.positions, equal_nan=True)
        assert np.array_equal(tracks.ids, expected.ids) and tracks.count > 4
    follower.close()


def test_after_a_restart_a_chunk_of_other_length_has_no_jump(stream: Stream) -> None:
    follower = Follower(follow_video(film()), stream, FIRST_ID, print)
    parts = [follower.cut(frames) for frames in (9, 12, 9, 12)]
    follower.close()
    assert [part.length for part in parts] == [9, 12, 9, 12]
    for before, after in itertools.pairwise(parts):
        both = np.intersect1d(before.ids[before.visible[-1]], after.ids[after.visible[0]])
        step = after.positions[0, np.isin(after.ids, both)] - before.positions[-1, np.isin(before.ids, both)]
        assert len(both) and np.abs(step).max() < 1.5


def test_a_video_repeats_with_new_points_or_holds(stream: Stream) -> None:
    once, again = (Follower(follow_video(film(20), repeat=repeat), stream, FIRST_ID, print) for repeat in (False, True))
    parts = [[follower.cut(frames) for frames in (9, 12, 12)] for follower in (once, again)]
    once.close()
    again.close()
    held, moving = parts[0][2], parts[1][2]
    assert np.nanmax(np.ptp(held.positions, axis=0)) == 0
    assert moving.ids.min() > parts[1][1].ids.max() and np.nanmax(np.ptp(moving.positions, axis=0)) > 3


def test_a_webcam_moves_what_its_frames_show(webcam: Follower, words: list[str]) -> None:
    assert webcam.cut(9).count == 0, "it has shown nothing yet"
    for number, frame in enumerate(film(22)):
        webcam.look(look(frame, 7 + number / 24))
        if number in (9, 21):
            tracks = webcam.cut(12)
        else:
            webcam._thread.submit(lambda: None).result()  # tracked before the next one comes
    seen = tracks.visible.all(axis=0)
    gone = (tracks.positions[-1] - tracks.positions[0])[seen]
    assert len(gone) > 3 and np.allclose(np.median(gone, axis=0), [11 * 32 / 60, 0], atol=0.6)
    still = webcam.cut(12)
    assert np.nanmax(np.ptp(still.positions, axis=0)) == 0, "without frames points hold"
    assert words == []


def test_a_webcam_goes_on_from_what_it_shows_after_a_pause(webcam: Follower) -> None:
    frames = film()
    webcam.look(look(frames[0], 1.0))
    before = webcam.cut(9)
    webcam.look(look(frames[12], 2.0))  # seen by nobody
    webcam.begin_anew()
    assert webcam.cut(12).count == 0
    webcam.look(look(frames[24], 3.0))
    after = webcam.cut(12)
    assert after.ids.min() > before.ids.max() and np.nanmax(np.ptp(after.positions, axis=0)) == 0


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "0 bytes is no JPEG"),
        (bytes(range(256)) * 9, "2304 bytes is no JPEG"),
        (encode(film(1)[0])[:400], "is no JPEG|is damaged"),
        (encode(film(1)[0])[:-200], "is damaged"),
        (encode(np.zeros((80, 60, 3), np.uint8)), "60x80, but 80x60 were announced"),
    ],
)
def test_a_frame_that_is_none_is_told_and_the_next_is_taken(
    webcam: Follower, words: list[str], data: bytes, word: str
) -> None:
    webcam.look(look(data, 1.0))
    webcam.look(look(film(1)[0], 2.0))
    assert webcam.cut(9).count > 3
    assert len(words) == 1 and re.search(word, words[0]), words


def test_what_is_out_of_order_or_for_no_webcam_is_refused(webcam: Follower, stream: Stream) -> None:
    webcam.look(look(film(1)[0], 5.0))
    with pytest.raises(ValueError, match="of 4 s after one of 5 s; send them in order"):
        webcam.look(look(film(1)[0], 4.0))
    video = Follower(follow_video(film()), stream, FIRST_ID, print)
    with pytest.raises(ValueError, match="a video is followed, not a webcam"):
        video.look(look(film(1)[0], 1.0))
    video.close()


def test_a_rate_lets_a_burst_through_and_then_so_many_a_second() -> None:
    rate = Rate(FASTEST, "webcam frames")
    for _ in range(60):
        rate.count(7.0)
    with pytest.raises(ValueError, match="webcam frames come faster than 60 a second; send fewer"):
        rate.count(7.0)
    for number in range(120):
        rate.count(7.02 + number / 59)


def test_a_flood_is_thinned_and_never_piles_up(webcam: Follower, words: list[str]) -> None:
    held = webcam._thread.submit(time.sleep, 0.2)
    for number in range(40):
        webcam.look(look(b"rubbish", number))
    held.result()
    webcam.cut(9)
    assert len(words) == MOST_WAITING


def test_points_that_align_nothing_are_refused(stream: Stream) -> None:
    with pytest.raises(ValueError, match="begin or end in one place"):
        Follower(follow_video(film(), align=((1, 1, 2, 2), (1, 1, 9, 9))), stream, FIRST_ID, print)


def test_frames_after_the_end_are_ignored(webcam: Follower, words: list[str]) -> None:
    webcam.close()
    webcam.look(look(b"rubbish", 1.0))
    assert words == []
