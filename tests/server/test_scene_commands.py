"""Selecting, the camera and restarting over the WebSocket, as a page does it."""

import json
from typing import Any

from fastapi.testclient import TestClient


def say(socket: Any, kind: str, **fields: Any) -> None:
    socket.send_text(json.dumps({"type": kind, **fields}))


def until(socket: Any, kind: str) -> dict:
    """The next control message of a type; chunks and others are passed over."""
    for _ in range(60):
        message = socket.receive()
        if message.get("text"):
            content = json.loads(message["text"])
            if content["type"] == kind:
                return content
    raise AssertionError(f"no {kind} came")


def test_a_page_selects_an_object_drags_it_moves_the_camera_and_restarts(client: TestClient) -> None:
    with client.websocket_connect("/ws", headers={"origin": "http://127.0.0.1:8000"}) as socket:
        hello = until(socket, "hello")
        assert {"camera", "select", "restart", "refresh"} <= set(hello["capabilities"])
        say(socket, "start", protocol=2, picture="checkers")
        until(socket, "started")
        say(socket, "select", request=4, x=12, y=12)
        found = until(socket, "selected")
        assert found["request"] == found["object"] == 4 and found["area"] >= 20
        assert len(found["outline"]) >= 3 and all(len(point) == 2 for point in found["outline"])
        say(socket, "press", gesture=1, x=12, y=12, object=4, spacing=3)
        assert until(socket, "accepted")["command"] == "press"
        say(socket, "camera", pan=[1, 0], zoom=0.5)
        assert until(socket, "accepted")["command"] == "camera"
        say(socket, "restart", seed=3)
        assert until(socket, "accepted")["command"] == "restart"
        say(socket, "refresh", adaptive=True)
        assert until(socket, "accepted")["command"] == "refresh"
        say(socket, "select", request=5, x=500, y=1)
        assert "outside the picture" in until(socket, "failed")["message"]
        say(socket, "pin", gesture=2, x=5, y=5, object=77)
        assert "no object 77" in until(socket, "failed")["message"]
