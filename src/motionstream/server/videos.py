"""Videos whose motion can drive a stream: uploaded, reduced in size, and kept for a while."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from motionstream.media.videos import read_video
from motionstream.server.host import Host
from motionstream.server.pictures import check_ready, receive
from motionstream.server.sources import Video

MAX_UPLOAD = 100 * 2**20  # bytes per video file
MAX_UPLOADS = 8  # videos kept; the oldest are dropped first
MAX_SECONDS = 20.0  # longer videos are cut
SIDE = 320  # longer side in pixels at which motion is tracked


class Videos:
    """The uploaded videos by name, at the model's frame rate."""

    def __init__(self, fps: Callable[[], float]) -> None:
        self._fps = fps
        self._kept: OrderedDict[str, Video] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Video:
        """The video of this name. ValueError if there is none."""
        with self._lock:
            if name not in self._kept:
                raise ValueError(f"there is no video {name[:40]!r} (any more); choose it again")
            return self._kept[name]

    def add(self, path: Path) -> tuple[str, Video]:
        """Read the first MAX_SECONDS of an uploaded file and keep them. ValueError if it is no video."""
        name, fps = f"upload-{secrets.token_hex(8)}", self._fps()
        most = round(MAX_SECONDS * fps)
        with self._lock:  # one at a time
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                frames, _ = read_video(path, fps=fps, limit=most + 1, side=SIDE)
            notes = ["it breaks off early"] if any("breaks off" in str(each.message) for each in said) else []
            notes += [f"only the first {MAX_SECONDS:g} seconds are used"] if len(frames) > most else []
            self._kept[name] = video = Video(frames[:most], fps, "; ".join(notes))
            while len(self._kept) > MAX_UPLOADS:
                self._kept.popitem(last=False)
        return name, video


def add_videos(app: FastAPI, host: Host, videos: Videos) -> None:
    """Add the route /api/videos."""

    @app.post("/api/videos")
    async def upload(request: Request) -> dict[str, Any]:
        check_ready(host)
        with tempfile.TemporaryDirectory(prefix="motionstream-") as folder:
            path = Path(folder) / "video"
            await receive(request, path, MAX_UPLOAD, "cut it first")
            try:
                name, video = await asyncio.to_thread(videos.add, path)
            except ValueError as error:
                raise HTTPException(422, str(error).replace(str(path), "this file")) from None
        height, width = video.frames.shape[1:3]
        return {
            "name": name,
            "frames": len(video.frames),
            "fps": video.fps,
            "size": [height, width],
            "note": video.note,
        }
