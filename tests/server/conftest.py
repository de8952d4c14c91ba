"""What the server's tests share: the debug model in an engine that runs, behind FastAPI's test client."""

import io
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.app import create_app
from motionstream.server.engine import Engine
from motionstream.server.pictures import Example
from motionstream.server.session import Limits
from motionstream.session.library import Library


def checkers() -> np.ndarray:
    return np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((16, 16))).astype(np.uint8)[..., None].repeat(3, 2) * 255


@pytest.fixture(autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are not recorded in the home of who runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """Two streams at most, which are recorded and wait 0.3 seconds for lost viewers; "checkers" is the one picture."""
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    with Library() as library, Engine(lambda: pipeline, Limits(sessions=2), library) as engine:
        while engine.status == "loading":
            time.sleep(0.01)
        app = create_app(engine, [Example("checkers", "Checkers", "drawn here", checkers)], grace=0.3)
        with TestClient(app, headers={"host": "127.0.0.1:8000"}) as client:
            yield client


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    def encode(picture: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        return file.getvalue()

    return encode
