"""Short English captions of the motion in a rendered clip."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

STILL = 2.0  # net motion over a clip, in pixels, below which a thing has no direction and the camera no pan

_HOLDS = ("stays still", "holds still", "does not move", "rests")
_MOVES = ("moves", "goes", "slides", "drifts")
DARK = (
    "it gets dark",
    "it is getting dark",
    "night falls",
    "the light fades",
    "the scene darkens",
    "the light goes down",
)
_SNOW = ("it snows", "it is snowing", "snow falls", "snowflakes come down")
FOG = ("it gets foggy", "fog rolls in", "it grows misty", "fog covers everything")
TURNS = ("turns {}", "becomes {}", "slowly turns {}", "changes to {}")
_BENDS = ("bends", "warps", "twists")
_CAMERA_STILL = ("the camera is still", "the camera does not move", "a static camera")
_PAN = ("the camera pans {}", "the camera moves {}", "the view pans {}")
_CLOSER = ("the camera zooms in", "the view moves closer", "a slow zoom in")
_FARTHER = ("the camera zooms out", "the view widens", "a slow zoom out")
_ORBIT = ("the camera moves around", "the camera circles the scene", "the viewpoint shifts sideways")
_DIRECTIONS = (
    "right",
    "down and right",
    "down",
    "down and left",
    "left",
    "up and left",
    "up",
    "up and right",
)
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


@dataclass(frozen=True)
class ObjectFacts:
    """What a caption may say about one sprite. motion: net world motion in pixels (y down)."""

    motion: tuple[float, float]
    moved: bool
    colour: tuple[float, float, float]
    bends: bool = False
    turns: str | None = None  # name of its final colour, if that changes


@dataclass(frozen=True)
class ClipFacts:
    """What a caption may say about a clip. pan: the camera's net motion in world pixels; zoom: final magnification."""

    objects: Sequence[ObjectFacts]
    pan: tuple[float, float]
    zoom: float
    dark: bool
    fog: bool = False
    snow: bool = False
    orbit: bool = False  # the camera moves sideways, aimed at a fixed point


def direction(motion: tuple[float, float]) -> str:
    """The nearest of the eight directions, in words, for a motion in pixels with y pointing down."""
    octant = round(math.atan2(motion[1], motion[0]) / (math.pi / 4)) % 8
    return _DIRECTIONS[octant]


def colour_word(colour: tuple[float, float, float]) -> str | None:
    """The everyday name of a colour with channels in [0, 1], or None if it is ambiguous."""
    high, low = max(colour), min(colour)
    if high < 0.18:
        return "black"
    if low > 0.82:
        return "white"
    if high - low < 0.08:
        return "grey"
    if high - low < 0.25 or high < 0.35:
        return None
    red, green, blue = colour
    alpha, beta = red - 0.5 * (green + blue), math.sqrt(3) / 2 * (green - blue)
    hue = math.degrees(math.atan2(beta, alpha)) % 360
    names = ((15, "red"), (42, "orange"), (68, "yellow"), (160, "green"), (195, None), (255, "blue"))
    for limit, name in names:
        if hue < limit:
            return name
    return "purple" if hue < 300 else "pink" if hue < 340 else "red"


def _object_phrase(facts: ObjectFacts, rng: random.Random) -> tuple[str, str]:
    """(noun, predicate), for example ("a red object", "moves left")."""
    name = colour_word(facts.colour) if rng.random() < 0.5 else None
    article = "an" if name == "orange" else "a"
    noun = f"{article} {name} object" if name else "one object"
    if facts.bends and math.hypot(*facts.motion) < STILL:
        return noun, rng.choice(_BENDS)
    if not facts.moved:
        return noun, rng.choice(_HOLDS)
    if math.hypot(*facts.motion) < STILL:
        return noun, "moves about"
    return noun, f"{rng.choice(_MOVES)} {direction(facts.motion)}"


def _objects_clause(objects: Sequence[ObjectFacts], rng: random.Random) -> str:
    phrases = [_object_phrase(facts, rng) for facts in objects]
    if len({predicate for _, predicate in phrases}) == 1 and len(phrases) in _NUMBERS:
        verb, _, rest = phrases[0][1].partition(" ")
        plural = {"does": "do", "goes": "go"}.get(verb, verb.removesuffix("s"))
        return f"{_NUMBERS[len(phrases)]} objects {plural} {rest}".strip()
    parts = []
    for index, (noun, predicate) in enumerate(phrases):
        if index and noun == "one object":
            noun = "another"
        parts.append(f"{noun} {predicate}")
    return ", ".join(parts)


def _camera_clause(facts: ClipFacts, rng: random.Random) -> str:
    parts = []
    if math.hypot(*facts.pan) >= STILL:
        parts.append(rng.choice(_PAN).format(direction(facts.pan)))
    if abs(math.log(facts.zoom)) > 0.02:
        parts.append(rng.choice(_CLOSER if facts.zoom > 1 else _FARTHER))
    if facts.orbit:
        parts.append(rng.choice(_ORBIT))
    return " and ".join(parts) or rng.choice(_CAMERA_STILL)


def _effects(facts: ClipFacts) -> list[Sequence[str]]:
    """For each effect of the clip that only the caption announces, its possible wordings."""
    effects: list[Sequence[str]] = []
    for happens, sentences in ((facts.dark, DARK), (facts.fog, FOG), (facts.snow, _SNOW)):
        if happens:
            effects.append(sentences)
    for thing in facts.objects:
        if thing.turns:
            name = colour_word(thing.colour)
            nouns = (f"the {name} object",) if name else ("an object", "one object")
            effects.append([f"{noun} {turn.format(thing.turns)}" for noun in nouns for turn in TURNS])
    return effects


def describe(facts: ClipFacts, rng: random.Random) -> str:
    """A sentence of randomly selected true clauses. Effects that only the caption announces (darkness, fog, snow, a
    change of colour) are always mentioned if they occur, and only then."""
    clauses = []
    if facts.objects and rng.random() < 0.7:
        clauses.append(_objects_clause(facts.objects, rng))
    if rng.random() < 0.5:
        clauses.append(_camera_clause(facts, rng))
    effects = _effects(facts)
    if effects and rng.random() < 0.4:
        clauses = []
    for sentences in effects:
        clauses.insert(rng.randint(0, len(clauses)), rng.choice(sentences))
    if not clauses:
        clauses.append(_camera_clause(facts, rng))
    return ", ".join(clauses)
