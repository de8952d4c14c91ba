"""A session and its viewers: one that steers, and others that watch.

Everything runs on the event loop, except that frames are encoded in separate threads, once per codec in use.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any

from motionstream.server.media import Encoded, Encoder, JpegEncoder, make_encoder
from motionstream.server.outbox import Media, Outbox
from motionstream.server.protocol import control_message, media_header
from motionstream.server.session import Accepted, Chunk, Continued, Control, Ended, Failed, Queued, Session, Started
from motionstream.session.commands import Command, Pause, Resume

logger = logging.getLogger(__name__)

MAX_WATCHERS = 16
WAITING = 3  # largest number of chunks waiting to be encoded


class Channel:
    """Passes a session's events to its viewers' outboxes.

    ``secret``: whoever knows it may steer the session. ``share``: whoever knows it may watch. ``open_session``: opens
    the session, given the callback by which it announces events. ``over``: called when the session has ended. ``made``:
    called with every chunk and its encoding time in seconds.
    """

    def __init__(
        self,
        open_session: Callable[[Callable[[], None]], Session],
        executor: Executor,
        over: Callable[[Channel], None],
        made: Callable[[Chunk, float], None] = lambda chunk, encoding: None,
    ) -> None:
        self.secret, self.share = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        self.ended = False
        self._executor, self._over, self._made = executor, over, made
        self._loop = asyncio.get_running_loop()
        self._something, self._chunk_waits = asyncio.Event(), asyncio.Event()
        self._steering: Outbox | None = None
        self._watching: list[Outbox] = []
        self._queued: Queued | None = None
        self._started: Started | None = None
        self._frame = 0  # the next chunk's first frame
        self._paused = False
        self._chunks: deque[Chunk] = deque()
        self._last: Chunk | None = None  # the last frame, as a chunk
        self._stills: set[asyncio.Task[None]] = set()  # tasks that encode a still
        self._dropped = 0  # frames dropped before encoding
        self._encoders: dict[str, Encoder] = {}
        self.session = open_session(self._notify)
        self._task = asyncio.create_task(self._run())

    # ------------------------------------------------------------------------------------------------- viewers

    def steer(self, outbox: Outbox) -> None:
        """Let this viewer steer; the previous one is notified."""
        if self._steering is not None and self._steering is not outbox:
            self._steering.forget_media()
            self._steering.say(control_message(Ended("taken over by another page")))
        self._steering = outbox
        self._join(outbox)

    def watch(self, outbox: Outbox) -> None:
        """Let one more viewer watch; ValueError if there are too many."""
        if len(self._watching) >= MAX_WATCHERS:
            raise ValueError(f"{MAX_WATCHERS} viewers watch this stream already; try again later")
        self._watching.append(outbox)
        self._join(outbox)

    def leave(self, outbox: Outbox) -> None:
        """Remove a viewer that has disconnected or no longer wants this stream."""
        if outbox is self._steering:
            self._steering = None
        self._watching = [other for other in self._watching if other is not outbox]
        outbox.forget_media()
        self.session.watch(bool(self._lookers))

    def see(self, outbox: Outbox, visible: bool) -> None:
        """Set whether this viewer's page is visible. A hidden page gets no frames; if all are hidden the stream
        stops."""
        outbox.hidden = not visible
        if outbox.hidden:
            outbox.forget_media()
        self.session.watch(bool(self._lookers))

    def submit(self, command: Command) -> None:
        """Pass on a command of the steering viewer. Raises as `Session.submit` does."""
        self.session.submit(command)
        if isinstance(command, Pause | Resume):
            self._paused = isinstance(command, Pause)  # already, for viewers that reconnect before it is carried out

    def steered_by(self, outbox: Outbox) -> bool:
        """Whether this viewer steers; another one may have taken over."""
        return outbox is self._steering

    @property
    def steered(self) -> bool:
        """Whether anyone steers."""
        return self._steering is not None

    @property
    def _viewers(self) -> list[Outbox]:
        return self._watching if self._steering is None else [self._steering, *self._watching]

    @property
    def _lookers(self) -> list[Outbox]:
        return [outbox for outbox in self._viewers if not outbox.hidden]

    def _join(self, outbox: Outbox) -> None:
        outbox.forget_media()
        if self._started is not None:
            outbox.say(self._started_message(outbox, self._started))
        elif self._queued is not None:
            outbox.say(control_message(self._queued))
        if self._last is not None:
            task = asyncio.create_task(self._show_still(outbox, self._last))
            self._stills.add(task)
            task.add_done_callback(self._stills.discard)
        self.session.watch(bool(self._lookers))

    def _started_message(self, outbox: Outbox, started: Started) -> dict[str, Any]:
        message = {**control_message(started), "frame": self._frame, "paused": self._paused}
        if outbox.steers:
            return {**message, "session": self.secret, "share": self.share}
        return {**message, "recording": None}  # knowing its name gives access to the recording

    # --------------------------------------------------------------------------------------------- the session

    def close(self) -> None:
        """End the session; `over` is called once it has ended."""
        self.session.close()

    def _notify(self) -> None:
        """Called from the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._something.set)

    async def _run(self) -> None:
        showing = asyncio.create_task(self._show())
        listening = asyncio.create_task(self._listen())
        await asyncio.wait([showing, listening], return_when=asyncio.FIRST_COMPLETED)
        if showing.done():  # only after an error
            logger.error("frames could not be encoded", exc_info=showing.exception())
            self._tell_all(control_message(Failed("the frames could not be encoded; start again", fatal=True)))
            self.close()
            await listening
        showing.cancel()
        self._over(self)

    async def _listen(self) -> None:
        """Pass on control events at once and queue chunks for `_show`. Returns when the session has ended."""
        while not self.ended:
            await self._something.wait()
            self._something.clear()
            while (event := self.session.take()) is not None:
                if isinstance(event, Chunk):
                    self._queue(event)
                else:
                    self._tell(event)

    def _tell(self, event: Control) -> None:
        if isinstance(event, Started):
            if self._started is not None:  # its engine was lost, and another one continues
                self._chunks.clear()
                for outbox in self._viewers:
                    outbox.forget_media()
            self._started = event
            for outbox in self._viewers:
                outbox.say(self._started_message(outbox, event))
        elif isinstance(event, Ended):
            self.ended = True
            for outbox in self._viewers:
                outbox.forget_media()
            self._tell_all(control_message(event))
        else:
            if isinstance(event, Accepted) and event.command in ("pause", "resume"):
                self._paused = event.command == "pause"
            elif isinstance(event, Failed) and event.command == "pause":
                self._paused = False
            elif isinstance(event, Continued):
                self._paused = event.paused
            if self._steering is not None:
                self._steering.say(control_message(event))

    def _tell_all(self, message: dict[str, Any]) -> None:
        for outbox in self._viewers:
            outbox.say(message)

    def _queue(self, chunk: Chunk) -> None:
        self._frame = chunk.first + len(chunk.frames)
        self._dropped += chunk.dropped
        self._last = replace(
            chunk,
            first=self._frame - 1,
            frames=chunk.frames[-1:].copy(),
            positions=chunk.positions[-1:],
            sent=None,
        )
        self._chunks.append(chunk)
        while len(self._chunks) > WAITING:
            self._dropped += len(self._chunks.popleft().frames)
        self._chunk_waits.set()

    async def _show(self) -> None:
        """Encode and deliver chunk by chunk."""
        while True:
            while self._chunks and not self.ended:
                chunk = self._chunks.popleft()
                dropped, self._dropped = self._dropped, 0
                by_codec: dict[str, list[Outbox]] = {}
                for outbox in self._lookers:
                    if dropped:
                        outbox.drop(dropped)
                    by_codec.setdefault(outbox.codec, []).append(outbox)
                for unused in set(self._encoders) - set(by_codec):
                    del self._encoders[unused]
                self._made(chunk, sum([await self._show_by(*each, chunk) for each in by_codec.items()]))
            self._chunk_waits.clear()
            await self._chunk_waits.wait()

    async def _show_by(self, codec: str, outboxes: list[Outbox], chunk: Chunk) -> float:
        """Encode a chunk for the viewers of one codec; returns the encoding time in seconds."""
        # A new encoder's first frame is always a keyframe.
        if codec not in self._encoders:
            self._encoders[codec] = make_encoder(codec, chunk.frames.shape[1:3], chunk.fps)
        encoder = self._encoders[codec]
        rooms = [outbox.make_room() for outbox in outboxes]  # a list, so that `any` does not skip calls
        keyframe = any(rooms)

        def encode() -> tuple[Encoded, float]:
            begun = time.perf_counter()
            return encoder.encode(chunk.frames, keyframe=keyframe), time.perf_counter() - begun

        encoded, seconds = await self._loop.run_in_executor(self._executor, encode)
        media = Media(media_header(chunk, encoded, seconds), chunk.positions, encoded)
        for outbox in outboxes:
            if outbox in self._lookers and not self.ended:  # unless it has left meanwhile
                outbox.show(media)
        return seconds

    async def _show_still(self, outbox: Outbox, still: Chunk) -> None:
        """Send the last frame to a viewer that joins, since the next chunk may take long."""
        encode = partial(JpegEncoder().encode, still.frames, keyframe=True)
        encoded = await self._loop.run_in_executor(self._executor, encode)
        if still is self._last and outbox in self._viewers and not self.ended:  # unless something newer was sent
            header = {**media_header(still, encoded, 0.0), "still": True}
            outbox.show_still(Media(header, still.positions, encoded))
