"""Following over the WebSocket, as a page does it: an uploaded video, a webcam, and what can be wrong with them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from fastapi.testclient import TestClient

from motionstream import wire
from motionstream.media.videos import write_video
from motionstream.wire import VERSION


def film(frames: int) -> np.ndarray:
    """A texture of 60 x 80 that goes right, a pixel a frame."""
    wide = np.random.default_rng(3).integers(0, 256, (15, 40, 3), np.uint8)
    wide = cv2.resize(wide, (160, 60), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.roll(wide, step, axis=1)[:, 40:120] for step in range(frames)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    write_video(path, film(60), 24.0)
    return path.read_bytes()


def begin(socket: Any) -> dict[str, Any]:
    socket.send_json({"type": "start", "protocol": VERSION, "picture": "checkers"})
    return until(socket, "started")


def until(socket: Any, kind: str) -> dict[str, Any]:
    """The next control message of a type; others and chunks are passed over."""
    for _ in range(200):
        message = socket.receive()
        if message.get("text"):
            content: dict[str, Any] = json.loads(message["text"])
            if content["type"] == kind:
                return content
            assert content["type"] != "failed", content
    raise AssertionError(f"no {kind} came")


def chunks(socket: Any, count: int) -> list[wire.Message]:
    found: list[wire.Message] = []
    while len(found) < count:
        if data := socket.receive().get("bytes"):
            found.append(wire.unpack(data))
    return found


def frame(picture: np.ndarray, t: float) -> bytes:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture))
    return wire.pack(wire.WEBCAM, {"t": t}, np.zeros((1, 0, 2), np.float32), [jpeg])


def test_an_uploaded_video_moves_the_points_until_it_is_ended(client: TestClient, clip: bytes) -> None:
    video = client.post("/api/videos", content=clip).json()
    with client.websocket_connect("/ws") as socket:
        hello = until(socket, "hello")
        assert {"follow", "unfollow"} <= set(hello["capabilities"]) and "followed" not in hello["capabilities"]
        started = begin(socket)
        socket.send_json({"type": "follow", "video": video["name"], "align": [[40, 30, 16, 16]]})
        begins = until(socket, "accepted")["frame"]
        shown = [chunk for chunk in chunks(socket, 4) if chunk.header["first"] >= begins]
        for chunk in shown:
            ((number, kind, count),) = chunk.header["groups"]
            assert (number, kind) == (-2, "follow") and count > 4
            assert np.nanmedian(np.diff(chunk.positions[:, :, 0], axis=0)) == pytest.approx(32 / 60, abs=0.15)
        socket.send_json({"type": "unfollow"})
        ends = until(socket, "accepted")["frame"]
        after = next(chunk for chunk in chunks(socket, 3) if chunk.header["first"] >= ends)
        assert after.header["groups"] == []
        socket.send_json({"type": "unfollow"})
        assert "nothing is followed" in until(socket, "failed")["message"]
    timeline = client.get(f"/api/sessions/{started['recording']}").json()
    assert timeline["changes"] == [], "what moves all the time is no change"
    saved = client.get(f"/api/sessions/{started['recording']}/recording").text
    assert len(saved) < 100_000 and '"followed"' in saved and 'follow"' not in saved, "no frames of it, only its points"


def test_a_webcam_moves_the_points(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        begin(socket)
        socket.send_json({"type": "follow", "webcam": [60, 80]})
        until(socket, "accepted")
        moved: list[wire.Message] = []
        for number, picture in enumerate(film(48)):
            socket.send_bytes(frame(picture, number / 24))
            if number % 6 == 0:
                moved += chunks(socket, 1)
        gone = [np.nanmedian(np.ptp(chunk.positions[..., 0], axis=0)) for chunk in moved if chunk.positions.shape[1]]
        assert max(gone) > 1
        assert all(chunk.header["groups"][0][1] == "follow" for chunk in moved if chunk.positions.shape[1])


def refusals() -> list[tuple[Any, str]]:
    """What is sent while a webcam of 60 x 80 is followed, after a frame at 5 seconds, and what is answered."""
    picture = film(1)[0]
    good = frame(picture, 6)
    points = wire.pack(wire.WEBCAM, {"t": 6}, np.zeros((2, 0, 2), np.float32), [b"x", b"y"])
    return [
        (b"", "0 bytes that do not begin with MS"),
        (bytes(range(256)), "do not begin with MS"),
        (b"MS" + bytes(range(256)), "of protocol 0"),
        (good[:-9], "its header says"),
        (good[:8] + b"\xff" * 20 + good[28:], "header is damaged"),
        (wire.pack(wire.JPEG, {"t": 6}, np.zeros((1, 0, 2), np.float32), [b"x"]), "of kind 1; viewers send kind 2"),
        (points, "2 webcam frames in one message"),
        (frame(picture, float("nan")), "t is nan"),
        (wire.pack(wire.WEBCAM, {}, np.zeros((1, 0, 2), np.float32), [b"x"]), "t is None"),
        (wire.pack(wire.WEBCAM, {"t": 6}, np.zeros((1, 0, 2), np.float32), [b"garbage"]), "is no JPEG"),
        (frame(picture.transpose(1, 0, 2), 6), "60x80, but 80x60 were announced"),
        (frame(picture, 4), "of 4 s after one of 5 s"),
        (wire.pack(wire.WEBCAM, {"t": 6}, np.zeros((1, 0, 2), np.float32), [bytes(300_000)]), "send at most"),
        ({"type": "follow", "video": "nothing"}, "there is no video 'nothing'"),
        ({"type": "follow"}, "give 'video' or 'webcam'"),
        ({"type": "follow", "webcam": [60, 80], "align": [[1, 1, 2, 2], [1, 1, 3, 3]]}, "begin or end in one place"),
        ({"type": "followed", "points": "x"}, "which only recordings have"),
    ]


@pytest.mark.parametrize(("message", "word"), refusals())
def test_what_is_wrong_is_answered_and_the_stream_goes_on(client: TestClient, message: Any, word: str) -> None:
    with client.websocket_connect("/ws") as socket:
        begin(socket)
        socket.send_json({"type": "follow", "webcam": [60, 80]})
        until(socket, "accepted")
        socket.send_bytes(frame(film(1)[0], 5))
        if isinstance(message, bytes):
            socket.send_bytes(message)
        else:
            socket.send_json(message)
        failed = until_failed(socket)
        assert word in failed["message"] and not failed["fatal"], failed
        socket.send_bytes(frame(film(2)[1], 8))
        assert any(chunk.header["groups"] for chunk in chunks(socket, 3)), "the webcam is still followed"


def until_failed(socket: Any) -> dict[str, Any]:
    while True:
        message = socket.receive()
        if message.get("text") and (content := json.loads(message["text"]))["type"] == "failed":
            return dict(content)


def test_frames_that_nobody_asked_for_are_refused(client: TestClient) -> None:
    picture = film(1)[0]
    with client.websocket_connect("/ws") as socket:
        socket.send_bytes(frame(picture, 1))
        assert "no stream runs here" in until_failed(socket)["message"]
        socket.send_json({"type": "follow", "webcam": [60, 80]})
        assert "cannot follow: no stream runs here" in until_failed(socket)["message"]
        started = begin(socket)
        socket.send_bytes(frame(picture, 1))
        refused = until_failed(socket)
        assert "no webcam is followed" in refused["message"] and refused["command"] == "look"
        socket.send_json({"type": "follow", "webcam": [60, 80]})
        socket.send_bytes(frame(picture, 2))
        socket.send_json({"type": "unfollow"})
        chunks(socket, 3)  # by then it is done
        socket.send_bytes(frame(picture, 3))
        assert "no webcam is followed" in until_failed(socket)["message"]
        with client.websocket_connect(f"/ws/watch/{started['share']}") as watcher:
            watcher.send_bytes(frame(picture, 4))
            assert "only shows the stream" in until_failed(watcher)["message"]
        socket.send_json({"type": "stop"})
        until(socket, "ended")


def test_a_page_that_comes_back_sends_frames_on(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        session = begin(socket)["session"]
        socket.send_json({"type": "follow", "webcam": [60, 80]})
        until(socket, "accepted")
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "rejoin", "protocol": VERSION, "session": session})
        until(socket, "started")
        socket.send_bytes(frame(film(1)[0], 1))
        assert any(chunk.header["groups"] for chunk in chunks(socket, 3))


def test_a_truncated_video_is_followed_as_far_as_it_goes(client: TestClient, clip: bytes, tmp_path: Path) -> None:
    video = client.post("/api/videos", content=clip[: 2 * len(clip) // 3]).json()
    assert video["note"] == "it breaks off early"
    with client.websocket_connect("/ws") as socket:
        begin(socket)
        socket.send_json({"type": "follow", "video": video["name"]})
        until(socket, "accepted")
        assert any(chunk.header["groups"] for chunk in chunks(socket, 3))
