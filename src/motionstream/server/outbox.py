"""What waits for one viewer: control first, then media, of which the oldest goes when the viewer is slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionstream import wire
from motionstream.server.media import Encoded

WAITING = 3  # chunks that wait here at most
UNDERWAY = 3  # chunks on their way to a viewer that acknowledges them, at most: pipes between may hold seconds
MAX_CONTROL = 200  # a viewer that sends rubbish and reads nothing costs no memory


@dataclass(frozen=True, eq=False)
class Media:
    """An encoded chunk and what is said of it, the same for all its viewers."""

    header: dict[str, Any]
    positions: np.ndarray
    encoded: Encoded

    @property
    def frames(self) -> int:
        return len(self.encoded.parts)


class Outbox:
    """The messages to one viewer, in the order in which they are to be sent. For the event loop's thread alone.

    ``codec``: the viewer's. ``steers``: whether it is the one whose commands are obeyed; only that one is told when
    they were sent, by its own clock. ``on_drop`` is told of every frame that is not sent.
    """

    def __init__(
        self, codec: str = "jpeg", *, steers: bool = True, on_drop: Callable[[int], None] = lambda frames: None
    ) -> None:
        self.codec, self.steers, self._on_drop = codec, steers, on_drop
        self.hidden = False  # the viewer's page cannot be seen: no frames are wanted
        self.dropped = 0  # frames, since the last media message
        self._needs_keyframe = True
        self._control: deque[dict[str, Any]] = deque()
        self._media: deque[Media] = deque()
        self._underway: deque[int] = deque(maxlen=UNDERWAY)  # first frames of chunks sent and not acknowledged
        self._acknowledges = False
        self._something = asyncio.Event()

    def say(self, message: dict[str, Any]) -> None:
        """Queue a control message."""
        if len(self._control) < MAX_CONTROL:
            self._control.append(message)
        self._something.set()

    def forget_media(self) -> None:
        """Nothing of the stream so far is wanted any more; whatever comes next begins with a keyframe."""
        self._media.clear()
        self._underway.clear()
        self.dropped = 0
        self._needs_keyframe = True

    def drop(self, frames: int) -> None:
        """So many frames will not be sent."""
        self.dropped += frames
        self._on_drop(frames)

    def make_room(self) -> bool:
        """Make room for the next chunk; whether it must begin with a keyframe.

        Called before that is encoded: frames without those before them could not be decoded, so where H.264 has to be
        dropped, all that waits is, and the next chunk begins anew.
        """
        if len(self._media) >= WAITING:
            drop = len(self._media) if self.codec == "h264" else 1
            self.drop(sum(self._media.popleft().frames for _ in range(drop)))
            self._needs_keyframe = True
        return self._needs_keyframe and self.codec == "h264"

    def show(self, media: Media) -> None:
        """Queue a chunk; one that could not be decoded, for this viewer has just come, is dropped."""
        if self._needs_keyframe and 0 not in media.encoded.keyframes:
            self.drop(media.frames)
            return
        self._needs_keyframe = False
        self._media.append(media)
        self._something.set()

    def show_still(self, media: Media) -> None:
        """Queue a picture that stands by itself, as JPEG; the stream goes on as if it had not been."""
        self._media.append(media)
        self._something.set()

    def received(self, first: int) -> None:
        """The viewer has the chunk that begins with frame ``first``, and with it all before."""
        self._acknowledges = True
        while self._underway and self._underway[0] <= first:
            self._underway.popleft()
        self._something.set()

    async def next(self) -> dict[str, Any] | bytes:
        """Wait for the next message: an object to send as JSON, or bytes."""
        while True:
            if self._control:
                return self._control.popleft()
            if self._media and not (self._acknowledges and len(self._underway) >= UNDERWAY):
                return self._pack(self._media.popleft())
            self._something.clear()
            await self._something.wait()

    def _pack(self, media: Media) -> bytes:
        header = {**media.header, "dropped": self.dropped, "queue": len(self._media)}
        if not self.steers:
            header["sent"] = None
        self.dropped = 0
        self._underway.append(header["first"])
        return wire.pack(media.encoded.kind, header, media.positions, media.encoded.parts)
