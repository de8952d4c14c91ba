"""A take's entries are all that its frames depend on."""

import json

import numpy as np
import pytest

from motionstream.session.commands import (
    Camera,
    Move,
    Press,
    Prompt,
    Refresh,
    Restart,
    Select,
    Steps,
    from_json,
    to_json,
)
from motionstream.session.take import Entry, Take


def test_entries_make_the_same_frames_again(pipeline, picture) -> None:
    entries: list[Entry] = []
    take = Take(pipeline.stream(picture, seed=4), entries.append)
    made = [take.make(0.0)]
    take.obey(Press(time=0.1, gesture=1, x=10, y=10))
    take.obey(Prompt(time=0.2, prompt="a red kite"))
    made.append(take.make(0.4))
    take.settle()
    take.obey(Move(time=0.5, gesture=1, x=20, y=12))
    take.obey(Steps(time=0.6, steps=1))
    made.append(take.make(0.9))
    assert [(entry.chunk, entry.frames, entry.cut) for entry in entries] == [(0, 9, 0.0), (1, 12, 0.4), (2, 12, 0.9)]
    assert [[command.name for command in entry.commands] for entry in entries] == [
        [],
        ["press", "prompt"],
        ["move", "steps"],
    ]
    again = Take(pipeline.stream(picture, seed=4))
    for entry, shot in zip(entries, made, strict=True):
        for command in entry.commands:
            again.obey(command)
        assert np.array_equal(again.make(entry.cut).frames, shot.frames)


def test_what_had_no_effect_is_no_part_of_an_entry(pipeline, picture) -> None:
    entries: list[Entry] = []
    take = Take(pipeline.stream(picture), entries.append)
    assert not take.obey(Move(time=0, gesture=1, x=1, y=1))
    with pytest.raises(ValueError, match="outside the picture"):
        take.obey(Press(time=0, gesture=1, x=99, y=1))
    with pytest.raises(ValueError, match="steps = 5"):
        take.obey(Steps(time=0, steps=5))
    take.make(0.0)
    assert entries == [Entry(0, 9, 0.0, ())]


def test_a_selection_a_camera_and_a_restart_are_part_of_the_entries(pipeline, picture) -> None:
    entries: list[Entry] = []
    take = Take(pipeline.stream(picture, seed=4), entries.append)
    take.obey(Select(time=0, request=9, x=12, y=12))
    first = take.director.mask(9)
    assert first.shape == take.stream.size and first[12, 12]
    made = [take.make(0.0)]
    take.obey(Select(time=0.1, request=10, box=(4, 4, 20, 20)))
    take.obey(Press(time=0.1, gesture=1, x=12, y=12, spacing=4, object=9))
    take.obey(Camera(time=0.1, zoom=1.0))
    take.obey(Refresh(time=0.1, adaptive=True))
    made.append(take.make(0.4))
    take.obey(Restart(time=0.5, seed=6))
    made.append(take.make(0.9))
    assert take.stream.adaptive and [len(shot.frames) for shot in made] == [9, 12, 9]
    again = Take(pipeline.stream(picture, seed=4))
    for entry, shot in zip(entries, made, strict=True):
        for message in json.loads(json.dumps(to_json(entry.commands))):
            for command in from_json(message, lambda t: (t or 0.0, None)):
                again.obey(command)
        assert np.array_equal(again.make(entry.cut).frames, shot.frames)
    for wrong in ({"x": 3}, {}, {"x": 3, "y": 3, "box": (1, 1, 9, 9)}, {"x": 99, "y": 3}):
        with pytest.raises(ValueError):
            take.obey(Select(time=1, request=11, **wrong))
