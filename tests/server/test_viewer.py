"""A viewer's WebSocket through FastAPI's test client: streams, wrong messages, leaving."""

import json
import struct
import time

import numpy as np
import pytest
import simplejpeg
from fastapi.testclient import TestClient

from motionstream.server.protocol import VERSION


def start(socket, picture: str = "checkers", **fields: object) -> None:
    socket.send_json({"type": "start", "protocol": VERSION, "picture": picture, **fields})


def next_control(socket, kind: str) -> dict:
    """The next control message of this type; chunks on the way are passed over."""
    while True:
        message = socket.receive()
        if message.get("text"):
            content = json.loads(message["text"])
            if content["type"] == kind:
                return content
            assert content["type"] != "failed", content


def next_chunk(socket) -> tuple[dict, np.ndarray, list[np.ndarray]]:
    """Header, positions in pixels (T, N, 2), NaN where hidden, and decoded frames: read as docs/protocol.md says."""
    while True:
        data = socket.receive().get("bytes")
        if data:
            break
    magic, version, kind, length = struct.unpack_from("<2sBBI", data)
    assert (magic, version, kind) == (b"MS", VERSION, 1)
    header = json.loads(data[8 : 8 + length])
    count, place = header["frames"] * header["points"] * 2, 8 + length
    steps = np.frombuffer(data, "<i2", count, place).reshape(header["frames"], header["points"], 2)
    place += 2 * count
    frames = []
    for size in header["sizes"]:
        frames.append(simplejpeg.decode_jpeg(data[place : place + size]))
        place += size
    assert place == len(data)
    return header, np.where(steps[..., :1] == -32768, np.nan, steps / 8), frames


def test_a_drag_from_press_to_frames(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        hello = socket.receive_json()
        assert hello["type"] == "hello" and hello["protocol"] == VERSION
        assert hello["size"] == [32, 32] and hello["fps"] == 24 and hello["trained"] is False
        start(socket, prompt="black and white", seed=3)
        started = next_control(socket, "started")
        assert len(started.pop("recording")) > 20
        assert started == {"type": "started", "size": [32, 32], "fps": 24, "seed": 3, "steps": 3}
        socket.send_json({"type": "press", "t": 5.0, "gesture": 4, "x": 10, "y": 12, "radius": 0})
        accepted = next_control(socket, "accepted")
        assert accepted["command"] == "press" and accepted["gesture"] == 4
        socket.send_json({"type": "move", "t": 5.2, "gesture": 4, "samples": [[14, 12, 5.1], [20, 12, 5.2]]})
        header: dict = {"sent": None}
        while header["sent"] != 5.2:
            header, positions, frames = next_chunk(socket)
        assert header["groups"] == [[4, "press", 1]]
        assert positions[-1, 0].tolist() == [20, 12]
        assert len(frames) == header["frames"] in (9, 12) and frames[0].shape == (32, 32, 3)
        socket.send_json({"type": "stop"})
        assert next_control(socket, "ended")["reason"] == "stopped"


def test_a_start_replaces_the_running_stream(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        for seed in range(4):  # more than the engine has sessions
            start(socket, seed=seed)
            assert next_control(socket, "started")["seed"] == seed
        assert next_chunk(socket)[0]["first"] == 0


def test_leaving_ends_the_stream(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        start(socket)
        next_control(socket, "started")
    for _ in range(200):
        if client.get("/health").json()["sessions"] == 0:
            return
        time.sleep(0.02)
    raise AssertionError("the session is still open")


def test_a_full_engine_says_so(client: TestClient) -> None:
    with (
        client.websocket_connect("/ws") as a,
        client.websocket_connect("/ws") as b,
        client.websocket_connect("/ws") as c,
    ):
        for socket in (a, b):
            start(socket)
            next_control(socket, "started")
        start(c)
        failed = next_control(c, "failed")
        assert failed["fatal"] and "all 2 streams are taken" in failed["message"]


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("{", "not JSON"),
        ("[" * 30_000, "not JSON"),
        ('{"type": "explode"}', "'explode'"),
        ('{"type": "pause"}', "no stream runs"),
        ('{"type": "move", "gesture": 1, "samples": [[1, 2, 3]]}', "no stream runs"),
        (json.dumps({"type": "start", "protocol": VERSION, "picture": "../etc/passwd"}), "there is no picture"),
        ('{"type": "start", "protocol": 99, "picture": "checkers"}', "protocol is 99"),
        ('{"type": "prompt", "prompt": "' + "x" * 40_000 + '"}', "message of 40032 characters; at most 32768"),
        (bytes(range(256)) * 8, "a binary message of 2048 bytes is not understood"),
        (b"", "a binary message of 0 bytes is not understood"),
    ],
)
def test_wrong_messages_are_answered_in_words(client: TestClient, message: str | bytes, word: str) -> None:
    with client.websocket_connect("/ws") as socket:
        start(socket)
        next_control(socket, "started")
        if "no stream" in word:
            socket.send_json({"type": "stop"})
            next_control(socket, "ended")
            word = "the stream has ended"
        if isinstance(message, bytes):
            socket.send_bytes(message)
        else:
            socket.send_text(message)
        failed = next_control(socket, "failed")
        assert word in failed["message"] and not failed["fatal"]
        if "ended" not in word:  # and the stream lives on
            socket.send_json({"type": "press", "gesture": 1, "x": 5, "y": 5})
            assert next_control(socket, "accepted")["gesture"] == 1


def test_out_of_order_and_off_the_picture_does_no_harm(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        start(socket)
        next_control(socket, "started")
        socket.send_json({"type": "release", "gesture": 9})
        socket.send_json({"type": "move", "gesture": 9, "samples": [[1, 1, 0.5]]})
        socket.send_json({"type": "erase", "gesture": 9})
        assert "there is no gesture 9" in next_control(socket, "failed")["message"]
        socket.send_json({"type": "press", "t": 9.0, "gesture": 1, "x": -5000, "y": 9000, "radius": 4})
        assert "outside the picture of 32 x 32 pixels" in next_control(socket, "failed")["message"]
        socket.send_json({"type": "press", "t": 9.0, "gesture": 1, "x": 16, "y": 16, "radius": 4})
        assert next_control(socket, "accepted")["gesture"] == 1
        socket.send_json({"type": "move", "t": 8.0, "gesture": 1, "samples": [[99999, -99999, 7.0], [0, 0, 6.0]]})
        first = next_chunk(socket)[0]["first"]
        assert next_chunk(socket)[0]["first"] > first, "the stream lives on"
