"""What a viewer may ask of a running stream, and how it is written as JSON: on the wire and in recordings alike.

Points are (x, y) pixels of the stream's picture with (0, 0) the centre of the top-left pixel; times are seconds. The
dataclasses are the schema: a field says what it may hold (see fields.py), one without such a rule is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from motionstream.config import MAX_STEPS
from motionstream.session.fields import Choice, Flag, Number, Row, Rows, Text, Whole, Wholes, read_fields, rules
from motionstream.session.followed import MAX_TEXT

MAX_PIXELS = 1e5  # a coordinate beyond this is a broken message
MAX_PROMPT = 500  # characters
MAX_SAMPLES = 256  # of the pointer in one message
MAX_PATH = 512  # points of a drawn line
MAX_SEED = 2**31 - 1
MAX_TIME = 1e12  # seconds, of any clock
MAX_SOURCE = 1280  # pixels of a side of what is followed

TIME = Number(-MAX_TIME, MAX_TIME)

Pixel = Annotated[float, Number(-MAX_PIXELS, MAX_PIXELS)]
GestureNumber = Annotated[int, Whole(0, 2**31 - 1)]


@dataclass(frozen=True, kw_only=True)
class Command:
    """``time``: when it was meant, on the clock of who obeys it. ``sent``: the same moment on the viewer's clock; the
    chunk that shows it gives it back, so that the viewer can tell how long it took."""

    time: float
    sent: float | None = None

    @property
    def name(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, kw_only=True)
class Press(Command):
    """Begin to drag: a grid of points ``spacing`` apart within ``radius`` pixels. The viewer chooses the number."""

    gesture: GestureNumber
    x: Pixel
    y: Pixel
    spacing: Annotated[float, Number(1, 1000)] = 8.0
    radius: Annotated[float, Number(0, 1000)] = 16.0
    object: Annotated[int | None, Whole(0, 2**31 - 1)] = None  # of a `Select`: its mask instead of the radius


@dataclass(frozen=True, kw_only=True)
class Pin(Press):
    """A static grid: what it covers stays where it is."""


@dataclass(frozen=True, kw_only=True)
class Path(Command):
    """A grid that walks a line drawn beforehand, in ``duration`` seconds or at ``speed`` pixels a second.

    It begins in the next chunk, waits at the first point for ``delay`` seconds of the video, and at the end holds, or
    is released (``release``).
    """

    gesture: GestureNumber
    points: Annotated[tuple[tuple[float, float], ...], Rows("xy", MAX_PATH, (MAX_PIXELS, MAX_PIXELS))]
    duration: Annotated[float | None, Number(0.01, 3600)] = None
    speed: Annotated[float | None, Number(0.01, 1e6)] = None
    delay: Annotated[float, Number(0, 3600)] = 0.0
    ease: Annotated[Literal["linear", "smooth"], Choice(("linear", "smooth"))] = "linear"
    release: Annotated[bool, Flag()] = False
    spacing: Annotated[float, Number(1, 1000)] = 8.0
    radius: Annotated[float, Number(0, 1000)] = 16.0
    object: Annotated[int | None, Whole(0, 2**31 - 1)] = None  # of a `Select`: its mask instead of the radius


@dataclass(frozen=True, kw_only=True)
class Move(Command):
    """Where the pointer of a drag is. Moves of gestures that are gone already are ignored."""

    gesture: GestureNumber
    x: Pixel
    y: Pixel


@dataclass(frozen=True, kw_only=True)
class Release(Command):
    """Let a drag, a pin or a path go. Ignored when it is gone already."""

    gesture: GestureNumber


@dataclass(frozen=True, kw_only=True)
class Erase(Command):
    """Take a gesture away from the next chunk on."""

    gesture: GestureNumber


@dataclass(frozen=True, kw_only=True)
class Prompt(Command):
    """Another sentence, from the next chunk on."""

    prompt: Annotated[str, Text(MAX_PROMPT)]


@dataclass(frozen=True, kw_only=True)
class Steps(Command):
    """Another number of denoising steps, from the next chunk on."""

    steps: Annotated[int, Whole(1, MAX_STEPS)]


@dataclass(frozen=True, kw_only=True)
class Camera(Command):
    """How the camera moves from now on: velocities, see ``CameraMove``. Layered over all gestures."""

    pan: Annotated[tuple[float, float], Row(2, -1, 1)] = (0.0, 0.0)
    orbit: Annotated[tuple[float, float], Row(2, -1, 1)] = (0.0, 0.0)
    dolly: Annotated[float, Number(-1, 1)] = 0.0
    zoom: Annotated[float, Number(-1, 1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Select(Command):
    """Find the object at (x, y), or in a box (left, top, right, bottom), of the last frame made, or take what is within
    an ``outline``; the viewer chooses the number ``request``, by which gestures then take hold of it. Recordings hold
    the outline that was found."""

    request: Annotated[int, Whole(0, 2**31 - 1)]
    x: Annotated[float | None, Number(-MAX_PIXELS, MAX_PIXELS)] = None
    y: Annotated[float | None, Number(-MAX_PIXELS, MAX_PIXELS)] = None
    box: Annotated[tuple[float, float, float, float] | None, Row(4, -MAX_PIXELS, MAX_PIXELS)] = None
    outline: Annotated[
        tuple[tuple[float, float], ...] | None, Rows("xy", MAX_PATH, (MAX_PIXELS, MAX_PIXELS), low=3)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Follow(Command):
    """From the next chunk on the picture moves as a source does: an uploaded ``video`` (its name), or the viewer's
    ``webcam``, (height, width) of its frames, which follow one by one.

    ``align``: up to two of [x, y of the source, x, y of the picture] that lie on one another (see `align` in
    tracks/transfer.py). ``repeat``: the video begins again at its end. Recordings hold `Followed` instead.
    """

    video: Annotated[str | None, Text(64)] = None
    webcam: Annotated[tuple[int, int] | None, Wholes(2, 16, MAX_SOURCE)] = None
    align: Annotated[tuple[tuple[float, ...], ...], Rows("xyxy", 2, (MAX_PIXELS,) * 4, low=0)] = ()
    repeat: Annotated[bool, Flag()] = False
    source: Any = None  # the video that the server has by that name; never written

    def __post_init__(self) -> None:
        if (self.video is None) == (self.webcam is None):
            raise ValueError("follow what? give 'video' or 'webcam', one of them")


@dataclass(frozen=True, kw_only=True)
class WebcamFrame(Command):
    """A frame of the webcam that is followed, taken at ``sent``. A binary message of its own, never JSON."""

    sent: float
    jpeg: bytes

    @property
    def name(self) -> str:
        """As a refusal of one calls it on the wire."""
        return "look"


@dataclass(frozen=True, kw_only=True)
class Unfollow(Command):
    """The picture moves by itself no more: the source's points are let go with the next chunk."""


@dataclass(frozen=True, kw_only=True)
class Followed(Command):
    """Where a followed source's points are in the next chunk (see followed.py). Recordings alone hold it."""

    points: Annotated[str, Text(MAX_TEXT)]


@dataclass(frozen=True, kw_only=True)
class Restart(Command):
    """The last frame becomes the picture, from the next chunk on; gestures stay. ``seed``: of the noise from there."""

    seed: Annotated[int | None, Whole(0, MAX_SEED)] = None


@dataclass(frozen=True, kw_only=True)
class Refresh(Command):
    """Whether the attention sink is refreshed by itself when the camera has left the first view."""

    adaptive: Annotated[bool, Flag()]


@dataclass(frozen=True, kw_only=True)
class Pause(Command):
    """Make no more chunks until resumed."""


@dataclass(frozen=True, kw_only=True)
class Resume(Command):
    """Go on where the stream was paused."""


@dataclass(frozen=True, kw_only=True)
class Stop(Command):
    """End the stream."""


LIVE = (Follow, Unfollow, Pause, Resume, Stop)
"""Those that a viewer gives and no recording holds: they change when frames come, or become `Followed`."""
RECORDED = (Followed,)
"""Those that recordings hold and no viewer gives."""
_BOTH = (Press, Pin, Path, Move, Release, Erase, Camera, Select, Prompt, Steps, Restart, Refresh)
COMMANDS: dict[str, type[Command]] = {kind.__name__.lower(): kind for kind in (*_BOTH, *LIVE, *RECORDED)}

# --------------------------------------------------------------------------------------------------------- JSON


@dataclass(frozen=True, kw_only=True)
class _Moves(Command):
    """Several samples of one pointer, as they are written."""

    gesture: GestureNumber
    samples: Annotated[
        tuple[tuple[float, float, float], ...], Rows("xyt", MAX_SAMPLES, (MAX_PIXELS, MAX_PIXELS, MAX_TIME))
    ]


def from_json(content: Mapping[str, Any], at: Callable[[float | None], tuple[float, float | None]]) -> list[Command]:
    """Read one message: ``{"type": name, "t": when, ...}``; "move" has several samples, the others are one command.

    ``at`` is given a message's ``t`` (None where it has none) and answers the command's ``time`` and ``sent``. Raises
    ValueError, naming the field and the value, for anything that is not in the schema.
    """
    if "type" not in content:
        raise ValueError("the message lacks 'type'")
    name = Text(32).check("type", content["type"])
    if name not in COMMANDS:
        raise ValueError(f"type is {name!r}; known are {', '.join(COMMANDS)}")
    kind = COMMANDS[name]
    values = read_fields(_Moves if kind is Move else kind, content, besides=("type", "t"))
    t = read_time(content)
    if kind is not Move:
        time, sent = at(t)
        return [kind(time=time, sent=sent, **values)]
    moves: list[Command] = []
    for x, y, t in values["samples"]:
        time, sent = at(t)
        moves.append(Move(time=time, sent=sent, gesture=values["gesture"], x=x, y=y))
    return moves


def read_time(content: Mapping[str, Any]) -> float | None:
    """The ``t`` of a message, if it has one."""
    return None if content.get("t") is None else TIME.check("t", content["t"])


def to_json(commands: Iterable[Command]) -> list[dict[str, Any]]:
    """The messages of some commands, with ``time`` for ``t``; neighbouring samples of one pointer are one message."""
    messages: list[dict[str, Any]] = []
    for command in commands:
        assert COMMANDS.get(command.name) is type(command), command
        if not isinstance(command, Move):
            kind: type = type(command)
            fields = {name: getattr(command, name) for name in rules(kind)}
            messages.append({"type": command.name, "t": command.time, **fields})
            continue
        sample = [command.x, command.y, command.time]
        last = messages[-1] if messages else {}
        joins = last.get("type") == "move" and last["gesture"] == command.gesture
        if joins and len(last["samples"]) < MAX_SAMPLES:
            last["samples"].append(sample)
        else:
            messages.append({"type": "move", "gesture": command.gesture, "samples": [sample]})
    return messages
