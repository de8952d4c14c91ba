"""The application: its page, and what it says of its health."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.app import WEB, create_app
from motionstream.server.engine import Engine


def test_the_page_and_all_it_names_are_served_and_nothing_else_is_asked_for(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    for file in filter(Path.is_file, WEB.rglob("*")):
        assert client.get(f"/web/{file.relative_to(WEB)}").status_code == 200, file.name
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a namespace's name; nothing is asked for
        assert "http://" not in text and "https://" not in text, file.name
    assert {item["name"] for item in client.get("/api/gallery").json()} == {"checkers"}


def test_health_tells_loading_ready_and_broken_apart(client: TestClient, png: Callable[[np.ndarray], bytes]) -> None:
    assert client.get("/health").json()["status"] == "ready"

    def fail() -> MotionStreamPipeline:
        raise ValueError("no weights")

    engine = Engine(fail)
    waiting = TestClient(create_app(engine), headers={"host": "localhost"})
    assert (waiting.get("/health").status_code, waiting.get("/health").json()["status"]) == (503, "loading")
    assert waiting.post("/api/pictures", content=png(np.zeros((8, 8, 3), np.uint8))).status_code == 503
    with waiting.websocket_connect("/ws") as socket:
        assert "still loading" in socket.receive_json()["message"]
    engine.load()
    assert (
        waiting.get("/health").json() | {"status": "broken", "problem": "no weights"} == waiting.get("/health").json()
    )
