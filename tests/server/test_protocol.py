"""Messages of the viewer: read with their times, or refused by the name of what is wrong."""

import json

import numpy as np
import pytest

from motionstream.server.protocol import (
    MAX_MESSAGE,
    MAX_SAMPLES,
    NoStream,
    Received,
    Rejoin,
    Start,
    ViewerClock,
    choose_codec,
    parse,
)
from motionstream.session.commands import Move, Press


def read(content: object, now: float = 50.0):
    return parse(content if isinstance(content, str) else json.dumps(content), now, ViewerClock())


def test_a_start_and_a_command() -> None:
    assert read({"type": "start", "protocol": 2, "picture": "cat"}) == Start("cat")
    full = {"type": "start", "protocol": 2, "t": 7, "picture": "cat", "prompt": "it sits", "seed": 3, "steps": 2}
    assert read(full) == Start("cat", "it sits", 3, 2)
    branch = {"type": "start", "protocol": 2, "recording": "2026", "chunk": 3}
    assert read(branch) == Start(recording="2026", chunk=3)
    press = {"type": "press", "t": 7, "gesture": 1, "x": 2.5, "y": 3}
    assert read(press) == [Press(gesture=1, x=2.5, y=3, time=50.0, sent=7.0)]
    del press["t"]
    assert read(press) == [Press(gesture=1, x=2.5, y=3, time=50.0)]


def test_samples_keep_the_time_between_them() -> None:
    moves = read({"type": "move", "t": 9.0, "gesture": 3, "samples": [[1, 2, 8.9], [2, 2, 8.95], [3, 2, 9.0]]})
    assert all(isinstance(move, Move) for move in moves)
    assert np.allclose([move.time for move in moves], [49.9, 49.95, 50.0])
    assert [move.sent for move in moves] == [8.9, 8.95, 9.0]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not JSON"),
        ("[" * 5000, "not JSON"),
        ('{"type": "pause", "t": NaN}', "NaN is not a number"),
        ("[1]", "is a list"),
        ({}, "lacks 'type'"),
        ({"type": 3}, "type is 3"),
        ({"type": "start", "picture": "cat"}, "lacks 'protocol'"),
        ({"type": "start", "protocol": 1, "picture": "cat"}, "protocol is 1"),
        ({"type": "start", "protocol": 2, "picture": "c" * 65}, "at most 64 characters"),
        ({"type": "start", "protocol": 2, "picture": "cat", "seed": -1}, "seed is -1"),
        ({"type": "start", "protocol": 2, "picture": "cat", "seed": True}, "seed is True"),
        ({"type": "start", "protocol": 2}, "lacks 'picture'"),
        ({"type": "start", "protocol": 2, "recording": "a", "depth": "b"}, "a recording has its own depth"),
        ({"type": "visible"}, "lacks 'visible'"),
        ({"type": "visible", "visible": 1}, "visible is 1; give true or false"),
        ({"type": "followed", "points": ""}, "which only recordings have"),
        ({"type": "start", "protocol": 2, "picture": "cat", "recording": "2026"}, "give one of them"),
        ({"type": "start", "protocol": 2, "recording": "2026", "chunk": -1}, "chunk is -1"),
        ({"type": "press", "gesture": 1, "x": 1}, "lacks 'y'"),
        ({"type": "press", "gesture": 1, "x": 1, "y": "2"}, "y is '2'"),
        ({"type": "press", "gesture": 1.5, "x": 1, "y": 2}, "gesture is 1.5"),
        ({"type": "press", "gesture": 1, "x": 1e300, "y": 2}, r"x is 1e\+300"),
        ('{"type": "press", "gesture": 1, "x": 1e999, "y": 2}', "x is inf"),
        ({"type": "press", "gesture": 1, "x": 1, "y": 2, "radius": -1}, "radius is -1"),
        ({"type": "move", "gesture": 1, "samples": []}, r"samples is \[\]"),
        ({"type": "move", "gesture": 1, "samples": [[1, 2]]}, r"samples has \[1, 2\]; one is \[x, y, t\]"),
        ({"type": "move", "gesture": 1, "samples": [[1, None, 2]]}, "samples' y is None"),
        ({"type": "move", "gesture": 1, "samples": [[0, 0, 0]] * (MAX_SAMPLES + 1)}, f"1 to {MAX_SAMPLES}"),
        ({"type": "prompt", "prompt": "p" * 501}, "at most 500 characters"),
        ({"type": "pause", "colour": "red"}, "unknown field 'colour'"),
        (" " * (MAX_MESSAGE + 1), "characters; at most"),
    ],
)
def test_what_is_wrong_is_named(content: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        read(content)


def test_who_asks_wrongly_for_a_stream_gets_none() -> None:
    for kind in ("start", "rejoin"):
        with pytest.raises(NoStream, match="protocol is 1") as refused:
            read({"type": kind, "protocol": 1, "picture": "cat", "session": "s"})
        assert refused.value.command == kind


def test_the_clock_takes_the_fastest_way_as_the_difference() -> None:
    clock = ViewerClock()
    clock.arrived(10.0, 110.2)  # 100 s apart, 0.2 s on the way
    clock.arrived(11.0, 111.05)
    clock.arrived(12.0, 112.4)
    assert clock.to_server(12.0, 112.4) == pytest.approx(112.05, abs=1e-3)
    assert clock.to_server(500.0, 112.4) == 112.4, "never in the future"


def test_the_clock_follows_one_that_runs_slower() -> None:
    clock = ViewerClock()
    for second in range(0, 36_000, 10):
        clock.arrived(second * (1 - 5e-5), 100.0 + second)
    now = 100.0 + second
    assert clock.to_server(second * (1 - 5e-5), now) == pytest.approx(now, abs=0.01)


def test_what_the_connection_itself_is_told() -> None:
    assert read({"type": "start", "protocol": 2, "picture": "cat", "codecs": ["h264", "jpeg"]}).codecs == (
        "h264",
        "jpeg",
    )
    assert read({"type": "rejoin", "protocol": 2, "session": "s"}) == Rejoin("s")
    assert read({"type": "received", "frame": 21}) == Received(21)
    assert read({"type": "received", "frame": 21, "delay": 0.5}) == Received(21, 0.5)
    for wrong, word in (
        ({"type": "rejoin", "session": "s"}, "lacks 'protocol'"),
        ({"type": "rejoin", "protocol": 2}, "lacks 'session'"),
        ({"type": "received", "frame": -1}, "frame is -1"),
        ({"type": "received", "frame": 1, "delay": -1}, "delay is -1"),
        ({"type": "start", "protocol": 2, "picture": "cat", "codecs": "jpeg"}, "a list of at most 8 texts"),
        ({"type": "start", "protocol": 2, "picture": "cat", "codecs": [1]}, "codecs' text is 1"),
    ):
        with pytest.raises(ValueError, match=word):
            read(wrong)


def test_the_viewers_first_codec_that_is_spoken_is_taken() -> None:
    assert choose_codec(("av1", "jpeg", "h264")) == "jpeg"
    assert choose_codec(("h264", "jpeg")) == "h264"
    with pytest.raises(ValueError, match="codecs are av1, vp9; this server speaks h264 and jpeg"):
        choose_codec(("av1", "vp9"))
