"""A take's entries are all that its frames depend on."""

import numpy as np
import pytest

from motionstream.session.commands import Move, Press, Prompt, Steps
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
