"""The protocol between page and server: JSON control both ways, binary media to the viewer (docs/protocol.md).

Messages are not trusted: their size is bounded, every field is checked, and errors name the field and the value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from motionstream import wire
from motionstream.config import MAX_STEPS
from motionstream.server.media import CODECS, Encoded
from motionstream.server.session import Chunk, Control, Limits
from motionstream.server.sources import MAX_JPEG
from motionstream.session.commands import (
    COMMANDS,
    MAX_PROMPT,
    MAX_SAMPLES,
    MAX_SEED,
    RECORDED,
    TIME,
    Command,
    from_json,
    read_time,
)
from motionstream.session.fields import Flag, Number, Text, Whole, Words, read_fields
from motionstream.wire import VERSION

MAX_MESSAGE = 32 * 1024  # characters per message from the viewer


Codecs = Annotated[tuple[str, ...], Words(8, 16)]  # codecs that the viewer decodes, best first


@dataclass(frozen=True)
class Start:
    """Request for a stream from a picture, of the gallery or uploaded, or from a recording.

    A recording determines all settings; the stream continues from the beginning of ``chunk``, or from its end when
    None.
    """

    picture: Annotated[str | None, Text(64)] = None
    prompt: Annotated[str, Text(MAX_PROMPT)] = ""
    seed: Annotated[int, Whole(0, MAX_SEED)] = 0
    steps: Annotated[int | None, Whole(1, MAX_STEPS)] = None  # the model's own when None
    depth: Annotated[str | None, Text(64)] = None  # name of the picture's uploaded depth map
    recording: Annotated[str | None, Text(64)] = None
    chunk: Annotated[int | None, Whole(0, 10**9)] = None
    codecs: Codecs = ("jpeg",)

    def __post_init__(self) -> None:
        if (self.picture is None) == (self.recording is None):
            raise ValueError("the message lacks 'picture' (or 'recording'); give one of them")
        if self.recording is not None and self.depth is not None:
            raise ValueError("a recording has its own depth; give 'depth' with a 'picture' alone")


@dataclass(frozen=True)
class Rejoin:
    """Request to continue a lost session, by the secret from its `Started` message."""

    session: Annotated[str, Text(64)]
    codecs: Codecs = ("jpeg",)


@dataclass(frozen=True)
class Received:
    """Acknowledges the chunk that begins with ``frame``. ``delay``: seconds from the latest pointer sample in it to its
    pixels, measured by the viewer."""

    frame: Annotated[int, Whole(0, 2**53)]
    delay: Annotated[float | None, Number(0, 3600)] = None


@dataclass(frozen=True)
class Visible:
    """Whether the viewer's page is visible; a hidden page gets no frames."""

    visible: Annotated[bool, Flag()]


class NoStream(ValueError):
    """A refused request for a stream; ``command``: start or rejoin."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.command = command


@contextmanager
def asked_for_a_stream(command: str) -> Iterator[None]:
    """Turn a ValueError within the block into `NoStream`."""
    try:
        yield
    except ValueError as error:
        raise NoStream(str(error), command) from error


class ViewerClock:
    """Converts a viewer's times to the server's clock.

    A message cannot arrive before it was sent, so the smallest difference between arrival and sending so far estimates
    the difference of the clocks; anything above it is network delay, which must not distort gestures. The estimate may
    grow by ``DRIFT``, to follow clocks of different speed.
    """

    DRIFT = 1e-4  # seconds per second, several times what quartz clocks do

    def __init__(self) -> None:
        self._difference = math.inf
        self._seen = 0.0

    def arrived(self, sent: float, now: float) -> None:
        """Record a message that arrived ``now`` (server's clock) and was sent at ``sent`` (viewer's clock)."""
        grown = self._difference + self.DRIFT * max(0.0, now - self._seen)
        self._difference, self._seen = min(now - sent, grown), now

    def to_server(self, sent: float, now: float) -> float:
        """Convert a time from the viewer's clock to the server's, never in the future."""
        return min(now, sent + self._difference) if math.isfinite(self._difference) else now


def parse(text: str, now: float, clock: ViewerClock) -> Start | Rejoin | Received | Visible | list[Command]:
    """Parse a message of the viewer: about the connection, or commands with their times on the server's clock.

    ``now``: its time of arrival. Raises ValueError naming the field and the value for anything not in the protocol;
    `NoStream` for an invalid request for a stream.
    """
    if len(text) > MAX_MESSAGE:
        raise ValueError(f"message of {len(text)} characters; at most {MAX_MESSAGE} are taken")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the message is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the message is a {type(content).__name__}; send a JSON object")
    sent = read_time(content)
    if sent is not None:
        clock.arrived(sent, now)
    match content.get("type"):
        case "start" | "rejoin" as command:
            with asked_for_a_stream(command):
                _check_version(content)
                kind = Start if command == "start" else Rejoin
                return kind(**read_fields(kind, content, besides=("type", "t", "protocol")))
        case "received":
            return Received(**read_fields(Received, content, besides=("type", "t")))
        case "visible":
            return Visible(**read_fields(Visible, content, besides=("type", "t")))
    commands = from_json(content, lambda t: (now, None) if t is None else (clock.to_server(t, now), t))
    if isinstance(commands[0], RECORDED):
        raise ValueError(f"type is {commands[0].name!r}, which only recordings have")
    return commands


def parse_webcam(data: bytes) -> tuple[float, bytes]:
    """Parse a binary message of the viewer, a webcam frame: its time on the viewer's clock, and the JPEG's bytes.

    ValueError with the reason for anything else.
    """
    message = wire.unpack(data)
    if message.kind != wire.WEBCAM:
        raise ValueError(f"a binary message of kind {message.kind}; viewers send kind {wire.WEBCAM}, webcam frames")
    if len(message.parts) != 1:
        raise ValueError(f"{len(message.parts)} webcam frames in one message; send one")
    (jpeg,) = message.parts
    if len(jpeg) > MAX_JPEG:
        raise ValueError(f"a webcam frame of {len(jpeg)} bytes; send at most {MAX_JPEG}")
    return TIME.check("t", message.header.get("t")), jpeg


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON has")


def _check_version(content: dict[str, Any]) -> None:
    if "protocol" not in content:
        raise ValueError("the message lacks 'protocol'")
    version = Whole(0, 10**6).check("protocol", content["protocol"])
    if version != VERSION:
        raise ValueError(f"protocol is {version}, this server speaks {VERSION}; reload the page")


def choose_codec(wanted: Sequence[str]) -> str:
    """The first of the viewer's codecs that the server supports. ValueError if there is none."""
    for codec in wanted:
        if codec in CODECS:
            return codec
    raise ValueError(f"codecs are {', '.join(wanted) or 'none'}; this server speaks {' and '.join(CODECS)}")


# ------------------------------------------------------------------------------------------------- to the viewer


def hello(
    model: str,
    size: tuple[int, int],
    fps: float,
    trained: bool,
    limits: Limits,
    abilities: tuple[str, ...] = (),
    *,
    grace: float = 0.0,
) -> dict[str, Any]:
    """The server's first message on every connection.

    ``abilities``: capabilities besides the commands, such as "recording". ``grace``: seconds during which a lost
    session can be rejoined.
    """
    return {
        "type": "hello",
        "protocol": VERSION,
        "model": model,
        "size": list(size),
        "fps": fps,
        "trained": trained,
        "codecs": list(CODECS),
        "capabilities": sorted([*(name for name, kind in COMMANDS.items() if kind not in RECORDED), *abilities]),
        "limits": {"prompt": MAX_PROMPT, "samples": MAX_SAMPLES, "sessions": limits.sessions, "grace": grace},
    }


def control_message(event: Control) -> dict[str, Any]:
    """The JSON message of an event other than a chunk: started, accepted, failed, ended, …"""
    return {"type": type(event).__name__.lower(), **asdict(event)}


def media_header(chunk: Chunk, encoded: Encoded, seconds: float) -> dict[str, Any]:
    """The header of a chunk's binary message, the same for all viewers; ``seconds``: its encoding time."""
    header = {
        "chunk": chunk.chunk,
        "first": chunk.first,
        "fps": chunk.fps,
        "latency": round(chunk.latency, 5),
        "stages": {name: round(value, 5) for name, value in {**chunk.stages, "encode": seconds}.items()},
        "sent": chunk.sent,
        "groups": [[group.gesture, group.kind, group.count] for group in chunk.groups],
    }
    return header if encoded.codec is None else {**header, "codec": encoded.codec, "keyframes": encoded.keyframes}
