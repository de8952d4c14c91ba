"""The binary messages: written as docs/protocol.md says, and read back."""

import json

import numpy as np
import pytest

from motionstream.wire import H264, JPEG, pack, unpack

POSITIONS = np.array([[[1.125, 30.0], [np.nan, np.nan]], [[-2.5, 5000.0], [3.0, np.nan]]], np.float32)


def test_a_message_is_laid_out_as_the_protocol_says() -> None:
    data = pack(JPEG, {"first": 21}, POSITIONS, [b"one", b"second"])
    assert data[:4] == b"MS\x02\x01"
    length = int.from_bytes(data[4:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header == {"first": 21, "frames": 2, "points": 2, "sizes": [3, 6]}
    steps = np.frombuffer(data, "<i2", 8, 8 + length).tolist()
    assert steps == [9, 240, -32768, -32768, -20, 32767, -32768, -32768], "eighths; hidden; what is too far is clipped"
    assert data.endswith(b"onesecond")


def test_what_was_written_is_read_back() -> None:
    message = unpack(pack(H264, {"first": 9, "codec": "avc1"}, POSITIONS, [b"", b"x"]))
    assert (message.kind, message.parts, message.header["codec"]) == (H264, (b"", b"x"), "avc1")
    assert np.array_equal(message.positions[0], POSITIONS[0], equal_nan=True)
    assert np.isnan(message.positions[1, 1]).all() and message.positions.dtype == np.float32
    none = unpack(pack(JPEG, {}, np.zeros((1, 0, 2), np.float32), [b"x"]))
    assert none.positions.shape == (1, 0, 2)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda data: b"", "0 bytes that do not begin with MS"),
        (lambda data: b"PK" + data[2:], "do not begin with MS"),
        (lambda data: data[:2] + b"\x63" + data[3:], "of protocol 99, not 2"),
        (lambda data: data[:8] + b"x" + data[9:], "header is damaged"),
        (lambda data: data[:20], "header is damaged"),
        (lambda data: data[:-1], "its header says"),
        (lambda data: data + b"y", "its header says"),
        (lambda data: data.replace(b'"points":2', b'"points":9'), "header is damaged"),
        (lambda data: data.replace(b'"frames":2', b'"frame_":2'), "header is damaged"),
        (lambda data: data.replace(b"[3,6]", b"[3,-6]"), "header is damaged"),
        (lambda data: data.replace(b"[3,6]", b"[3,{}]"), "header is damaged"),
        (lambda data: data.replace(b"[3,6]", b"null "), "header is damaged"),
        (lambda data: data.replace(b'"frames":2', b'"frames":1'), "header is damaged"),
        (lambda data: data.replace(b'"points":2', b'"points":0.'), "header is damaged"),
        (lambda data: data[:4] + (90_000).to_bytes(4, "little") + b"[" * 90_000, "header is damaged"),
    ],
)
def test_what_is_no_message_is_refused_in_words(damage, word: str) -> None:
    data = pack(JPEG, {}, POSITIONS, [b"one", b"second"])
    with pytest.raises(ValueError, match=word):
        unpack(damage(data))
