"""Captions say what is true, in words that fit."""

import random

import pytest

from motionstream.data.captions import _SNOW, DARK, FOG, ClipFacts, ObjectFacts, colour_word, describe, direction

GREY = (0.5, 0.52, 0.5)


def captions(facts: ClipFacts, count: int = 200) -> set[str]:
    rng = random.Random(0)
    return {describe(facts, rng) for _ in range(count)}


@pytest.mark.parametrize(
    ("motion", "word"),
    [
        ((5.0, 0.5), "right"),
        ((-5.0, 0.5), "left"),
        ((0.5, -5.0), "up"),
        ((0.5, 5.0), "down"),
        ((5.0, -5.0), "up and right"),
        ((-5.0, 5.0), "down and left"),
    ],
)
def test_direction_with_y_pointing_down(motion: tuple[float, float], word: str) -> None:
    assert direction(motion) == word


@pytest.mark.parametrize(
    ("colour", "word"),
    [
        ((0.9, 0.1, 0.1), "red"),
        ((0.9, 0.5, 0.1), "orange"),
        ((0.9, 0.85, 0.1), "yellow"),
        ((0.1, 0.7, 0.2), "green"),
        ((0.1, 0.2, 0.8), "blue"),
        ((0.5, 0.1, 0.7), "purple"),
        ((0.05, 0.05, 0.1), "black"),
        ((0.95, 0.9, 0.92), "white"),
        ((0.5, 0.5, 0.53), "grey"),
        ((0.5, 0.45, 0.4), None),
    ],
)
def test_colour_words(colour: tuple[float, float, float], word: str | None) -> None:
    assert colour_word(colour) == word


def test_dark_is_always_told_and_only_where_it_comes() -> None:
    objects = [ObjectFacts((8.0, 0.0), True, GREY)]
    assert all(any(words in caption for words in DARK) for caption in captions(ClipFacts(objects, (0, 0), 1.0, True)))
    light = captions(ClipFacts(objects, (0, 0), 1.0, False))
    assert not any(word in caption for caption in light for word in ("dark", "light", "night"))
    assert any(caption in DARK for caption in captions(ClipFacts(objects, (0, 0), 1.0, True)))


def test_objects_and_camera_are_described_as_they_move() -> None:
    objects = [ObjectFacts((-9.0, 0.0), True, (0.9, 0.1, 0.1)), ObjectFacts((0.0, 0.0), False, GREY)]
    said = captions(ClipFacts(objects, (0.0, 6.0), 1.2, False))
    text = " | ".join(said)
    for expected in ("a red object moves left", "another holds still", "the camera pans down", "zooms in"):
        assert expected in text
    for wrong in ("right", "up", "zooms out", "widens", "the camera is still"):
        assert wrong not in text


def test_camera_at_rest_is_said_to_rest() -> None:
    said = captions(ClipFacts([], (0.0, 0.0), 1.0, False))
    assert said == {"the camera is still", "the camera does not move", "a static camera"}


def test_objects_that_do_the_same_are_counted() -> None:
    same = [ObjectFacts((9.0, 0.0), True, GREY)] * 3
    said = " | ".join(captions(ClipFacts(same, (0, 0), 1.0, False)))
    assert "three objects move right" in said
    rest = [ObjectFacts((0.0, 0.0), False, GREY)] * 2
    said = " | ".join(captions(ClipFacts(rest, (0, 0), 1.0, False), 1000))
    assert "two objects do not move" in said and "two objects rest" in said


def test_something_that_comes_back_moves_about() -> None:
    about = [ObjectFacts((0.5, 0.0), True, GREY)]
    assert any("moves about" in caption for caption in captions(ClipFacts(about, (0, 0), 1.0, False)))


def test_a_new_colour_is_always_told_of_the_thing_that_takes_it() -> None:
    things = [ObjectFacts((9.0, 0.0), True, (0.9, 0.1, 0.1), turns="blue"), ObjectFacts((0.0, 0.0), False, GREY)]
    said = captions(ClipFacts(things, (0, 0), 1.0, False))
    assert all("the red object " in caption and "blue" in caption for caption in said)
    assert any(caption == "the red object turns blue" for caption in said)


def test_effects_are_told_together() -> None:
    said = captions(ClipFacts([], (0, 0), 1.0, True, fog=True, snow=True))
    for words in (DARK, FOG, _SNOW):
        assert all(any(word in caption for word in words) for caption in said)


def test_what_bends_in_its_place_is_not_called_still() -> None:
    bent = [ObjectFacts((0.0, 0.0), False, GREY, bends=True)]
    said = " | ".join(captions(ClipFacts(bent, (0, 0), 1.0, False)))
    assert "one object bends" in said and "rests" not in said and "holds" not in said


def test_an_orbiting_camera_is_not_called_still() -> None:
    said = captions(ClipFacts([], (0.0, 0.0), 1.0, False, orbit=True))
    assert all("camera" in caption or "viewpoint" in caption for caption in said)
    assert not any("still" in caption or "static" in caption for caption in said)
