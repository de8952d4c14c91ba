"""Serving: sockets, addresses, and what cannot work."""

import socket
from pathlib import Path

import pytest
import uvicorn

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.channel import MAX_WATCHERS
from motionstream.server.engine import Engine
from motionstream.server.guard import Access
from motionstream.server.serving import listen, page_address, serve
from motionstream.server.session import Limits
from motionstream.session.library import Library

TOKEN = "a-token-of-the-test"


def load() -> MotionStreamPipeline:
    return MotionStreamPipeline.from_pretrained("no-such-model")


def engine(library: Library) -> Engine:
    return Engine(load, library=library)


@pytest.mark.parametrize(
    ("access", "port", "word"),
    [
        (Access(), 70000, "port is 70000"),
        (Access("203.0.113.7", TOKEN), 0, "cannot listen at 203.0.113.7:0"),
        (Access(), 0, "no weights for 'no-such-model'"),
    ],
)
def test_serving_refuses_what_cannot_work(access: Access, port: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        serve(engine, access, port)


def test_only_this_machine_is_served_by_default() -> None:
    with listen(Access().host, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 64 * 1024


def test_the_address_holds_the_token() -> None:
    assert page_address(Access(), 8000) == "http://127.0.0.1:8000/"
    assert page_address(Access("::1"), 8000) == "http://[::1]:8000/"
    assert page_address(Access("localhost", TOKEN), 80) == f"http://localhost:80/?token={TOKEN}"
    special = page_address(Access(token="a+b&c#d/e %f?=1234"), 80)
    assert special == "http://127.0.0.1:80/?token=a%2Bb%26c%23d%2Fe%20%25f%3F%3D1234", "as it is read back"
    assert page_address(Access("0.0.0.0", TOKEN), 80) == f"http://{socket.gethostname()}:80/?token={TOKEN}"


def test_there_is_room_for_all_whom_the_limits_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: given.append(self.config.limit_concurrency))
    limits = Limits(sessions=3, queue=5)
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    serve(lambda library: Engine(lambda: pipeline, limits, library), Access(), 0, forget=True)
    [most] = given
    assert most is not None and most >= 3 + 3 * MAX_WATCHERS + 5 + 32, "streams, watchers, the queue, and requests"


def test_a_depth_model_that_is_none_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    def never(library: Library) -> Engine:
        raise AssertionError("it began to load")

    with pytest.raises(ValueError, match=r"there is no folder .*none with a depth model"):
        serve(never, Access(), 0, depth_model=tmp_path / "none")
