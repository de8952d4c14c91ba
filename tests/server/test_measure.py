"""The benchmark of the server: its arithmetic, and a short run against a server in this process."""

import contextlib
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server import measure
from motionstream.server.app import create_app
from motionstream.server.engine import Engine
from motionstream.server.measure import FEWEST, WARM_UP, Seen, bench_serve, circle, print_serve
from motionstream.server.pictures import photographs
from motionstream.server.serving import listen
from motionstream.server.session import Limits


def test_frames_and_delays_are_counted_after_the_warm_up() -> None:
    seen = Seen()
    for number in range(WARM_UP):
        seen.add(0.5 * number, 12, 24.0, 0.0, 0.1, 5)
    assert seen.began == 0.5 * (WARM_UP - 1) and seen.frames == 0 and seen.dropped == 0 and not seen.arrived
    now = seen.began
    seen.add(now + 0.5, 12, 24.0, now + 0.2, 0.25, 3)
    seen.add(now + 2.0, 12, 24.0, None, 0.25, 0)
    assert not seen.enough(2.0), "too few"
    assert seen.frames == 24 and seen.ended - seen.began == 2.0 and seen.dropped == 3
    assert seen.arrived == pytest.approx([0.3]) and seen.besides == pytest.approx([0.05])
    # It came when the one before had just been played: its last frame is shown 11/24 s later.
    assert seen.shown == pytest.approx([0.3 + 11 / 24])
    for _ in range(FEWEST - 2):
        seen.add(now + 2.0, 12, 24.0, None, 0.25, 0)
    assert seen.enough(2.0) and not seen.enough(2.1)


def test_a_chunk_that_comes_early_waits_for_those_before() -> None:
    seen = Seen()
    for _ in range(WARM_UP):
        seen.add(0.0, 12, 24.0, None, 0.1, 0)
    seen.add(0.1, 12, 24.0, 0.0, 0.1, 0)
    assert seen.shown == pytest.approx([WARM_UP * 0.5 + 11 / 24])


def test_the_pointer_stays_in_the_picture() -> None:
    for moment in range(50):
        x, y = circle((96, 128), moment / 10)
        assert 44 < x < 84 and 28 < y < 68
    assert circle((96, 128), 0.0) == pytest.approx(circle((96, 128), 5.0))


@contextlib.contextmanager
def serving(preset: str, sessions: int, untrained: bool) -> Iterator[str]:
    pipeline = MotionStreamPipeline.from_pretrained(preset, untrained=untrained)
    with listen("127.0.0.1", 0) as listener, Engine(lambda: pipeline, Limits(sessions=sessions)) as engine:
        server = uvicorn.Server(uvicorn.Config(create_app(engine, photographs()), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        measure._wait_until_ready(address)
        yield address
        server.should_exit = True
        thread.join()


@pytest.mark.slow
def test_a_short_run_measures_the_engine_and_the_server(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(measure, "serving", serving)
    monkeypatch.setattr(measure, "WARM_UP", 1)
    said: list[str] = []
    result = bench_serve("debug", (1,), seconds=1.0, minutes=0.05, untrained=True, say=said.append)
    [row] = result["sessions"]
    for name in ("bare", "served"):
        assert row[name]["fps"] > 5 and len(row[name]["fps_each"]) == measure.ROUNDS
        delays = row[name]["pointer_to_frames_ms"], row[name]["pointer_to_pixel_ms"]
        assert 0 < delays[0]["p50"] <= delays[0]["p95"] and delays[0]["p50"] < delays[1]["p50"]
    assert row["fps_ratio"] == pytest.approx(row["served"]["fps"] / row["bare"]["fps"], rel=0.01)
    assert result["long_run"]["frames"] > 20 and result["memory_mb"]["idle"] > 50
    assert said == ["1 session", "1 session for 0.05 minutes"]
    print_serve(result)
    assert "of the bare engine's fps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"sessions": ()}, "--sessions is"),
        ({"sessions": (1, 0)}, "--sessions is 1 0"),
        ({"seconds": 0.1}, "--seconds is 0.1"),
        ({"minutes": -1}, "--minutes -1"),
        ({"preset": "no-such-model"}, "no weights for 'no-such-model'"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        bench_serve(**{"preset": "debug", **arguments})
