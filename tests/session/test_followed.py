"""The text that holds a followed source's points: what was tracked comes back, damage is said."""

import base64
import zlib

import numpy as np
import pytest

from motionstream.session import followed
from motionstream.session.followed import STEPS, pack_points, unpack_points
from motionstream.tracks import Tracks
from motionstream.tracks.transfer import FIRST_ID

SIZE = (40, 48)


def points(frames: int = 12, count: int = 30, seed: int = 0) -> Tracks:
    """Points that wander; some are hidden for a while, one from the first frame to the last."""
    random = np.random.default_rng(seed)
    positions = random.uniform(0, 40, (count, 2)) + np.cumsum(random.normal(0, 1, (frames, count, 2)), axis=0)
    visible = random.uniform(size=(frames, count)) < 0.8
    visible[:, 0] = False
    positions[~visible] = np.nan
    ids = FIRST_ID + random.permutation(1000)[:count]
    return Tracks(positions, visible, SIZE, 24, ids)


@pytest.mark.parametrize(("frames", "count"), [(12, 30), (1, 1), (9, 0)])
def test_what_was_tracked_comes_back(frames: int, count: int) -> None:
    tracks = points(frames, max(count, 1)).select(np.arange(count))
    again = unpack_points(pack_points(tracks), SIZE, 24)
    assert np.array_equal(again.visible, tracks.visible) and np.array_equal(again.ids, tracks.ids)
    seen = tracks.visible
    assert np.abs(again.positions - tracks.positions)[seen].max(initial=0) <= 0.5 / STEPS + 1e-5
    assert pack_points(again) == pack_points(tracks), "packed and unpacked, nothing changes any more"


def test_it_is_small() -> None:
    still = points(12, 100)
    rest = Tracks(np.repeat(np.nan_to_num(still.positions[:1]), 12, 0), np.ones((12, 100), bool), SIZE, 24, still.ids)
    assert len(pack_points(rest)) < 2500, "what holds costs little more than its places"


def damaged() -> list[tuple[str, str]]:
    raw = zlib.decompress(base64.b64decode(pack_points(points())))

    def text(data: bytes) -> str:
        return base64.b64encode(zlib.compress(data)).decode()

    whole = pack_points(points())
    ints = np.frombuffer(raw, "<i4", 2)
    return [
        ("", "cut short"),
        ("!", "damaged"),
        ("aaaa", "damaged"),
        (whole[: len(whole) // 8 * 4], "cut short or too many"),
        (text(raw[:4]), "cut short"),
        (text(raw[:-4]), "bytes where"),
        (text(raw + b"1234"), "bytes where"),
        (text((ints * [-1, 1]).astype("<i4").tobytes() + raw[8:]), "-12 frames"),
        (text((ints * [1, 10**6]).astype("<i4").tobytes() + raw[8:]), "points"),
        (text(raw[:8] + (-1).to_bytes(4, "little", signed=True) + raw[12:]), "out of range"),
        (text(raw[:-8] + (2**31 - 1).to_bytes(4, "little") * 2), "out of range"),
        (text(raw[:8] + raw[8:12] * 2 + raw[16:]), "the same id"),
        (text(bytes(followed.MAX_BYTES + 1)), "too many"),
    ]


@pytest.mark.parametrize(("text", "word"), damaged())
def test_damage_is_said(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        unpack_points(text, SIZE, 24)
