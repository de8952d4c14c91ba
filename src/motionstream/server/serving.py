"""Serves the application until interrupted: a socket, a host, and uvicorn."""

from __future__ import annotations

import socket
import threading
import time
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import uvicorn

from motionstream.server.app import create_app
from motionstream.server.channel import MAX_WATCHERS
from motionstream.server.guard import Access
from motionstream.server.host import Host
from motionstream.server.pictures import Example, photographs
from motionstream.server.session import Limits
from motionstream.session.library import Library, default_folder
from motionstream.tracks.depth import DepthModel

MORE_CONNECTIONS = 64  # besides those that stream, watch and wait: idle pages, requests for pictures
MAX_FRAME = 2**20  # bytes per WebSocket message; a larger one closes the connection instead of giving an error message
LOAD_PATIENCE = 20.0  # seconds that `serve` waits, to report immediately that a model cannot be loaded
UNSENT = 64 * 1024  # bytes per connection that the kernel may buffer before the network takes them


def serve(
    make_host: Callable[[Library], AbstractContextManager[Host]],
    access: Access,
    port: int = 8000,
    *,
    open_browser: bool = False,
    gallery: Sequence[Example] | None = None,
    recordings: Path | None = None,
    forget: bool = False,
    depth_model: Path | None = None,
) -> None:
    """Serve the page until interrupted.

    Args:
        make_host: makes the host, such as an `Engine`, given the library that stores its sessions.
        access: where to listen, and who may use the server.
        port: 0 takes any free port; the printed address shows it.
        gallery: example pictures, by default scikit-image's photographs.
        recordings: folder for sessions, by default one of the user's (see `default_folder`).
        forget: store sessions only while the server runs.
        depth_model: folder of a depth-estimation model for the camera (see `DepthModel`).

    Raises:
        ValueError: the address is not available, or the model cannot be loaded.
    """
    estimate = None if depth_model is None else DepthModel(depth_model)
    listener = listen(access.host, port)
    address = page_address(access, listener.getsockname()[1])
    with listener, open_library(recordings, forget) as library, make_host(library) as host:
        deadline = time.monotonic() + LOAD_PATIENCE
        while host.status == "loading" and time.monotonic() < deadline:
            time.sleep(0.05)
        if host.status == "broken":
            raise ValueError(host.problem)
        config = uvicorn.Config(
            create_app(host, photographs() if gallery is None else gallery, access, depth_model=estimate),
            log_level="warning",
            ws_max_size=MAX_FRAME,
            ws_per_message_deflate=False,
            limit_concurrency=most_connections(host.limits),
            timeout_graceful_shutdown=2,
        )
        print(f"MotionStream is at {address} (Ctrl+C stops it)", flush=True)
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        uvicorn.Server(config).run(sockets=[listener])


def most_connections(limits: Limits) -> int:
    """Largest number of connections: enough for everyone whom the limits admit. Further requests are refused."""
    return limits.sessions * (1 + MAX_WATCHERS) + limits.queue + MORE_CONNECTIONS


def open_library(folder: Path | None, forget: bool) -> Library:
    """The library for sessions: in ``folder``, by default the user's, or with ``forget`` in a temporary one."""
    if forget and folder is not None:
        raise ValueError(f"recordings are kept in {folder} or forgotten; choose one")
    if forget:
        return Library()
    try:
        return Library(folder or default_folder())
    except ValueError as error:
        if folder is not None:
            raise
        warnings.warn(f"{error}; they are kept while the server runs only", stacklevel=2)
        return Library()


def page_address(access: Access, port: int) -> str:
    """The address to open in the browser, with the token. For a server that listens everywhere, this machine's name."""
    name = socket.gethostname() if access.host in ("0.0.0.0", "::") else access.host
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    return address if access.token is None else f"{address}?token={quote(access.token, safe='')}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ValueError if the address is not available."""
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}; give 1 to 65535, or 0 for any that is free")
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Data should wait in the outbox, where frames can still be dropped and overtaken by control messages, not in
        # the kernel. Linux passes the option on to accepted connections.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    return listener
