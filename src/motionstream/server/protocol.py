"""The protocol between page and server: JSON control both ways, binary media to the viewer (docs/protocol.md).

What arrives is not trusted: every message is of bounded size, every field is checked, and what is wrong is said in a
sentence that names it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import simplejpeg

from motionstream.server.session import (
    Chunk,
    Command,
    Control,
    Erase,
    Limits,
    Move,
    Pause,
    Pin,
    Press,
    Prompt,
    Release,
    Resume,
    Stop,
)

VERSION = 1

MAX_MESSAGE = 32 * 1024  # bytes of one message from the viewer
MAX_PROMPT = 500  # characters
MAX_SAMPLES = 256  # of the pointer in one message
MAX_PIXELS = 1e5  # a coordinate beyond this is a broken message
MAX_SEED = 2**31 - 1

MAGIC = b"MS"
JPEG = 1  # the kind of a binary message
JPEG_QUALITY = 92

POSITION_STEP = 8  # overlay positions are sent in eighths of a pixel
HIDDEN = -(2**15)


@dataclass(frozen=True)
class Start:
    """The viewer asks for a stream from a picture of the gallery or one it uploaded."""

    picture: str
    prompt: str = ""
    seed: int = 0


class ViewerClock:
    """Puts a viewer's own times on the server's clock.

    A message cannot arrive before it was sent, so the smallest difference seen between arrival and sending is the
    best guess of how the clocks differ; the rest is delay on the way, which must not blur a gesture. The guess may
    grow by ``DRIFT``, so that clocks that run differently do not part.
    """

    DRIFT = 1e-4  # seconds per second, several times what quartz clocks do

    def __init__(self) -> None:
        self._difference = math.inf
        self._seen = 0.0

    def arrived(self, sent: float, now: float) -> None:
        """A message came ``now`` (server's clock), sent at ``sent`` (viewer's clock)."""
        grown = self._difference + self.DRIFT * max(0.0, now - self._seen)
        self._difference, self._seen = min(now - sent, grown), now

    def to_server(self, sent: float, now: float) -> float:
        """A moment of the viewer's clock on the server's, never in the future."""
        return min(now, sent + self._difference) if math.isfinite(self._difference) else now


def parse(text: str, now: float, clock: ViewerClock) -> Start | list[Command]:
    """One message of the viewer: a start, or commands with their times on the server's clock.

    ``now``: when it arrived. Raises ValueError, naming the field and the value, for anything not in the protocol.
    """
    if len(text) > MAX_MESSAGE:
        raise ValueError(f"message of {len(text)} characters; at most {MAX_MESSAGE} are taken")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the message is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the message is a {type(content).__name__}; send a JSON object")
    fields = Fields(content)
    kind = fields.text("type", 32)
    if kind == "start":
        message: Start | list[Command] = _start(fields)
    elif kind in _COMMANDS:
        sent = fields.number("t", 0, 1e12, None)
        if sent is not None:
            clock.arrived(sent, now)
        message = _COMMANDS[kind](
            fields, _Moment(now if sent is None else clock.to_server(sent, now), sent, now, clock)
        )
    else:
        raise ValueError(f"type is {kind!r}; known are start, {', '.join(_COMMANDS)}")
    fields.check_all_read()
    return message


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON has")


@dataclass(frozen=True)
class _Moment:
    """When a message was meant: on the server's clock, on the viewer's; and what other times need."""

    time: float
    sent: float | None
    now: float
    clock: ViewerClock


class Fields:
    """Reads the fields of a message, checking each; `check_all_read` refuses those nobody asked for."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self._read: set[str] = set()

    def _get(self, name: str, default: Any) -> Any:
        self._read.add(name)
        value = self._content.get(name, default)
        if value is ...:
            raise ValueError(f"the message lacks {name!r}")
        return value

    def text(self, name: str, longest: int, default: Any = ...) -> str:
        value = self._get(name, default)
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"{name} is {_short(value)}; give a text of at most {longest} characters")
        return value

    def number(self, name: str, low: float, high: float, default: Any = ...) -> Any:
        value = self._get(name, default)
        return value if value is None and default is None else _number(name, value, low, high)

    def integer(self, name: str, low: int, high: int, default: Any = ...) -> int:
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{name} is {_short(value)}; give a whole number from {low} to {high}")
        return value

    def samples(self, name: str) -> list[list[float]]:
        value = self._get(name, ...)
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_SAMPLES:
            raise ValueError(f"{name} is {_short(value)}; give 1 to {MAX_SAMPLES} samples [x, y, t]")
        for sample in value:
            if not isinstance(sample, list) or len(sample) != 3:
                raise ValueError(f"{name} has {_short(sample)}; a sample is [x, y, t]")
            for axis, most in zip("xyt", (MAX_PIXELS, MAX_PIXELS, 1e12), strict=True):
                _number(f"{name}' {axis}", sample["xyt".index(axis)], -most, most)
        return value

    def check_all_read(self) -> None:
        unknown = sorted(set(self._content) - self._read)
        if unknown:
            raise ValueError(f"unknown field {_short(unknown[0])}")


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} is {_short(value)}; give a number from {low:g} to {high:g}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."


def _start(fields: Fields) -> Start:
    version = fields.integer("protocol", 0, 10**6)
    if version != VERSION:
        raise ValueError(f"protocol is {version}, this server speaks {VERSION}; reload the page")
    fields.number("t", 0, 1e12, None)
    seed = fields.integer("seed", 0, MAX_SEED, 0)
    return Start(fields.text("picture", 64), fields.text("prompt", MAX_PROMPT, ""), seed)


def _press(kind: type[Press]) -> Callable[[Fields, _Moment], list[Command]]:
    def read(fields: Fields, at: _Moment) -> list[Command]:
        x, y = (fields.number(axis, -MAX_PIXELS, MAX_PIXELS) for axis in "xy")
        spacing, radius = fields.number("spacing", 1, 1000, 8.0), fields.number("radius", 0, 1000, 16.0)
        number = _gesture(fields)
        return [kind(time=at.time, sent=at.sent, gesture=number, x=x, y=y, spacing=spacing, radius=radius)]

    return read


def _move(fields: Fields, at: _Moment) -> list[Command]:
    number = _gesture(fields)
    return [
        Move(time=at.clock.to_server(t, at.now), sent=t, gesture=number, x=float(x), y=float(y))
        for x, y, t in fields.samples("samples")
    ]


def _gesture(fields: Fields) -> int:
    return fields.integer("gesture", 0, 2**31 - 1)


_COMMANDS: dict[str, Callable[[Fields, _Moment], list[Command]]] = {
    "press": _press(Press),
    "pin": _press(Pin),
    "move": _move,
    "release": lambda fields, at: [Release(time=at.time, sent=at.sent, gesture=_gesture(fields))],
    "erase": lambda fields, at: [Erase(time=at.time, sent=at.sent, gesture=_gesture(fields))],
    "prompt": lambda fields, at: [Prompt(time=at.time, sent=at.sent, text=fields.text("prompt", MAX_PROMPT))],
    "pause": lambda fields, at: [Pause(time=at.time)],
    "resume": lambda fields, at: [Resume(time=at.time)],
    "stop": lambda fields, at: [Stop(time=at.time)],
}


# ------------------------------------------------------------------------------------------------- to the viewer


def hello(model: str, size: tuple[int, int], fps: float, trained: bool, limits: Limits) -> dict[str, Any]:
    """The server's first message on every connection."""
    return {
        "type": "hello",
        "protocol": VERSION,
        "model": model,
        "size": list(size),
        "fps": fps,
        "trained": trained,
        "codecs": ["jpeg"],
        "limits": {"prompt": MAX_PROMPT, "samples": MAX_SAMPLES, "sessions": limits.sessions},
    }


def control_message(event: Control) -> dict[str, Any]:
    """What the engine says other than frames, as JSON: started, accepted, failed, ended."""
    return {"type": type(event).__name__.lower(), **asdict(event)}


def chunk_message(chunk: Chunk) -> bytes:
    """A chunk as one binary message.

    ``MS``, version (1 byte), kind (1 byte), length of the header (4 bytes, little-endian), header (JSON), overlay
    positions (int16 little-endian, T x N x 2, eighths of a pixel, x = -32768 where hidden), the frames' JPEGs.
    """
    pictures = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=JPEG_QUALITY, colorsubsampling="444")
        for frame in chunk.frames
    ]
    header = {
        "first": chunk.first,
        "frames": len(pictures),
        "fps": chunk.fps,
        "latency": round(chunk.latency, 5),
        "sent": chunk.sent,
        "dropped": chunk.dropped,
        "points": chunk.positions.shape[1],
        "groups": [[group.gesture, group.kind, group.count] for group in chunk.groups],
        "sizes": [len(picture) for picture in pictures],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    prefix = struct.pack("<2sBBI", MAGIC, VERSION, JPEG, len(text))
    return b"".join([prefix, text, _overlay_bytes(chunk.positions), *pictures])


def _overlay_bytes(positions: np.ndarray) -> bytes:
    hidden = np.isnan(positions).any(axis=-1, keepdims=True)
    steps = np.clip(np.nan_to_num(positions) * POSITION_STEP, HIDDEN + 1, 2**15 - 1).round()
    return np.where(hidden, HIDDEN, steps).astype("<i2").tobytes()
