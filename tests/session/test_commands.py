"""Commands as JSON: what is written is read back the same, and what is wrong is refused by name."""

import json

import pytest

from motionstream.session.commands import (
    COMMANDS,
    MAX_SAMPLES,
    Camera,
    Command,
    Erase,
    Follow,
    Followed,
    Move,
    Path,
    Pause,
    Pin,
    Press,
    Prompt,
    Refresh,
    Release,
    Restart,
    Resume,
    Select,
    Steps,
    Stop,
    Unfollow,
    from_json,
    to_json,
)

EVERY: list[Command] = [
    Press(time=1.25, gesture=1, x=2.5, y=3.0),
    Pin(time=0.1 + 0.2, gesture=2, x=-2.5, y=1 / 3, radius=0, spacing=4),
    Path(time=2, gesture=3, points=((1.0, 2.0), (3.0, 4.5)), speed=30, delay=1, ease="smooth", release=True),
    Path(time=2, gesture=4, points=((1.0, 2.0),), duration=2),
    Move(time=3, gesture=1, x=4, y=5),
    Move(time=3.5, gesture=1, x=4, y=5),
    Move(time=3.5, gesture=9, x=4, y=5),
    Release(time=4, gesture=1),
    Erase(time=5, gesture=1),
    Prompt(time=6, prompt="a cät"),
    Steps(time=6, steps=4),
    Press(time=6.1, gesture=5, x=2.5, y=3.0, object=9),
    Camera(time=6.2, pan=(0.5, -1.0), zoom=0.25),
    Select(time=6.3, request=9, x=4.0, y=5.5),
    Select(time=6.3, request=10, box=(1.0, 2.0, 30.0, 40.0)),
    Select(time=6.3, request=11, outline=((1.0, 2.0), (3.0, 2.0), (3.0, 9.0))),
    Restart(time=6.4),
    Restart(time=6.4, seed=7),
    Refresh(time=6.5, adaptive=True),
    Follow(time=6.6, video="upload-1", align=((1.0, 2.0, 3.0, 4.0),), repeat=True),
    Follow(time=6.6, webcam=(240, 320)),
    Followed(time=6.7, points="abc="),
    Unfollow(time=6.8),
    Pause(time=7),
    Resume(time=8),
    Stop(time=9),
]


def read(content: dict) -> list[Command]:
    return from_json(content, lambda t: (-1.0 if t is None else t, None))


def test_every_command_is_read_as_it_was_written() -> None:
    assert {type(command) for command in EVERY} == set(COMMANDS.values())
    messages = json.loads(json.dumps(to_json(EVERY)))
    assert [command for message in messages for command in read(message)] == EVERY


def test_samples_of_one_pointer_are_one_message() -> None:
    moves = [Move(time=n, gesture=n // 400, x=n, y=0) for n in range(500)]
    messages = to_json(moves)
    assert [len(message["samples"]) for message in messages] == [MAX_SAMPLES, 400 - MAX_SAMPLES, 100]
    assert [command for message in messages for command in read(message)] == moves


def test_times_are_put_on_the_reader_s_clock() -> None:
    assert from_json({"type": "pause", "t": 3}, lambda t: (7.0, t)) == [Pause(time=7.0, sent=3.0)]
    assert from_json({"type": "pause"}, lambda t: (7.0, t)) == [Pause(time=7.0)]


def test_optional_fields_may_be_null() -> None:
    path = {"type": "path", "gesture": 1, "points": [[0, 1]], "speed": None, "duration": 1}
    assert read(path) == [Path(time=-1, gesture=1, points=((0.0, 1.0),), duration=1.0)]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({}, "lacks 'type'"),
        ({"type": "command"}, "type is 'command'; known are press"),
        ({"type": "path", "gesture": 1, "points": []}, r"points is \[\]; give 1 to 512 of \[x, y\]"),
        ({"type": "path", "gesture": 1, "points": [[1, 2, 3]]}, r"points has \[1, 2, 3\]"),
        ({"type": "path", "gesture": 1, "points": [[1, "2"]]}, "points' y is '2'"),
        ({"type": "path", "gesture": 1, "points": [[1, 2]], "ease": "fast"}, "ease is 'fast'; give linear or smooth"),
        ({"type": "path", "gesture": 1, "points": [[1, 2]], "release": 1}, "release is 1; give true or false"),
        ({"type": "path", "gesture": 1, "points": [[1, 2]], "speed": 0}, "speed is 0"),
        ({"type": "path", "gesture": 1, "points": [[1, 2]], "delay": None}, "delay is None"),
        ({"type": "steps", "steps": 5}, "steps is 5; give a whole number from 1 to 4"),
        ({"type": "steps", "steps": True}, "steps is True"),
        ({"type": "camera", "pan": [1]}, r"pan is \[1\]; give 2 numbers"),
        ({"type": "camera", "orbit": [0, 1.5]}, "orbit is 1.5; give a number from -1 to 1"),
        ({"type": "camera", "zoom": None}, "zoom is None"),
        ({"type": "select", "request": 1, "box": [1, 2, 3]}, "give 4 numbers"),
        ({"type": "follow"}, "give 'video' or 'webcam', one of them"),
        ({"type": "follow", "video": "a", "webcam": [90, 120]}, "one of them"),
        ({"type": "follow", "webcam": [90.5, 120]}, "webcam is 90.5; give a whole number from 16 to 1280"),
        ({"type": "follow", "webcam": [90]}, r"webcam is \[90\]; give 2 whole numbers"),
        ({"type": "follow", "video": "a", "align": [[1, 2, 3]]}, r"align has \[1, 2, 3\]; one is \[x, y, x, y\]"),
        ({"type": "follow", "video": "a", "align": [[1, 2, 3, 4]] * 3}, "give 0 to 2"),
        ({"type": "follow", "video": "a", "source": 1}, "unknown field 'source'"),
        ({"type": "refresh", "adaptive": 1}, "adaptive is 1; give true or false"),
        ({"type": "prompt", "prompt": "p" * 501}, "at most 500 characters"),
        ({"type": "erase", "gesture": -1}, "gesture is -1"),
        ({"type": "pause", "t": "now"}, "t is 'now'"),
        ({"type": "pause", "sent": 1}, "unknown field 'sent'"),
        ({"type": "move", "gesture": 1, "x": 1, "y": 2}, "lacks 'samples'"),
    ],
)
def test_what_is_wrong_is_named(content: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        read(content)
