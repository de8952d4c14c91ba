"""The server: HTTP for the page and its pictures, one WebSocket per viewer. It carries; the engine decides."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motionstream.loading import STAGES
from motionstream.media import fit, read_picture
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.engine import Engine, EngineBusy
from motionstream.server.protocol import MAX_MESSAGE, Start, ViewerClock, chunk_message, control_message, hello, parse
from motionstream.server.session import Chunk, Failed, Session

WEB = Path(__file__).parent / "web"

MAX_UPLOAD = 20 * 2**20  # bytes of one picture file
MAX_UPLOADS = 64  # pictures kept, the oldest go first; each is as small as the model's frames
MAX_CONNECTIONS = 64
LOAD_PATIENCE = 20.0  # seconds that `serve` waits to tell at once that a model cannot be loaded

POLICY = "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"


@dataclass(frozen=True)
class Example:
    """A picture of the gallery: a short name (its address), a title, where it is from, and how to read it."""

    name: str
    title: str
    credit: str
    load: Callable[[], np.ndarray]  # uint8 (H, W, 3)


def photographs() -> list[Example]:
    """The held-out photographs that scikit-image ships: the model has never learnt from them."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / "data"
    known = (
        ("chelsea.png", "Cat", "Stefan van der Walt, CC0"),
        ("coffee.png", "Coffee", "Rachel Michetti, Pikolo Espresso Bar, CC0"),
        ("rocket.jpg", "Rocket", "SpaceX, public domain"),
        ("camera.png", "Cameraman", "Lav Varshney, CC0"),
        ("gravel.png", "Gravel", "CC0Textures, CC0"),
        ("cell.png", "Cell", "Mueller et al., Optics Express 2018, CC0"),
    )
    return [
        Example(path.stem, title, credit, lambda path=path: read_picture(path))  # type: ignore[misc]
        for path, title, credit in ((folder / file, title, credit) for file, title, credit in known)
        if path.is_file()
    ]


class Pictures:
    """The gallery's and the uploaded pictures, fitted to the model's size: uint8 (H, W, 3) by name."""

    def __init__(self, gallery: Sequence[Example], size: Callable[[], tuple[int, int]]) -> None:
        self.gallery = {example.name: example for example in gallery}
        self._size = size
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> np.ndarray:
        """Raises ValueError where there is no such picture, or it cannot be read."""
        with self._lock:
            if name not in self._kept:
                if name not in self.gallery:
                    raise ValueError(f"there is no picture {name[:40]!r} (any more); choose it again")
                self._keep(name, self.gallery[name].load())
            return self._kept[name]

    def add(self, path: Path) -> tuple[str, str]:
        """Read an uploaded file and keep its picture: its name, and in words how it was made to fit.

        ValueError where it is no picture.
        """
        name = f"upload-{secrets.token_hex(8)}"
        with self._lock:  # one at a time: a large picture takes a few hundred megabytes while it is read
            return name, self._keep(name, read_picture(path))

    def _keep(self, name: str, picture: np.ndarray) -> str:
        self._kept[name], fitting = fit(picture, self._size())
        while len(self._kept) > MAX_UPLOADS:
            self._kept.popitem(last=False)
        return fitting.describe()


class Guard:
    """Refuses requests that another site's page makes through the visitor's browser, and sets safe headers.

    A WebSocket, and a request that changes something, must come from a page of this very host (or from no page at
    all: tools send no Origin). ``hosts``: the names this server may be called by, against a foreign name that is made
    to lead here; None takes any.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not self._allowed(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                message = {"detail": "this address or origin is not served"}
                await JSONResponse(message, 403)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await self.app(scope, receive, with_headers)

    def _allowed(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts is not None and name not in self.hosts:
            return False
        origin = headers.get("origin")
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        return reads or origin is None or origin.partition("://")[2] == host


def create_app(engine: Engine, gallery: Sequence[Example] = (), hosts: Sequence[str] | None = None) -> FastAPI:
    """The web application around a running engine. ``hosts`` as in `Guard`."""
    app = FastAPI(title="MotionStream", docs_url=None, redoc_url=None, openapi_url=None)
    pictures = Pictures(gallery, lambda: engine.pipeline.config.size)
    app.add_middleware(Guard, hosts=hosts)
    _add_pages(app, engine)
    _add_pictures(app, engine, pictures)

    @app.websocket("/ws")
    async def stream(websocket: WebSocket) -> None:
        await Viewer(websocket, engine, pictures).run()

    return app


def _add_pages(app: FastAPI, engine: Engine) -> None:
    app.mount("/web", StaticFiles(directory=WEB), name="web")

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    @app.get("/health")
    async def health() -> JSONResponse:
        status = engine.status
        content: dict[str, Any] = {"status": status, "sessions": engine.session_count, "limit": engine.limits.sessions}
        content |= {"problem": engine.problem} if status == "broken" else {}
        return JSONResponse(content, 200 if status == "ready" else 503)


def _add_pictures(app: FastAPI, engine: Engine, pictures: Pictures) -> None:
    @app.get("/api/gallery")
    async def gallery() -> list[dict[str, str]]:
        return [{"name": e.name, "title": e.title, "credit": e.credit} for e in pictures.gallery.values()]

    @app.get("/api/pictures/{name}")
    async def picture(name: str) -> Response:
        _check_ready(engine)
        try:
            pixels = await asyncio.to_thread(pictures.get, name)
        except ValueError as error:
            raise HTTPException(404, str(error)) from None
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95, colorsubsampling="444")
        return Response(jpeg, media_type="image/jpeg")

    @app.post("/api/pictures")
    async def upload(request: Request) -> dict[str, str]:
        _check_ready(engine)
        with tempfile.TemporaryDirectory(prefix="motionstream-") as folder:
            path = Path(folder) / "picture"
            await _receive(request, path)
            try:
                name, fitted = await asyncio.to_thread(pictures.add, path)
            except ValueError as error:
                raise HTTPException(422, str(error).replace(str(path), "this file")) from None
        return {"name": name, "fitted": fitted}


def _check_ready(engine: Engine) -> None:
    try:
        _ = engine.pipeline
    except EngineBusy as error:
        raise HTTPException(503, str(error)) from None


async def _receive(request: Request, path: Path) -> None:
    """Write a request's body to a file; what its header says about the length is not relied on."""
    size = 0
    with path.open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > MAX_UPLOAD:
                raise HTTPException(413, f"the file is larger than {MAX_UPLOAD // 2**20} MB; scale it down first")
            file.write(part)


class Viewer:
    """One WebSocket: what arrives goes to the session as commands, what the session says goes out."""

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
        await self.websocket.send_json(hello(config.name, config.size, config.fps, trained, self.engine.limits))
        sender = asyncio.create_task(self._send())
        try:
            while True:
                await self._obey(await self.websocket.receive_text())
        except (WebSocketDisconnect, KeyError, RuntimeError):
            pass  # gone, or binary, which the protocol does not have (KeyError)
        finally:
            if self.session is not None:
                self.session.close()
            sender.cancel()

    async def _obey(self, text: str) -> None:
        try:
            message = parse(text, self.engine.clock(), self.clock)
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
        picture = await asyncio.to_thread(self.pictures.get, start.picture)
        if self.session is not None:
            self.session.close()
            self.session = None
        loop = asyncio.get_running_loop()

        def notify() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._something.set)

        try:
            self.session = self.engine.open(picture, start.prompt, start.seed, notify, steps=start.steps)
        except EngineBusy as error:
            self._reply(Failed(str(error), "start", fatal=True))

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


# ------------------------------------------------------------------------------------------------------ serving


def serve(
    model: str = "nano",
    host: str = "127.0.0.1",
    port: int = 8000,
    open_browser: bool = False,
    untrained: bool = False,
    gallery: Sequence[Example] | None = None,
) -> None:
    """Serve the page until interrupted. ``gallery``: example pictures, by default scikit-image's photographs.

    Raises ValueError for an address that cannot be had and a model that cannot be loaded.
    """
    listener = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    hosts = ("localhost", "127.0.0.1", "[::1]") if _is_local(host) else None
    with listener, Engine(lambda: MotionStreamPipeline.from_pretrained(model, untrained=untrained)) as engine:
        deadline = time.monotonic() + LOAD_PATIENCE
        while engine.status == "loading" and time.monotonic() < deadline:
            time.sleep(0.05)
        if engine.status == "broken":
            raise ValueError(engine.problem)
        config = uvicorn.Config(
            create_app(engine, photographs() if gallery is None else gallery, hosts),
            log_level="warning",
            ws_max_size=4 * MAX_MESSAGE,  # bytes; a character has up to four
            ws_per_message_deflate=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        print(f"MotionStream is at {address} (Ctrl+C stops it)", flush=True)
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        uvicorn.Server(config).run(sockets=[listener])


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}; give 1 to 65535, or 0 for any that is free")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from error
