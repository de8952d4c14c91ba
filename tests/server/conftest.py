"""What the server's tests share: the debug model, on a clock of the test's own or in an engine that runs behind
FastAPI's test client."""

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
from motionstream.server.session import Chunk, Event, Limits, Session
from motionstream.session.commands import Press
from motionstream.session.library import Library


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def pipeline(lively_pipeline: MotionStreamPipeline) -> MotionStreamPipeline:
    return lively_pipeline


@pytest.fixture
def engine(pipeline: MotionStreamPipeline, clock: Clock) -> Engine:
    """Loaded; the test stands in for the worker by calling `turn`."""
    engine = Engine(lambda: pipeline, Limits(sessions=2, chunks=3), clock=clock)
    engine.load()
    return engine


def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def events(session: Session) -> list[Event]:
    return list(iter(session.take, None))


def chunks(session: Session) -> list[Chunk]:
    return [event for event in events(session) if isinstance(event, Chunk)]


def run(engine: Engine, clock: Clock, seconds: float) -> None:
    """Let time pass as the worker would: sleep as long as `turn` says."""
    end = clock.now + seconds
    while clock.now < end:
        rest = engine.turn()
        clock.now += min(max(rest, 1e-3), end + 1e-3 - clock.now)  # a paused engine would sleep for ever


def press(clock: Clock, gesture: int = 1, x: float = 16, y: float = 16, **more: float) -> Press:
    return Press(time=clock.now, gesture=gesture, x=x, y=y, **more)


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
