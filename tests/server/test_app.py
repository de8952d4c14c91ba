"""The server through FastAPI's test client: HTTP, the WebSocket, and who is let in."""

import io
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from motionstream.data import photographs as data_photographs
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server import app as app_module
from motionstream.server.app import Example, create_app, photographs, serve
from motionstream.server.engine import Engine
from motionstream.server.session import Limits

HOST = {"host": "127.0.0.1:8000"}


def checkers() -> np.ndarray:
    return np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((16, 16))).astype(np.uint8)[..., None].repeat(3, 2) * 255


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    with Engine(lambda: pipeline, Limits(sessions=2)) as engine:
        while engine.status == "loading":
            time.sleep(0.01)
        app = create_app(engine, [Example("checkers", "Checkers", "drawn here", checkers)], ["127.0.0.1"])
        with TestClient(app, headers=HOST) as client:
            yield client


def start(socket, picture: str = "checkers", **fields: object) -> None:
    socket.send_json({"type": "start", "protocol": 2, "picture": picture, **fields})


def next_control(socket, kind: str) -> dict:
    """The next control message of this type; chunks on the way are passed over."""
    while True:
        message = socket.receive()
        if message.get("text"):
            content = json.loads(message["text"])
            if content["type"] == kind:
                return content


def next_chunk(socket) -> tuple[dict, np.ndarray, list[np.ndarray]]:
    """Header, positions in pixels (T, N, 2), NaN where hidden, and decoded frames: read as docs/protocol.md says."""
    while True:
        data = socket.receive().get("bytes")
        if data:
            break
    magic, version, kind, length = struct.unpack_from("<2sBBI", data)
    assert (magic, version, kind) == (b"MS", 2, 1)
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


# ------------------------------------------------------------------------------------------------------ stream


def test_a_drag_from_press_to_frames(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        hello = socket.receive_json()
        assert hello["type"] == "hello" and hello["protocol"] == 2
        assert hello["size"] == [32, 32] and hello["fps"] == 24 and hello["trained"] is False
        start(socket, prompt="black and white", seed=3)
        started = {"type": "started", "size": [32, 32], "fps": 24, "seed": 3, "steps": 3}
        assert next_control(socket, "started") == started
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
        ('{"type": "explode"}', "'explode'"),
        ('{"type": "pause"}', "no stream runs"),
        ('{"type": "start", "protocol": 2, "picture": "../etc/passwd"}', "there is no picture"),
        ('{"type": "start", "protocol": 9, "picture": "checkers"}', "protocol is 9"),
    ],
)
def test_wrong_messages_are_answered_in_words(client: TestClient, message: str, word: str) -> None:
    with client.websocket_connect("/ws") as socket:
        socket.send_text(message)
        failed = next_control(socket, "failed")
        assert word in failed["message"] and not failed["fatal"]
        start(socket)  # and the connection lives on
        next_control(socket, "started")


# ---------------------------------------------------------------------------------------------------- pictures


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_an_uploaded_picture_is_fitted_and_can_be_streamed(client: TestClient) -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (255, 0, 0)
    answer = client.post("/api/pictures", content=png(wide)).json()
    name = answer["name"]
    assert answer["fitted"] == "80x40 photograph scaled to 64x32 and cropped to the middle 32x32"
    shown = simplejpeg.decode_jpeg(client.get(f"/api/pictures/{name}").content)
    assert shown.shape == (32, 32, 3) and shown[..., 0].min() > 200, "the middle, and only the middle"
    with client.websocket_connect("/ws") as socket:
        start(socket, name)
        next_control(socket, "started")


@pytest.mark.parametrize("content", [b"", b"not a picture", png(checkers())[:60]])
def test_what_is_no_picture_is_refused_in_words(client: TestClient, content: bytes) -> None:
    answer = client.post("/api/pictures", content=content)
    assert answer.status_code == 422
    assert "this file" in answer.json()["detail"] and "tmp" not in answer.json()["detail"]


def test_a_file_that_is_too_large_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_UPLOAD", 2**20)
    answer = client.post("/api/pictures", content=bytes(2**20 + 1))
    assert answer.status_code == 413 and "larger than 1 MB" in answer.json()["detail"]


def test_old_uploads_make_room_and_the_gallery_stays(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_UPLOADS", 2)
    names = [client.post("/api/pictures", content=png(checkers())).json()["name"] for _ in range(3)]
    assert [client.get(f"/api/pictures/{name}").status_code for name in names] == [404, 200, 200]
    assert client.get("/api/pictures/checkers").status_code == 200


def test_the_gallery_is_the_held_out_photographs() -> None:
    assert {example.name for example in photographs()} == set(data_photographs.HELD_OUT)
    for example in photographs():
        assert np.array_equal(example.load(), data_photographs.load(example.name)), example.name


# ------------------------------------------------------------------------------------------- page and guarding


def test_the_page_and_all_it_names_are_served_and_nothing_else_is_asked_for(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    for file in Path(app_module.WEB).iterdir():
        assert client.get(f"/web/{file.name}").status_code == 200, file.name
        assert "http://" not in file.read_text() and "https://" not in file.read_text(), file.name
    assert {item["name"] for item in client.get("/api/gallery").json()} == {"checkers"}


def test_health_tells_loading_ready_and_broken_apart(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "ready"

    def fail() -> MotionStreamPipeline:
        raise ValueError("no weights")

    engine = Engine(fail)
    waiting = TestClient(create_app(engine))
    assert (waiting.get("/health").status_code, waiting.get("/health").json()["status"]) == (503, "loading")
    assert waiting.post("/api/pictures", content=png(checkers())).status_code == 503
    with waiting.websocket_connect("/ws") as socket:
        assert "still loading" in socket.receive_json()["message"]
    engine.load()
    assert (
        waiting.get("/health").json() | {"status": "broken", "problem": "no weights"} == waiting.get("/health").json()
    )


def test_other_sites_are_not_let_in(client: TestClient) -> None:
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=headers):
            pass
        assert client.post("/api/pictures", content=png(checkers()), headers=headers).status_code == 403
    own = {"origin": "http://127.0.0.1:8000"}
    with client.websocket_connect("/ws", headers=own) as socket:
        assert socket.receive_json()["type"] == "hello"
    answer = client.post("/api/pictures", content=png(checkers()), headers=own)
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    # A foreign name that was made to lead here.
    assert client.get("/", headers={"host": "evil.example:8000"}).status_code == 403


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"port": 70000}, "port is 70000"),
        ({"host": "203.0.113.7", "port": 0}, "cannot listen at 203.0.113.7:0"),
        ({"model": "no-such-model", "port": 0}, "no weights for 'no-such-model'"),
    ],
)
def test_serving_refuses_what_cannot_work(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        serve(**arguments)
