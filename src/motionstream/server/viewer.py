"""One WebSocket: what arrives goes to the session as commands, what the session says goes out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from motionstream.loading import STAGES
from motionstream.server.engine import Engine, EngineBusy
from motionstream.server.pictures import Pictures
from motionstream.server.protocol import Start, ViewerClock, chunk_message, control_message, hello, parse
from motionstream.server.session import Chunk, Failed, Session


class Viewer:
    """A connection that starts streams, steers them and is shown them."""

    def __init__(self, websocket: WebSocket, engine: Engine, pictures: Pictures) -> None:
        self.websocket, self.engine, self.pictures = websocket, engine, pictures
        self.clock = ViewerClock()
        self.session: Session | None = None
        self._replies: deque[dict[str, Any]] = deque()
        self._something = asyncio.Event()

    async def run(self) -> None:
        """Serve the connection until it closes."""
        await self.websocket.accept()
        try:
            pipeline = self.engine.pipeline
        except EngineBusy as error:
            await self.websocket.send_json(control_message(Failed(str(error), fatal=True)))
            await self.websocket.close(1013)
            return
        config, trained = pipeline.config, all(stage in pipeline.stages for stage in STAGES)
        abilities = () if self.engine.library is None else ("recording",)
        greeting = hello(config.name, config.size, config.fps, trained, self.engine.limits, abilities)
        await self.websocket.send_json(greeting)
        sender = asyncio.create_task(self._send())
        try:
            while True:
                await self._obey(await self._receive())
        except (WebSocketDisconnect, RuntimeError):
            pass  # gone
        finally:
            if self.session is not None:
                self.session.close()
            sender.cancel()

    async def _receive(self) -> str | bytes:
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def _obey(self, data: str | bytes) -> None:
        try:
            if isinstance(data, bytes):
                raise ValueError(f"a binary message of {len(data)} bytes is not understood; commands are JSON text")
            message = parse(data, self.engine.clock(), self.clock)
            if isinstance(message, Start):
                await self._start(message)
                return
            for command in message:
                if self.session is None:
                    raise ValueError(f"cannot {command.name}: no stream runs; start one")
                self.session.submit(command)
        except ValueError as error:
            self._reply(Failed(str(error)))

    async def _start(self, start: Start) -> None:
        begin = await asyncio.to_thread(self._opening, start)
        if self.session is not None:
            self.session.close()
            self.session = None
        loop = asyncio.get_running_loop()

        def notify() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._something.set)

        try:
            self.session = begin(notify)
        except EngineBusy as error:
            self._reply(Failed(str(error), "start", fatal=True))

    def _opening(self, start: Start) -> Callable[[Callable[[], None]], Session]:
        """Read what a stream is to begin with. ValueError where there is no such picture, recording or chunk."""
        if start.recording is None:
            assert start.picture is not None
            picture = self.pictures.get(start.picture)
            return lambda notify: self.engine.open(picture, start.prompt, start.seed, notify, steps=start.steps)
        if self.engine.library is None:
            raise ValueError("this server keeps no recordings; start from a picture")
        recording = self.engine.library.recording(start.recording)
        head = recording if start.chunk is None else recording.branch(start.chunk)
        return lambda notify: self.engine.branch(head, notify)

    def _reply(self, event: Failed) -> None:
        if len(self._replies) < 100:  # a viewer that sends rubbish and reads nothing costs no memory
            self._replies.append(control_message(event))
        self._something.set()

    async def _send(self) -> None:
        """Everything that goes out, in one place; waits where the viewer is slow, and the session drops frames."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._replies:
                await self.websocket.send_json(self._replies.popleft())
            while self.session is not None and (event := self.session.take()) is not None:
                if isinstance(event, Chunk):
                    await self.websocket.send_bytes(await asyncio.to_thread(chunk_message, event))
                else:
                    await self.websocket.send_json(control_message(event))
