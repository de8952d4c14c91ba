"""A viewer's WebSocket through FastAPI's test client: streams, wrong messages, leaving."""

import json
import time
from collections.abc import Iterator

import av
import pytest
import simplejpeg
from fastapi.testclient import TestClient

from motionstream import wire
from motionstream.wire import VERSION


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


def next_chunk(socket) -> wire.Message:
    """The next chunk; control messages on the way, and what shows where the stream stands, are passed over."""
    while True:
        data = socket.receive().get("bytes")
        if data and not (chunk := wire.unpack(data)).header.get("still"):
            return chunk


def test_a_drag_from_press_to_frames(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        hello = socket.receive_json()
        assert hello["type"] == "hello" and hello["protocol"] == VERSION
        assert hello["size"] == [32, 32] and hello["fps"] == 24 and hello["trained"] is False
        start(socket, prompt="black and white", seed=3)
        started = {"type": "started", "size": [32, 32], "fps": 24, "seed": 3, "steps": 3, "frame": 0, "paused": False}
        answer = next_control(socket, "started")
        assert started.items() <= answer.items() and len(answer["recording"]) > 20
        socket.send_json({"type": "press", "t": 5.0, "gesture": 4, "x": 10, "y": 12, "radius": 0})
        accepted = next_control(socket, "accepted")
        assert accepted["command"] == "press" and accepted["gesture"] == 4
        socket.send_json({"type": "move", "t": 5.2, "gesture": 4, "samples": [[14, 12, 5.1], [20, 12, 5.2]]})
        while (message := next_chunk(socket)).header["sent"] != 5.2:
            pass
        assert message.header["groups"] == [[4, "press", 1]]
        assert message.positions[-1, 0].tolist() == [20, 12]
        assert len(message.parts) == message.header["frames"] in (9, 12)
        assert simplejpeg.decode_jpeg(message.parts[0]).shape == (32, 32, 3)
        assert set(message.header["stages"]) == {"conditions", "generate", "decode", "settle", "encode"}
        socket.send_json({"type": "stop"})
        assert next_control(socket, "ended")["reason"] == "stopped"


def test_a_start_replaces_the_running_stream(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        for seed in range(4):  # more than the engine has sessions
            start(socket, seed=seed)
            assert next_control(socket, "started")["seed"] == seed
        assert next_chunk(socket).header["first"] == 0


def open_sessions(client: TestClient, count: int) -> bool:
    """Whether there are so many before long."""
    for _ in range(1500):
        if client.get("/health").json()["sessions"] == count:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(autouse=True)
def nobody_left(client: TestClient) -> Iterator[None]:
    yield
    assert open_sessions(client, 0), "sessions are ended when nobody comes back"


def test_h264_for_those_who_decode_it(client: TestClient) -> None:
    decoder = av.CodecContext.create("h264", "r")
    with client.websocket_connect("/ws") as socket:
        assert socket.receive_json()["codecs"] == ["h264", "jpeg"]
        start(socket, codecs=["h264", "jpeg"])
        for number in range(3):
            message = next_chunk(socket)
            assert message.kind == wire.H264 and message.header["codec"].startswith("avc1.42")
            assert message.header["keyframes"] == ([0] if number == 0 else [])
            frames = [frame for part in message.parts for frame in decoder.decode(av.Packet(part))]
            assert len(frames) == len(message.parts) and (frames[0].height, frames[0].width) == (32, 32)
        start(socket, codecs=["av1"])
        with pytest.raises(AssertionError, match="codecs are av1"):
            next_control(socket, "started")


def test_a_lost_stream_goes_on_where_it_was(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        start(socket, codecs=["h264"])
        started = next_control(socket, "started")
        seen = next_chunk(socket).header["first"]
        socket.send_json({"type": "press", "gesture": 1, "x": 5, "y": 5, "radius": 0})
        next_control(socket, "accepted")
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "rejoin", "protocol": VERSION, "session": started["session"], "codecs": ["h264"]})
        again = next_control(socket, "started")
        assert again["session"] == started["session"] and again["frame"] > seen
        message = next_chunk(socket)
        assert message.header["keyframes"] == [0] and message.header["first"] >= again["frame"]
        while not message.header["groups"]:
            message = next_chunk(socket)
        assert message.header["groups"] == [[1, "press", 1]], "what was held is held"
        socket.send_json({"type": "stop"})
        assert next_control(socket, "ended")["reason"] == "stopped"


def test_a_stream_that_waited_too_long_is_gone(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        start(socket)
        secret = next_control(socket, "started")["session"]
    assert open_sessions(client, 0)
    with client.websocket_connect("/ws") as socket:
        for session in (secret, "never there"):
            socket.send_json({"type": "rejoin", "protocol": VERSION, "session": session})
            failed = next_control(socket, "failed")
            assert failed["fatal"] and failed["command"] == "rejoin" and "that stream has ended" in failed["message"]


def test_another_page_takes_over(client: TestClient) -> None:
    with client.websocket_connect("/ws") as old, client.websocket_connect("/ws") as new:
        start(old)
        secret = next_control(old, "started")["session"]
        new.send_json({"type": "rejoin", "protocol": VERSION, "session": secret})
        next_control(new, "started")
        assert next_control(old, "ended")["reason"] == "taken over by another page"
        old.send_json({"type": "pause"})
        assert "no stream runs here" in next_control(old, "failed")["message"]
        new.send_json({"type": "pause"})
        assert next_control(new, "accepted")["command"] == "pause"


def test_a_share_link_shows_and_does_not_steer(client: TestClient) -> None:
    with client.websocket_connect("/ws") as owner:
        start(owner)
        share = next_control(owner, "started")["share"]
        with client.websocket_connect(f"/ws/watch/{share}?codecs=h264,jpeg") as watcher:
            started = next_control(watcher, "started")
            assert started["size"] == [32, 32] and "session" not in started and "share" not in started
            owner.send_json({"type": "press", "t": 3.0, "gesture": 2, "x": 5, "y": 5, "radius": 0})
            while not (message := next_chunk(watcher)).header["groups"]:
                pass
            assert message.kind == wire.H264 and message.header["sent"] is None
            for command in ({"type": "stop"}, {"type": "start", "protocol": VERSION, "picture": "checkers"}):
                watcher.send_json(command)
                assert "only shows the stream" in next_control(watcher, "failed")["message"]
            owner.send_json({"type": "stop"})
            assert next_control(watcher, "ended")["reason"] == "stopped"
    with client.websocket_connect(f"/ws/watch/{share}") as watcher:
        failed = next_control(watcher, "failed")
        assert failed["fatal"] and "a stream that has ended" in failed["message"]
    assert client.get(f"/watch/{share}").status_code == 200


def test_a_full_engine_has_a_queue(client: TestClient) -> None:
    with (
        client.websocket_connect("/ws") as a,
        client.websocket_connect("/ws") as b,
        client.websocket_connect("/ws") as c,
    ):
        for socket in (a, b):
            start(socket)
            next_control(socket, "started")
        start(c)
        assert next_control(c, "queued") == {"type": "queued", "place": 1, "of": 1}
        assert client.get("/health").json()["queued"] == 1
        a.send_json({"type": "stop"})
        next_control(c, "started")
        assert next_chunk(c).header["first"] == 0


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("{", "not JSON"),
        ("[" * 30_000, "not JSON"),
        ('{"type": "explode"}', "'explode'"),
        ('{"type": "pause"}', "no stream runs here"),
        ('{"type": "move", "gesture": 1, "samples": [[1, 2, 3]]}', "no stream runs here"),
        ('{"type": "prompt", "prompt": "' + "x" * 40_000 + '"}', "message of 40032 characters; at most 32768"),
        (bytes(range(256)) * 8, "2048 bytes that do not begin with MS"),
        (b"", "0 bytes that do not begin with MS"),
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


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"type": "start", "protocol": VERSION, "picture": "../etc/passwd"}, "there is no picture"),
        ({"type": "start", "protocol": VERSION, "recording": "0" * 16}, "there is no session"),
        ({"type": "start", "protocol": 99, "picture": "checkers"}, "protocol is 99"),
        ({"type": "start", "protocol": VERSION, "picture": "checkers", "codecs": ["av1"]}, "codecs are av1"),
        ({"type": "rejoin", "protocol": VERSION}, "lacks 'session'"),
    ],
)
def test_a_start_that_is_refused_leaves_no_stream(client: TestClient, message: dict, word: str) -> None:
    with client.websocket_connect("/ws") as socket:
        start(socket)
        next_control(socket, "started")
        socket.send_json(message)
        failed = next_control(socket, "failed")
        assert word in failed["message"] and failed["command"] == message["type"] and failed["fatal"]
        assert open_sessions(client, 0), "the one before has ended"
        start(socket)
        next_control(socket, "started")


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
        first = next_chunk(socket).header["first"]
        assert next_chunk(socket).header["first"] > first, "the stream lives on"
