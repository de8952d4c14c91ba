"""All channels of a server, which viewers can rejoin for a while after disconnecting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from secrets import compare_digest

from motionstream.server.channel import Channel
from motionstream.server.outbox import Outbox
from motionstream.server.session import Chunk, Session

GRACE = 30.0  # seconds that a session waits for its viewer to reconnect
ENCODING_THREADS = 2  # per engine; encoders release the GIL, and more of them would take cores from the model


class Channels:
    """Opens channels, finds them by their secrets, and ends those that nobody has steered for ``grace`` seconds.

    ``made``: called with every chunk and its encoding time in seconds. ``threads``: number of encoding threads.
    """

    def __init__(
        self,
        grace: float = GRACE,
        made: Callable[[Chunk, float], None] = lambda chunk, encoding: None,
        *,
        threads: int = ENCODING_THREADS,
    ) -> None:
        self.grace, self._made = grace, made
        self._channels: list[Channel] = []
        self._waiting: dict[Channel, asyncio.TimerHandle] = {}
        self._executor = ThreadPoolExecutor(threads, "motionstream-encoder")

    def open(self, open_session: Callable[[Callable[[], None]], Session], outbox: Outbox) -> Channel:
        """Open a session, steered by the viewer of ``outbox``. Raises as ``open_session`` does."""
        channel = Channel(open_session, self._executor, self._forget, self._made)
        self._channels.append(channel)
        channel.steer(outbox)
        return channel

    def rejoin(self, secret: str, outbox: Outbox) -> Channel:
        """Let the viewer of ``outbox`` steer the session with this secret; ValueError if it has ended."""
        for channel in self._channels:
            if compare_digest(channel.secret.encode(), secret.encode()) and not channel.ended:
                timer = self._waiting.pop(channel, None)
                if timer is not None:
                    timer.cancel()
                channel.steer(outbox)
                return channel
        raise ValueError("that stream has ended; start another")

    def watch(self, share: str, outbox: Outbox) -> Channel:
        """Let the viewer of ``outbox`` watch the session of this share link; ValueError if there is none."""
        for channel in self._channels:
            if compare_digest(channel.share.encode(), share.encode()) and not channel.ended:
                channel.watch(outbox)
                return channel
        raise ValueError("this link leads to a stream that has ended")

    def leave(self, channel: Channel, outbox: Outbox) -> None:
        """Remove a viewer. If it steered, the session waits ``grace`` seconds for it to reconnect."""
        steered = channel.steered_by(outbox)
        channel.leave(outbox)
        if steered and not channel.ended:
            self._waiting[channel] = asyncio.get_running_loop().call_later(self.grace, channel.close)

    def _forget(self, channel: Channel) -> None:
        self._channels = [other for other in self._channels if other is not channel]
        timer = self._waiting.pop(channel, None)
        if timer is not None:
            timer.cancel()
