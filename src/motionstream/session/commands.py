"""The commands of viewers to a running stream, and their JSON form on the wire and in recordings.

Points are (x, y) pixels of the stream's picture with (0, 0) the centre of the top-left pixel; times are seconds. The
dataclasses are the schema: each field is annotated with a rule for its values (see fields.py); fields without a rule
are not written.
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
MAX_SAMPLES = 256  # pointer samples per message
MAX_PATH = 512  # points of a drawn line
MAX_SEED = 2**31 - 1
MAX_TIME = 1e12  # seconds, of any clock
MAX_SOURCE = 1280  # pixels per side of a followed source

TIME = Number(-MAX_TIME, MAX_TIME)

Pixel = Annotated[float, Number(-MAX_PIXELS, MAX_PIXELS)]
GestureNumber = Annotated[int, Whole(0, 2**31 - 1)]


@dataclass(frozen=True, kw_only=True)
class Command:
    """``time``: when it was given, on the receiver's clock. ``sent``: the same moment on the viewer's clock; it is
    returned with the chunk that shows the command, so that the viewer can measure the latency."""

    time: float
    sent: float | None = None

    @property
    def name(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, kw_only=True)
class Press(Command):
    """Begin a drag: a grid of points ``spacing`` apart within ``radius`` pixels. The viewer chooses the number
    ``gesture``."""

    gesture: GestureNumber
    x: Pixel
    y: Pixel
    spacing: Annotated[float, Number(1, 1000)] = 8.0
    radius: Annotated[float, Number(0, 1000)] = 16.0
    object: Annotated[int | None, Whole(0, 2**31 - 1)] = None  # of a `Select`: its mask instead of the radius


@dataclass(frozen=True, kw_only=True)
class Pin(Press):
    """Pin a static grid, which keeps its content in place."""


@dataclass(frozen=True, kw_only=True)
class Path(Command):
    """Move a grid along a drawn line, in ``duration`` seconds or at ``speed`` pixels per second.

    It begins in the next chunk, waits at the first point for ``delay`` seconds of the video, and at the end holds or,
    with ``release``, is released.
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
    """The pointer's position in a drag. Ignored if the gesture has ended."""

    gesture: GestureNumber
    x: Pixel
    y: Pixel


@dataclass(frozen=True, kw_only=True)
class Release(Command):
    """Release a drag, a pin or a path. Ignored if the gesture has ended."""

    gesture: GestureNumber


@dataclass(frozen=True, kw_only=True)
class Erase(Command):
    """Remove a gesture from the next chunk on."""

    gesture: GestureNumber


@dataclass(frozen=True, kw_only=True)
class Prompt(Command):
    """Set the prompt from the next chunk on."""

    prompt: Annotated[str, Text(MAX_PROMPT)]


@dataclass(frozen=True, kw_only=True)
class Steps(Command):
    """Set the number of denoising steps from the next chunk on."""

    steps: Annotated[int, Whole(1, MAX_STEPS)]


@dataclass(frozen=True, kw_only=True)
class Camera(Command):
    """Set the camera's velocities from now on, see ``CameraMove``. Its motion is added to all gestures."""

    pan: Annotated[tuple[float, float], Row(2, -1, 1)] = (0.0, 0.0)
    orbit: Annotated[tuple[float, float], Row(2, -1, 1)] = (0.0, 0.0)
    dolly: Annotated[float, Number(-1, 1)] = 0.0
    zoom: Annotated[float, Number(-1, 1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Select(Command):
    """Select the object at (x, y) or in a box (left, top, right, bottom) of the last frame, or the area within an
    ``outline``. Gestures refer to it by the number ``request``, which the viewer chooses. Recordings contain the
    outline that was found."""

    request: Annotated[int, Whole(0, 2**31 - 1)]
    x: Annotated[float | None, Number(-MAX_PIXELS, MAX_PIXELS)] = None
    y: Annotated[float | None, Number(-MAX_PIXELS, MAX_PIXELS)] = None
    box: Annotated[tuple[float, float, float, float] | None, Row(4, -MAX_PIXELS, MAX_PIXELS)] = None
    outline: Annotated[
        tuple[tuple[float, float], ...] | None, Rows("xy", MAX_PATH, (MAX_PIXELS, MAX_PIXELS), low=3)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Follow(Command):
    """Transfer a source's motion to the picture from the next chunk on: an uploaded ``video`` (its name) or the
    viewer's ``webcam`` ((height, width) of its frames, which follow as `WebcamFrame`).

    ``align``: up to two pairs of corresponding points [x, y of the source, x, y of the picture] (see `align` in
    tracks/transfer.py). ``repeat``: loop the video. Recordings contain `Followed` instead.
    """

    video: Annotated[str | None, Text(64)] = None
    webcam: Annotated[tuple[int, int] | None, Wholes(2, 16, MAX_SOURCE)] = None
    align: Annotated[tuple[tuple[float, ...], ...], Rows("xyxy", 2, (MAX_PIXELS,) * 4, low=0)] = ()
    repeat: Annotated[bool, Flag()] = False
    source: Any = None  # the server's video of that name; never written

    def __post_init__(self) -> None:
        if (self.video is None) == (self.webcam is None):
            raise ValueError("follow what? give 'video' or 'webcam', one of them")


@dataclass(frozen=True, kw_only=True)
class WebcamFrame(Command):
    """A frame of the followed webcam, taken at ``sent``. A binary message, never JSON."""

    sent: float
    jpeg: bytes

    @property
    def name(self) -> str:
        """The name in refusals on the wire."""
        return "look"


@dataclass(frozen=True, kw_only=True)
class Unfollow(Command):
    """Stop following a source: its points are released with the next chunk."""


@dataclass(frozen=True, kw_only=True)
class Followed(Command):
    """A followed source's points in the next chunk (see followed.py). Occurs only in recordings."""

    points: Annotated[str, Text(MAX_TEXT)]


@dataclass(frozen=True, kw_only=True)
class Restart(Command):
    """Restart from the last frame with the next chunk; gestures stay. ``seed``: of the noise from there on."""

    seed: Annotated[int | None, Whole(0, MAX_SEED)] = None


@dataclass(frozen=True, kw_only=True)
class Refresh(Command):
    """Set whether the attention sink is refreshed automatically when the camera has left its view."""

    adaptive: Annotated[bool, Flag()]


@dataclass(frozen=True, kw_only=True)
class Pause(Command):
    """Generate no chunks until resumed."""


@dataclass(frozen=True, kw_only=True)
class Resume(Command):
    """Continue a paused stream."""


@dataclass(frozen=True, kw_only=True)
class Stop(Command):
    """End the stream."""


LIVE = (Follow, Unfollow, Pause, Resume, Stop)
"""Commands that never occur in recordings: they affect only the timing of frames, or are recorded as `Followed`."""
RECORDED = (Followed,)
"""Commands that occur only in recordings."""
_BOTH = (Press, Pin, Path, Move, Release, Erase, Camera, Select, Prompt, Steps, Restart, Refresh)
COMMANDS: dict[str, type[Command]] = {kind.__name__.lower(): kind for kind in (*_BOTH, *LIVE, *RECORDED)}

# --------------------------------------------------------------------------------------------------------- JSON


@dataclass(frozen=True, kw_only=True)
class _Moves(Command):
    """Several samples of one pointer, the written form of `Move`."""

    gesture: GestureNumber
    samples: Annotated[
        tuple[tuple[float, float, float], ...], Rows("xyt", MAX_SAMPLES, (MAX_PIXELS, MAX_PIXELS, MAX_TIME))
    ]


def from_json(content: Mapping[str, Any], at: Callable[[float | None], tuple[float, float | None]]) -> list[Command]:
    """Read one message, ``{"type": name, "t": when, ...}``. A "move" has several samples; any other is one command.

    ``at`` maps a message's ``t`` (None if missing) to the command's ``time`` and ``sent``. Raises ValueError naming the
    field and the value for anything that is not in the schema.
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
    """Messages for commands, with their ``time`` as ``t``; consecutive samples of one pointer form one message."""
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
