"""The web application around a host: the page, its pictures, and one WebSocket per viewer. It only transports; the host
decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response, WebSocket
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from motionstream.server.channels import ENCODING_THREADS, GRACE, Channels
from motionstream.server.depths import DepthEstimate, Depths, add_depths
from motionstream.server.guard import Access, Guard
from motionstream.server.host import Host, ReplicaState
from motionstream.server.kept import add_sessions
from motionstream.server.metrics import CONTENT_TYPE, Metrics
from motionstream.server.pictures import Example, Pictures, add_pictures
from motionstream.server.videos import Videos, add_videos
from motionstream.server.viewer import Viewer, Watcher

WEB = Path(__file__).parent / "web"


def create_app(
    host: Host,
    gallery: Sequence[Example] = (),
    access: Access | None = None,
    *,
    depth_model: DepthEstimate | None = None,
    grace: float = GRACE,
) -> FastAPI:
    """The web application around a running host.

    ``access``: who may use it, by default only this machine. ``depth_model``: see `Depths`. ``grace``: seconds that a
    session waits for its viewer to reconnect.
    """
    app = FastAPI(title="MotionStream", docs_url=None, redoc_url=None, openapi_url=None)
    pictures = Pictures(gallery, lambda: host.model.config)
    app.add_middleware(Guard, access=access or Access())
    _add_pages(app, host)
    add_pictures(app, host, pictures)
    depths = Depths(pictures, depth_model)
    add_depths(app, host, depths)
    videos = Videos(lambda: host.model.config.fps)
    add_videos(app, host, videos)
    if host.library is not None:
        add_sessions(app, host.library)
    metrics = Metrics(host)
    channels = Channels(grace, metrics.made, threads=ENCODING_THREADS * max(1, len(host.replicas)))

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.websocket("/ws")
    async def stream(websocket: WebSocket) -> None:
        await Viewer(websocket, host, channels, metrics, pictures, videos, depths).run()

    @app.websocket("/ws/watch/{share}")
    async def watch(websocket: WebSocket, share: str, codecs: str = "jpeg") -> None:
        await Watcher(websocket, host, channels, metrics, share, tuple(codecs.split(","))).run()

    return app


def _add_pages(app: FastAPI, host: Host) -> None:
    app.mount("/web", StaticFiles(directory=WEB), name="web")

    @app.get("/")
    @app.get("/watch/{share}")
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    @app.get("/health")
    async def health() -> JSONResponse:
        status = host.status
        content: dict[str, Any] = {
            "status": status,
            "sessions": host.session_count,
            "limit": host.limits.sessions,
            "queued": host.queue_length,
        }
        content |= {"problem": host.problem} if status == "broken" else {}
        content |= {"replicas": [_replica(state) for state in host.replicas]} if host.replicas else {}
        return JSONResponse(content, 200 if status == "ready" else 503)


def _replica(state: ReplicaState) -> dict[str, Any]:
    content = {"status": state.status, "sessions": state.sessions, "losses": state.losses}
    return content | ({"problem": state.problem} if state.status == "broken" else {})
