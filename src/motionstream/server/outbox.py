"""The queue of messages to one viewer: control first, then media, of which the oldest is dropped for slow viewers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionstream import wire
from motionstream.server.media import Encoded

WAITING = 3  # largest number of chunks waiting here
UNDERWAY = 3  # largest number of unacknowledged chunks in transit, since network buffers may hold seconds
MAX_CONTROL = 200  # bounds the memory for a viewer that causes errors and reads nothing


@dataclass(frozen=True, eq=False)
class Media:
    """An encoded chunk and its header, the same for all viewers of a codec."""

    header: dict[str, Any]
    positions: np.ndarray
    encoded: Encoded

    @property
    def frames(self) -> int:
        return len(self.encoded.parts)


class Outbox:
    """The messages to one viewer, in the order of sending. For use only in the event loop's thread.

    ``codec``: the viewer's. ``steers``: whether it is the steering viewer; only that one gets the commands' ``sent``
    times, which are on its clock. ``on_drop``: called with the number of frames whenever some are not sent.
    """

    def __init__(
        self, codec: str = "jpeg", *, steers: bool = True, on_drop: Callable[[int], None] = lambda frames: None
    ) -> None:
        self.codec, self.steers, self._on_drop = codec, steers, on_drop
        self.hidden = False  # the viewer's page is not visible, so it gets no frames
        self.dropped = 0  # frames, since the last media message
        self._needs_keyframe = True
        self._control: deque[dict[str, Any]] = deque()
        self._media: deque[Media] = deque()
        self._underway: deque[int] = deque(maxlen=UNDERWAY)  # first frames of unacknowledged chunks
        self._acknowledges = False
        self._something = asyncio.Event()

    def say(self, message: dict[str, Any]) -> None:
        """Queue a control message."""
        if len(self._control) < MAX_CONTROL:
            self._control.append(message)
        self._something.set()

    def forget_media(self) -> None:
        """Drop all queued media; the next chunk must begin with a keyframe."""
        self._media.clear()
        self._underway.clear()
        self.dropped = 0
        self._needs_keyframe = True

    def drop(self, frames: int) -> None:
        """Count frames that will not be sent."""
        self.dropped += frames
        self._on_drop(frames)

    def make_room(self) -> bool:
        """Make room for the next chunk; returns whether it must begin with a keyframe.

        Called before that is encoded. H.264 frames cannot be decoded without earlier ones, so if any have to be
        dropped, all waiting ones are, and the next chunk begins with a keyframe.
        """
        if len(self._media) >= WAITING:
            drop = len(self._media) if self.codec == "h264" else 1
            self.drop(sum(self._media.popleft().frames for _ in range(drop)))
            self._needs_keyframe = True
        return self._needs_keyframe and self.codec == "h264"

    def show(self, media: Media) -> None:
        """Queue a chunk; it is dropped if this viewer needs a keyframe first and could not decode it."""
        if self._needs_keyframe and 0 not in media.encoded.keyframes:
            self.drop(media.frames)
            return
        self._needs_keyframe = False
        self._media.append(media)
        self._something.set()

    def show_still(self, media: Media) -> None:
        """Queue a single JPEG picture; it does not affect the stream's state."""
        self._media.append(media)
        self._something.set()

    def received(self, first: int) -> None:
        """Acknowledge the chunk that begins with frame ``first``, and all before it."""
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
