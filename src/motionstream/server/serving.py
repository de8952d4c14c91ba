"""Serving until interrupted: a socket, an engine, and uvicorn around the application."""

from __future__ import annotations

import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence

import uvicorn

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.app import create_app
from motionstream.server.engine import Engine
from motionstream.server.guard import Access
from motionstream.server.pictures import Example, photographs
from motionstream.server.session import Limits

MAX_CONNECTIONS = 64
MAX_FRAME = 2**20  # bytes of one WebSocket message; beyond it the connection is closed, below it a sentence is said
LOAD_PATIENCE = 20.0  # seconds that `serve` waits to tell at once that a model cannot be loaded
UNSENT = 64 * 1024  # bytes that the kernel may hold of a connection before the network takes them


def serve(
    load: Callable[[], MotionStreamPipeline],
    access: Access,
    port: int = 8000,
    *,
    limits: Limits | None = None,
    open_browser: bool = False,
    gallery: Sequence[Example] | None = None,
) -> None:
    """Serve the page until interrupted.

    Args:
        load: makes the pipeline, in the engine's own thread. access: where to listen, and who is let in.
        port: 0 takes any that is free; the address printed says which.
        gallery: example pictures, by default scikit-image's photographs.

    Raises:
        ValueError: an address that cannot be had, a model that cannot be loaded.
    """
    listener = listen(access.host, port)
    address = page_address(access, listener.getsockname()[1])
    with listener, Engine(load, limits) as engine:
        deadline = time.monotonic() + LOAD_PATIENCE
        while engine.status == "loading" and time.monotonic() < deadline:
            time.sleep(0.05)
        if engine.status == "broken":
            raise ValueError(engine.problem)
        config = uvicorn.Config(
            create_app(engine, photographs() if gallery is None else gallery, access),
            log_level="warning",
            ws_max_size=MAX_FRAME,
            ws_per_message_deflate=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        print(f"MotionStream is at {address} (Ctrl+C stops it)", flush=True)
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        uvicorn.Server(config).run(sockets=[listener])


def page_address(access: Access, port: int) -> str:
    """What to open in the browser, the token included. A server that listens everywhere is named by this machine."""
    name = socket.gethostname() if access.host in ("0.0.0.0", "::") else access.host
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    return address if access.token is None else f"{address}?token={access.token}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ValueError where the address cannot be had."""
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}; give 1 to 65535, or 0 for any that is free")
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # What waits must wait where frames can still be dropped and control still overtakes them. Linux hands the
        # option on to the connections.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    return listener
