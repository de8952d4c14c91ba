"""Depth maps for the camera: uploaded to a picture, cut as that was, and kept for a while."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fastapi import FastAPI, HTTPException, Request

from motionstream.server.host import Host
from motionstream.server.pictures import MAX_UPLOADS, Pictures, check_ready, receive
from motionstream.tracks.depth import fit_depth, read_depth

MAX_UPLOAD = 40 * 2**20  # bytes of one depth map

DepthEstimate = Callable[[np.ndarray], np.ndarray]

NPY = b"\x93NUMPY"  # what such a file begins with


class Depths:
    """The uploaded depth maps by name: float32 (H, W), as the picture that each belongs to was fitted.

    ``model`` estimates the depth of a picture, uint8 (H, W, 3), that was given no map; without one it is guessed.
    """

    def __init__(self, pictures: Pictures, model: DepthEstimate | None = None) -> None:
        self._pictures, self.model = pictures, model
        self._estimated: OrderedDict[str, np.ndarray] = OrderedDict()
        self._kept: OrderedDict[str, tuple[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, picture: str) -> np.ndarray:
        """The map of this name. ValueError where there is none, or it is another picture's."""
        with self._lock:
            if name not in self._kept:
                raise ValueError(f"there is no depth map {name[:40]!r} (any more); give it again")
            owner, depth = self._kept[name]
        if owner != picture:
            raise ValueError("that depth map is another picture's; give this one its own")
        return depth

    def estimate(self, picture: str) -> np.ndarray | None:
        """What the model says of a picture; None where there is no model. It takes seconds, once for each picture."""
        if self.model is None:
            return None
        pixels = self._pictures.get(picture)
        with self._lock:
            if picture not in self._estimated:
                self._estimated[picture] = self.model(pixels)
                while len(self._estimated) > MAX_UPLOADS:
                    self._estimated.popitem(last=False)
            return self._estimated[picture]

    def add(self, path: Path, picture: str, *, inverse: bool) -> str:
        """Read an uploaded file for a picture and keep it; its name. ValueError where it is no depth map, or not of the
        picture's shape. ``inverse``: see `read_depth`."""
        name = f"depth-{secrets.token_hex(8)}"
        with self._lock:  # one at a time: a large one takes some hundred megabytes while it is read
            depth = fit_depth(read_depth(path, inverse=inverse), self._pictures.fitting(picture))
            self._kept[name] = (picture, depth)
            while len(self._kept) > MAX_UPLOADS:
                self._kept.popitem(last=False)
        return name


def add_depths(app: FastAPI, host: Host, depths: Depths) -> None:
    """The address: /api/pictures/NAME/depth."""

    @app.post("/api/pictures/{name}/depth")
    async def upload(request: Request, name: str, inverse: bool = False) -> dict[str, str]:
        check_ready(host)
        with tempfile.TemporaryDirectory(prefix="motionstream-") as folder:
            path = Path(folder) / "depth"
            await receive(request, path, MAX_UPLOAD)
            with path.open("rb") as file:
                suffix = ".npy" if file.read(len(NPY)) == NPY else ".png"
            path = path.rename(path.with_suffix(suffix))
            try:
                depth = await asyncio.to_thread(depths.add, path, name, inverse=inverse)
            except ValueError as error:
                raise HTTPException(422, str(error).replace(str(path), "this file")) from None
        return {"depth": depth}
