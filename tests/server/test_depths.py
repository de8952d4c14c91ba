"""Depth maps over HTTP: cut as their picture, taken by the stream and its recording, or refused in words."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server import depths
from motionstream.server.app import create_app
from motionstream.server.engine import Engine
from motionstream.server.protocol import VERSION
from motionstream.session.library import Library

Png = Callable[[np.ndarray], bytes]


def npy(depth: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, depth)
    return file.getvalue()


def png16(depth: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(depth.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def wide_png() -> bytes:
    """A picture of 80 x 40, of which the model sees the middle 32 x 32 at 64 x 32."""
    file = io.BytesIO()
    Image.new("RGB", (80, 40), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def wide(client: TestClient, wide_png: bytes) -> str:
    return str(client.post("/api/pictures", content=wide_png).json()["name"])


def until(socket: Any, kind: str) -> dict[str, Any]:
    while True:
        message = socket.receive()
        if message.get("text") and (content := json.loads(message["text"]))["type"] == kind:
            return dict(content)


@pytest.mark.parametrize("write", [npy, png16])
def test_a_map_is_cut_as_its_picture_and_recorded(client: TestClient, wide: str, write: Callable) -> None:
    depth = np.where(np.arange(160) < 80, 1000, 5000) * np.ones((80, 1))  # twice as fine as the picture
    answer = client.post(f"/api/pictures/{wide}/depth", content=write(depth))
    name = answer.json()["depth"]
    with client.websocket_connect("/ws") as socket:
        assert "depth" in until(socket, "hello")["capabilities"]
        socket.send_json({"type": "start", "protocol": VERSION, "picture": wide, "depth": name})
        started = until(socket, "started")
        assert started["depth"] is True
        socket.send_json({"type": "camera", "orbit": [1, 0]})
        assert until(socket, "accepted")["command"] == "camera"
        socket.send_json({"type": "stop"})
        until(socket, "ended")
        socket.send_json({"type": "start", "protocol": VERSION, "picture": wide})
        assert until(socket, "started")["depth"] is False
        socket.send_json({"type": "start", "protocol": VERSION, "recording": started["recording"]})
        assert until(socket, "started")["depth"] is True, "what goes on from it has its map"
    file = client.get(f"/api/sessions/{started['recording']}/recording").content
    assert b'"depth":' in file.splitlines()[0]
    answer = client.post("/api/sessions", content=file)
    assert answer.status_code == 200


def test_in_an_inverse_map_bright_is_near(client: TestClient, wide: str) -> None:
    seen = []
    for inverse in ("true", "false"):
        content = npy(np.linspace(1, 9, 80 * 40).reshape(40, 80))
        name = client.post(f"/api/pictures/{wide}/depth?inverse={inverse}", content=content).json()["depth"]
        with client.websocket_connect("/ws") as socket:
            socket.send_json({"type": "start", "protocol": VERSION, "picture": wide, "depth": name})
            recording = until(socket, "started")["recording"]
        seen.append(json.loads(client.get(f"/api/sessions/{recording}/recording").content.splitlines()[0])["depth"])
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "give a .npy or a 16-bit PNG"),
        (b"no map at all", "give a .npy or a 16-bit PNG"),
        (npy(np.ones((40, 40))), "a depth map of 40x40 for a photograph of 80x40"),
        (npy(np.ones((40, 80, 3))), "give numbers (height, width)"),
        (npy(np.zeros((40, 80))), "no positive value"),
        (npy(np.ones((40, 80)))[:200], "give a .npy or a 16-bit PNG"),
        (png16(np.ones((40, 80)))[:50], "it is"),
        (npy(np.ones((2, 2))).replace(b"(2, 2)", b"(20000, 20000)"), "give a .npy"),
    ],
)
def test_what_is_no_depth_map_is_refused_in_words(client: TestClient, wide: str, content: bytes, word: str) -> None:
    answer = client.post(f"/api/pictures/{wide}/depth", content=content)
    detail = answer.json()["detail"]
    assert answer.status_code == 422 and word in detail and "tmp" not in detail, detail


def test_an_eight_bit_picture_is_refused(client: TestClient, wide: str, png: Png) -> None:
    answer = client.post(f"/api/pictures/{wide}/depth", content=png(np.zeros((40, 80, 3), np.uint8)))
    assert answer.status_code == 422 and "not 16-bit grey" in answer.json()["detail"]


def test_a_model_is_asked_once_for_each_picture(wide_png: bytes) -> None:
    asked: list[tuple[int, ...]] = []

    def model(picture: np.ndarray) -> np.ndarray:
        asked.append(picture.shape)
        return np.full(picture.shape[:2], 2, np.float32)

    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    with Library() as library, Engine(lambda: pipeline, library=library) as engine:
        while engine.status == "loading":
            time.sleep(0.01)
        app = create_app(engine, depth_model=model)
        with TestClient(app, headers={"host": "127.0.0.1:8000"}) as client:
            names = [client.post("/api/pictures", content=wide_png).json()["name"] for _ in range(2)]
            with client.websocket_connect("/ws") as socket:
                assert "depth-model" in until(socket, "hello")["capabilities"]
                for name in (names[0], names[0], names[1]):
                    socket.send_json({"type": "start", "protocol": VERSION, "picture": name})
                    assert until(socket, "started")["depth"] is True
    assert asked == [(64, 64, 3)] * 2, "of the picture as it is kept, finer than the model sees it"


def test_maps_of_other_pictures_and_unknown_ones_are_refused(
    client: TestClient, wide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.post("/api/pictures/nothing/depth", content=npy(np.ones((40, 80)))).status_code == 422
    name = client.post(f"/api/pictures/{wide}/depth", content=npy(np.ones((40, 80)))).json()["depth"]
    with client.websocket_connect("/ws") as socket:
        for picture, depth, word in (("checkers", name, "another picture's"), (wide, "none", "no depth map 'none'")):
            socket.send_json({"type": "start", "protocol": VERSION, "picture": picture, "depth": depth})
            assert word in until(socket, "failed")["message"]
    monkeypatch.setattr(depths, "MAX_UPLOAD", 1000)
    answer = client.post(f"/api/pictures/{wide}/depth", content=bytes(1001))
    assert answer.status_code == 413
