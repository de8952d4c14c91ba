"""The protocol between page and server: JSON control both ways, binary media to the viewer (docs/protocol.md).

What arrives is not trusted: every message is of bounded size, every field is checked, and what is wrong is said in a
sentence that names it.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import simplejpeg

from motionstream.server.session import Chunk, Control, Limits
from motionstream.session.commands import (
    COMMANDS,
    MAX_PROMPT,
    MAX_SAMPLES,
    MAX_SEED,
    MAX_STEPS,
    Command,
    from_json,
    read_time,
)
from motionstream.session.fields import Text, Whole, read_fields

VERSION = 2

MAX_MESSAGE = 32 * 1024  # bytes of one message from the viewer

MAGIC = b"MS"
JPEG = 1  # the kind of a binary message
JPEG_QUALITY = 92

POSITION_STEP = 8  # overlay positions are sent in eighths of a pixel
HIDDEN = -(2**15)


@dataclass(frozen=True)
class Start:
    """The viewer asks for a stream: from a picture of the gallery or one it uploaded, or from a recording.

    The latter has the recording's settings, and goes on from where chunk ``chunk`` began, or from its end when None.
    """

    picture: Annotated[str | None, Text(64)] = None
    prompt: Annotated[str, Text(MAX_PROMPT)] = ""
    seed: Annotated[int, Whole(0, MAX_SEED)] = 0
    steps: Annotated[int | None, Whole(1, MAX_STEPS)] = None  # the model's own when None
    recording: Annotated[str | None, Text(64)] = None
    chunk: Annotated[int | None, Whole(0, 10**9)] = None

    def __post_init__(self) -> None:
        if (self.picture is None) == (self.recording is None):
            raise ValueError("the message lacks 'picture' (or 'recording'); give one of them")


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
    sent = read_time(content)
    if sent is not None:
        clock.arrived(sent, now)
    if content.get("type") == "start":
        return _start(content)
    return from_json(content, lambda t: (now, None) if t is None else (clock.to_server(t, now), t))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON has")


def _start(content: dict[str, Any]) -> Start:
    if "protocol" not in content:
        raise ValueError("the message lacks 'protocol'")
    version = Whole(0, 10**6).check("protocol", content["protocol"])
    if version != VERSION:
        raise ValueError(f"protocol is {version}, this server speaks {VERSION}; reload the page")
    return Start(**read_fields(Start, content, besides=("type", "t", "protocol")))


# ------------------------------------------------------------------------------------------------- to the viewer


def hello(
    model: str, size: tuple[int, int], fps: float, trained: bool, limits: Limits, abilities: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The server's first message on every connection; ``abilities``: what it can beyond the commands ("recording")."""
    return {
        "type": "hello",
        "protocol": VERSION,
        "model": model,
        "size": list(size),
        "fps": fps,
        "trained": trained,
        "codecs": ["jpeg"],
        "capabilities": sorted([*COMMANDS, *abilities]),
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
        "chunk": chunk.chunk,
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
