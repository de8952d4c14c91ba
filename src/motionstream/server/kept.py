"""Routes for recorded sessions: their description, and downloads.

A session's name is long and random: knowing it is the permission to access the session.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from motionstream.server.pictures import receive
from motionstream.session.exports import EXPORTS
from motionstream.session.library import Library
from motionstream.session.recording import Recording

EXPORTS_AT_A_TIME = 2  # each takes a CPU core for seconds, and a GIF also memory

MAX_UPLOAD = 32 * 2**20  # bytes per session file: some hours of streaming


def add_sessions(app: FastAPI, library: Library) -> None:
    """Add the routes /api/sessions, /api/sessions/NAME and /api/sessions/NAME/KIND, for the kinds of `EXPORTS`."""
    turns = asyncio.Semaphore(EXPORTS_AT_A_TIME)

    @app.post("/api/sessions")
    async def upload(request: Request) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="motionstream-") as folder:
            path = Path(folder) / "session.jsonl"
            await receive(request, path, MAX_UPLOAD)
            try:
                name = await asyncio.to_thread(lambda: library.adopt(Recording.read(path)))
            except ValueError as error:
                raise HTTPException(422, str(error).replace(str(path), "this file")) from None
        return {"name": name, **await asyncio.to_thread(_describe, library, name)}

    @app.get("/api/sessions/{name}")
    async def session(name: str) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(_describe, library, name)
        except ValueError as error:
            raise HTTPException(404, str(error)) from None

    @app.get("/api/sessions/{name}/{kind}")
    async def export(name: str, kind: str) -> FileResponse:
        if kind not in EXPORTS:
            raise HTTPException(404, f"a session cannot be exported as {kind[:20]!r}; choose {', '.join(EXPORTS)}")
        suffix, write = EXPORTS[kind]
        folder = tempfile.mkdtemp(prefix="motionstream-")
        path = Path(folder) / f"motionstream-{name[:64]}{suffix}"
        try:
            async with turns:
                await asyncio.to_thread(write, library, name, path)
        except ValueError as error:
            shutil.rmtree(folder)
            raise HTTPException(404, str(error)) from None
        except BaseException:
            shutil.rmtree(folder)
            raise
        return FileResponse(path, filename=path.name, background=BackgroundTask(shutil.rmtree, folder))


def _describe(library: Library, name: str) -> dict[str, Any]:
    """A session's settings and timeline."""
    recording = library.recording(name)
    header = recording.header
    changes = [
        [entry.chunk, command.name]
        for entry in recording.entries
        for command in entry.commands
        if command.name not in ("move", "followed")
    ]
    return {
        "model": header.model,
        "size": list(header.size),
        "fps": header.fps,
        "seed": header.seed,
        "steps": header.steps,
        "prompt": header.prompt,
        "frames": [entry.frames for entry in recording.entries],
        "changes": changes,
    }
