"""The WebSocket connections: of a viewer that steers its session, and of others that watch it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

from fastapi import WebSocket, WebSocketDisconnect

from motionstream.server.channel import Channel
from motionstream.server.channels import Channels
from motionstream.server.depths import Depths
from motionstream.server.host import EngineBusy, Host
from motionstream.server.metrics import Metrics
from motionstream.server.outbox import Outbox
from motionstream.server.pictures import Pictures
from motionstream.server.protocol import (
    NoStream,
    Received,
    Rejoin,
    Start,
    ViewerClock,
    Visible,
    asked_for_a_stream,
    choose_codec,
    control_message,
    hello,
    parse,
    parse_webcam,
)
from motionstream.server.session import Failed, Session
from motionstream.server.sources import FASTEST, Rate
from motionstream.server.videos import Videos
from motionstream.session.commands import Command, Follow, WebcamFrame

ONLY_SHOWN = "this link only shows the stream; open the studio's own page to steer one"


class Connection(ABC):
    """The common part of both: a greeting, handling of messages with error replies, sending of the outbox."""

    def __init__(self, websocket: WebSocket, host: Host, channels: Channels, metrics: Metrics, *, steers: bool) -> None:
        self.websocket, self.host, self.channels, self.metrics = websocket, host, channels, metrics
        self.outbox = Outbox(steers=steers, on_drop=metrics.dropped)
        self.clock = ViewerClock()
        self.channel: Channel | None = None

    async def run(self) -> None:
        """Serve the connection until it closes."""
        await self.websocket.accept()
        try:
            model = self.host.model
        except EngineBusy as error:
            await self.websocket.send_json(control_message(Failed(str(error), fatal=True)))
            await self.websocket.close(1013)
            return
        config = model.config
        self.outbox.say(
            hello(
                config.name,
                config.size,
                config.fps,
                model.trained,
                self.host.limits,
                self.abilities(),
                grace=self.channels.grace,
            )
        )
        self.metrics.viewers.inc()
        talking = [asyncio.create_task(self._send()), asyncio.create_task(self._listen())]
        try:
            done, _ = await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in talking:
                task.cancel()
            self._leave()
            self.metrics.viewers.dec()
        for task in done:
            failure = task.exception()
            # These two only mean that the viewer has disconnected.
            if failure is not None and not isinstance(failure, WebSocketDisconnect | RuntimeError):
                raise failure

    async def _send(self) -> None:
        """Send the outbox's messages; waits if the viewer is slow."""
        while True:
            message = await self.outbox.next()
            if isinstance(message, bytes):
                await self.websocket.send_bytes(message)
                self.metrics.sent(len(message))
            else:
                await self.websocket.send_json(message)

    async def _listen(self) -> None:
        self.begin()
        while True:
            arrived = await self.websocket.receive()
            if arrived["type"] == "websocket.disconnect":
                return
            text: str | None = arrived.get("text")
            try:
                if text is None:
                    self.look(*parse_webcam(arrived["bytes"]))
                else:
                    message = parse(text, self.host.clock(), self.clock)
                    if isinstance(message, Visible):
                        self._see(message.visible)
                    else:
                        await self.obey(message)
            except ValueError as error:
                self.outbox.say(control_message(self.refusal(error)))

    def refusal(self, error: ValueError) -> Failed:
        """The reply to a message that is invalid or cannot be carried out."""
        return Failed(str(error))

    def abilities(self) -> tuple[str, ...]:
        """The server's capabilities besides the commands, see `hello`."""
        return ("rejoin", "watch", "visible", "depth", *(() if self.host.library is None else ("recording",)))

    @abstractmethod
    def begin(self) -> None:
        """Called once, after the greeting."""

    @abstractmethod
    async def obey(self, message: Start | Rejoin | Received | list[Command]) -> None:
        """Carry out a message. ValueError with the reason if that is impossible."""

    @abstractmethod
    def look(self, time: float, jpeg: bytes) -> None:
        """Take a frame of the viewer's webcam. ValueError with the reason if none is wanted."""

    def _see(self, visible: bool) -> None:
        self.outbox.hidden = not visible
        if self.channel is not None:
            self.channel.see(self.outbox, visible)

    def _leave(self) -> None:
        if self.channel is not None:
            self.channels.leave(self.channel, self.outbox)
            self.channel = None


class Viewer(Connection):
    """Starts streams and steers them."""

    def __init__(
        self,
        websocket: WebSocket,
        host: Host,
        channels: Channels,
        metrics: Metrics,
        pictures: Pictures,
        videos: Videos,
        depths: Depths,
    ) -> None:
        super().__init__(websocket, host, channels, metrics, steers=True)
        self.pictures, self.videos, self.depths = pictures, videos, depths
        self.looks = Rate(FASTEST, "webcam frames")

    def abilities(self) -> tuple[str, ...]:
        """See `Connection`."""
        return (*super().abilities(), *(() if self.depths.model is None else ("depth-model",)))

    def begin(self) -> None:
        """See `Connection`; a viewer begins with its `Start` message."""

    async def obey(self, message: Start | Rejoin | Received | list[Command]) -> None:
        """See `Connection`."""
        match message:
            case Received():
                self.outbox.received(message.frame)
                if message.delay is not None:
                    self.metrics.delayed(message.delay)
            case Start():
                with asked_for_a_stream("start"):
                    await self._start(message)
            case Rejoin():
                with asked_for_a_stream("rejoin"):
                    self._rejoin(message)
            case _:
                for command in message:
                    if isinstance(command, Follow) and command.video is not None:
                        command = replace(command, source=self.videos.get(command.video))
                    self._steered(command.name).submit(command)

    def refusal(self, error: ValueError) -> Failed:
        """See `Connection`. A refused request for a stream also ends the previous stream, which it was to replace."""
        if not isinstance(error, NoStream):
            return super().refusal(error)
        self._end()
        return Failed(str(error), error.command, fatal=True)

    def look(self, time: float, jpeg: bytes) -> None:
        """See `Connection`."""
        now = self.host.clock()
        self.looks.count(now)
        self._steered("look").submit(WebcamFrame(time=now, sent=time, jpeg=jpeg))

    def _steered(self, act: str) -> Channel:
        """The channel of the session that this viewer steers. ValueError if there is none."""
        if self.channel is None or not self.channel.steered_by(self.outbox):
            raise ValueError(f"cannot {act}: no stream runs here; start one")
        return self.channel

    async def _start(self, start: Start) -> None:
        codec = choose_codec(start.codecs)
        begin = await asyncio.to_thread(self._opening, start)
        self._end()
        self.outbox.codec = codec
        self.channel = self.channels.open(begin, self.outbox)

    def _opening(self, start: Start) -> Callable[[Callable[[], None]], Session]:
        """A function that opens the requested stream. ValueError if the picture, recording or chunk does not exist."""
        if start.recording is None:
            assert start.picture is not None
            picture = self.pictures.get(start.picture)
            if start.depth is None:
                depth = self.depths.estimate(start.picture)
            else:
                depth = self.depths.get(start.depth, start.picture)
            return lambda notify: self.host.open(
                picture, start.prompt, start.seed, notify, steps=start.steps, depth=depth
            )
        if self.host.library is None:
            raise ValueError("this server keeps no recordings; start from a picture")
        recording = self.host.library.recording(start.recording)
        head = recording if start.chunk is None else recording.branch(start.chunk)
        return lambda notify: self.host.branch(head, notify)

    def _rejoin(self, rejoin: Rejoin) -> None:
        codec = choose_codec(rejoin.codecs)
        if self.channel is not None and self.channel.secret != rejoin.session:
            self._end()
        self.outbox.codec = codec
        self.channel = self.channels.rejoin(rejoin.session, self.outbox)

    def _end(self) -> None:
        """End this viewer's stream, unless another viewer has taken it over."""
        if self.channel is not None:
            if self.channel.steered_by(self.outbox):
                self.channel.close()
            self._leave()


class Watcher(Connection):
    """Watches another viewer's stream."""

    def __init__(
        self,
        websocket: WebSocket,
        host: Host,
        channels: Channels,
        metrics: Metrics,
        share: str,
        codecs: tuple[str, ...],
    ) -> None:
        super().__init__(websocket, host, channels, metrics, steers=False)
        self.share, self.codecs = share, codecs

    def begin(self) -> None:
        """See `Connection`."""
        try:
            self.outbox.codec = choose_codec(self.codecs)
            self.channel = self.channels.watch(self.share, self.outbox)
        except ValueError as error:
            self.outbox.say(control_message(Failed(str(error), fatal=True)))

    async def obey(self, message: Start | Rejoin | Received | list[Command]) -> None:
        """See `Connection`."""
        if not isinstance(message, Received):
            raise ValueError(ONLY_SHOWN)
        self.outbox.received(message.frame)

    def look(self, time: float, jpeg: bytes) -> None:
        """See `Connection`."""
        raise ValueError(ONLY_SHOWN)
