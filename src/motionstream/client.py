"""A Python client of the studio's server: starts streams, drags, receives frames.

    with Client("http://127.0.0.1:8000", token="...") as client:
        client.start("chelsea", prompt="a cat")
        with client.drag(60, 64) as drag:
            for chunk in client.chunks(seconds=2):
                drag.move(60 + chunk.first, 64)
                show(chunk.frames)

Points are (x, y) pixels of the stream's picture; (0, 0) is the centre of the top-left pixel. Times are seconds of this
process's monotonic clock. The protocol is described in docs/protocol.md.
"""

from __future__ import annotations

import io
import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import av
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from motionstream import wire
from motionstream.yuv import to_rgb

MAX_MESSAGE = 256 * 2**20  # bytes per message, far more than any chunk has; the default of websockets is only 1 MiB


class ServerError(RuntimeError):
    """The server cannot be reached, refused something, or ended the stream. The message is the server's, if any."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Received frames: uint8 (T, H, W, 3), starting with frame ``first`` of the stream.

    ``positions`` float32 (T, N, 2), NaN where hidden: the points that the frames follow. ``header``: the server's
    message header. ``arrived``: time at which the frames were decoded. ``delay``: seconds from the latest command or
    pointer sample that they show to ``arrived``; None if they show no new one.
    """

    first: int
    fps: float
    frames: np.ndarray
    positions: np.ndarray
    header: dict[str, Any]
    arrived: float
    delay: float | None


class Drag:
    """A grid of points that is dragged until ``release`` or the end of the ``with`` block."""

    def __init__(self, client: Client, gesture: int) -> None:
        self.client, self.gesture = client, gesture

    def move(self, x: float, y: float) -> None:
        """Send the pointer's current position."""
        now = time.monotonic()
        self.client.send("move", t=now, gesture=self.gesture, samples=[[x, y, now]])

    def release(self) -> None:
        """Release the drag."""
        self.client.send("release", gesture=self.gesture)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Client:
    """A connection to a server, closed at the end of a ``with`` block.

    One thread may send while another receives. ``hello``: the server's greeting. ``started``: the message that started
    the stream, with the secret ``session`` for `rejoin`.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:7860",
        token: str | None = None,
        codec: Literal["h264", "jpeg"] = "h264",
        *,
        share: str | None = None,
        patience: float = 30.0,
    ) -> None:
        """``address``: of the page. ``share``: token of a link for watching a stream only. ``patience``: timeout in
        seconds for connecting and the greeting. Raises ServerError if connecting fails."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"address is {address!r}; give one like http://127.0.0.1:8000")
        self._base, self.codec = f"{parts.scheme}://{parts.netloc}", codec
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._gestures = itertools.count(1)
        self._decoder: av.VideoCodecContext | None = None
        self._reformatter = VideoReformatter()
        self.started: dict[str, Any] = {}
        path = "/ws" if share is None else f"/ws/watch/{share}?codecs={codec}"
        self._open = ExitStack()
        try:
            self._socket = self._open.enter_context(
                connect(
                    f"{parts.scheme.replace('http', 'ws')}://{parts.netloc}{path}",
                    additional_headers=self._headers,
                    open_timeout=patience,
                    max_size=MAX_MESSAGE,
                    compression=None,
                    proxy=None,
                )
            )
        except InvalidStatus as error:
            reason = "does not let us in; is the token right?" if error.response.status_code == 403 else str(error)
            raise ServerError(f"{self._base} {reason}") from error
        except OSError as error:
            raise ServerError(f"{self._base} cannot be reached: {error}") from error
        try:
            self.hello = self.wait_for("hello", patience)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The session can be rejoined for a while."""
        self._open.close()

    # --------------------------------------------------------------------------------------------------- streams

    def upload(self, picture: str | Path | np.ndarray) -> str:
        """Upload a picture, a file or uint8 (H, W, 3). Returns its name, for `start`."""
        if isinstance(picture, np.ndarray):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            content = file.getvalue()
        else:
            content = Path(picture).read_bytes()
        request = urllib.request.Request(f"{self._base}/api/pictures", content, self._headers)
        return str(json.loads(_fetch(request))["name"])

    def upload_depth(self, picture: str, path: str | Path, *, inverse: bool = False) -> str:
        """Upload a depth map for a picture, a .npy or 16-bit PNG of its shape. Returns its name, for `start`.

        ``inverse``: bright means near. Raises ServerError for an invalid map."""
        address = f"{self._base}/api/pictures/{picture}/depth?inverse={str(inverse).lower()}"
        request = urllib.request.Request(address, Path(path).read_bytes(), self._headers)
        return str(json.loads(_fetch(request))["depth"])

    def upload_video(self, path: str | Path) -> dict[str, Any]:
        """Upload a video file as a source of motion. Returns its ``name``, for `follow`, ``size`` (height, width),
        ``frames``, ``fps`` and a ``note``. Raises ServerError for an invalid video."""
        request = urllib.request.Request(f"{self._base}/api/videos", Path(path).read_bytes(), self._headers)
        answer: dict[str, Any] = json.loads(_fetch(request))
        return answer

    def start(
        self,
        picture: str,
        prompt: str = "",
        seed: int = 0,
        steps: int | None = None,
        patience: float = 60.0,
        *,
        depth: str | None = None,
    ) -> dict[str, Any]:
        """Start a stream from a picture of the gallery or an uploaded one; returns when it has started.

        ``depth``: name from `upload_depth`, for the camera. ``patience``: timeout in seconds, including the queue.
        Raises ServerError if the stream cannot start, TimeoutError after ``patience`` seconds.
        """
        fields = {"picture": picture, "prompt": prompt, "seed": seed, "codecs": [self.codec]}
        chosen = {name: value for name, value in (("steps", steps), ("depth", depth)) if value is not None}
        self.send("start", protocol=wire.VERSION, **fields, **chosen)
        return self._wait_for_start(patience)

    def _wait_for_start(self, patience: float) -> dict[str, Any]:
        """The next ``started`` message. Messages about the previous stream, refusals and its end, are ignored."""
        until = time.monotonic() + patience
        while True:
            message = self.receive(max(0.0, until - time.monotonic()))
            if isinstance(message, dict):
                if message["type"] == "started":
                    return message
                if message["type"] == "failed" and message["fatal"]:
                    raise ServerError(message["message"])

    def rejoin(self, session: str, patience: float = 30.0) -> dict[str, Any]:
        """Resume a session whose connection was lost. ``session``: ``started["session"]``."""
        self.send("rejoin", protocol=wire.VERSION, session=session, codecs=[self.codec])
        return self.wait_for("started", patience)

    def send(self, kind: str, **fields: Any) -> None:
        """Send any message of the protocol; its time ``t`` is now by default."""
        self._write(json.dumps({"type": kind, "t": time.monotonic(), **fields}))

    def _write(self, message: str | bytes) -> None:
        try:
            self._socket.send(message)
        except ConnectionClosed as error:
            raise ServerError(f"the connection is closed: {error}") from error

    def drag(self, x: float, y: float, *, radius: float = 16, spacing: float = 8) -> Drag:
        """Start dragging at a point."""
        number = next(self._gestures)
        self.send("press", gesture=number, x=x, y=y, radius=radius, spacing=spacing)
        return Drag(self, number)

    def pin(self, x: float, y: float, *, radius: float = 16, spacing: float = 8) -> int:
        """Pin the content at a point. Returns the gesture's number, for ``release`` or ``erase`` messages."""
        number = next(self._gestures)
        self.send("pin", gesture=number, x=x, y=y, radius=radius, spacing=spacing)
        return number

    def follow(
        self,
        video: str | None = None,
        *,
        webcam: tuple[int, int] | None = None,
        align: Sequence[tuple[float, float, float, float]] = (),
        repeat: bool = False,
    ) -> None:
        """Transfer the motion of an uploaded video, or of webcam frames of a size (height, width) sent by `look`.

        ``align``: up to two pairs of coinciding points (x, y in the source, x, y in the picture). ``repeat``: loop the
        video. `unfollow` ends the transfer.
        """
        source = {"webcam": webcam} if video is None else {"video": video, "repeat": repeat}
        self.send("follow", **source, align=[list(pair) for pair in align])

    def look(self, frame: np.ndarray) -> None:
        """Send a webcam frame, uint8 (H, W, 3), to be followed."""
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=85)
        header = {"t": time.monotonic()}
        self._write(wire.pack(wire.WEBCAM, header, np.zeros((1, 0, 2), np.float32), [jpeg]))

    def unfollow(self) -> None:
        """Stop following a video or webcam."""
        self.send("unfollow")

    def stop(self) -> None:
        """End the stream."""
        self.send("stop")

    # ------------------------------------------------------------------------------------------------- receiving

    def receive(self, patience: float | None = None) -> Chunk | dict[str, Any]:
        """The next message; chunks are decoded and acknowledged. Raises TimeoutError after ``patience`` seconds."""
        try:
            data = self._socket.recv(patience)
        except ConnectionClosed as error:
            raise ServerError(f"the connection is closed: {error}") from error
        if isinstance(data, bytes):
            return self._chunk(wire.unpack(data))
        message: dict[str, Any] = json.loads(data)
        if message["type"] == "started":
            self.started, self._decoder = message, None
        return message

    def wait_for(self, kind: str, patience: float = 30.0) -> dict[str, Any]:
        """The next control message of this type; other messages and chunks are discarded.

        Raises ServerError if ``failed`` or ``ended`` comes first, TimeoutError after ``patience`` seconds.
        """
        until = time.monotonic() + patience
        while True:
            message = self.receive(max(0.0, until - time.monotonic()))
            if isinstance(message, dict):
                if message["type"] == kind:
                    return message
                _raise_if_over(message)

    def chunks(self, seconds: float | None = None, patience: float = 30.0) -> Iterator[Chunk]:
        """Yield chunks, for ``seconds`` of video or until the stream ends; other messages are discarded.

        Raises ServerError if the stream fails or a command is refused, after which it may be called again; TimeoutError
        if nothing arrives for ``patience`` seconds.
        """
        begin: int | None = None
        while True:
            message = self.receive(patience)
            if isinstance(message, dict):
                if message["type"] == "ended":
                    return
                _raise_if_over(message)
                continue
            if message.header.get("still"):  # an earlier frame, sent to show the stream's state
                continue
            yield message
            begin = message.first if begin is None else begin
            if seconds is not None and message.first + len(message.frames) - begin >= seconds * message.fps:
                return

    def _chunk(self, message: wire.Message) -> Chunk:
        frames = self._decode(message)
        now, sent = time.monotonic(), message.header["sent"]
        delay = None if sent is None else now - sent
        self.send("received", frame=message.header["first"], **({} if delay is None or delay < 0 else {"delay": delay}))
        header = message.header
        return Chunk(header["first"], header["fps"], frames, message.positions, header, now, delay)

    def _decode(self, message: wire.Message) -> np.ndarray:
        if message.kind == wire.JPEG:
            return np.stack([simplejpeg.decode_jpeg(part) for part in message.parts])
        if self._decoder is None:
            context = av.CodecContext.create("h264", "r")
            assert isinstance(context, av.VideoCodecContext)
            self._decoder = context
        frames = [frame for part in message.parts for frame in self._decoder.decode(av.Packet(part))]
        return np.stack([to_rgb(frame, self._reformatter) for frame in frames])


def _raise_if_over(message: dict[str, Any]) -> None:
    if message["type"] == "failed":
        raise ServerError(message["message"])
    if message["type"] == "ended":
        raise ServerError(f"the stream has ended: {message['reason']}")


def _fetch(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        with error:
            try:
                detail = json.load(error)["detail"]
            except (ValueError, KeyError):
                detail = error.reason
        raise ServerError(str(detail)) from error
