"""Depth maps for the camera: uploaded for a picture, cropped like it, and kept for a while."""

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

MAX_UPLOAD = 40 * 2**20  # bytes per depth map

DepthEstimate = Callable[[np.ndarray], np.ndarray]

NPY = b"\x93NUMPY"  # the first bytes of a .npy file


class Depths:
    """Uploaded depth maps by name: float32 (H, W), scaled and cropped like their pictures.

    ``model`` estimates the depth of a picture, uint8 (H, W, 3), without a map; without a model a generic prior is used.
    """

    def __init__(self, pictures: Pictures, model: DepthEstimate | None = None) -> None:
        self._pictures, self.model = pictures, model
        self._estimated: OrderedDict[str, np.ndarray] = OrderedDict()
        self._kept: OrderedDict[str, tuple[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, picture: str) -> np.ndarray:
        """The map of this name. ValueError if there is none, or it belongs to another picture."""
        with self._lock:
            if name not in self._kept:
                raise ValueError(f"there is no depth map {name[:40]!r} (any more); give it again")
            owner, depth = self._kept[name]
        if owner != picture:
            raise ValueError("that depth map is another picture's; give this one its own")
        return depth

    def estimate(self, picture: str) -> np.ndarray | None:
        """The model's estimate for a picture; None without a model. Takes seconds, once per picture."""
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
        """Read an uploaded file for a picture and keep it; returns its name. ValueError if it is no depth map or has
        another aspect ratio than the picture. ``inverse``: see `read_depth`."""
        name = f"depth-{secrets.token_hex(8)}"
        with self._lock:  # one at a time: reading a large one takes some hundred megabytes
            depth = fit_depth(read_depth(path, inverse=inverse), self._pictures.fitting(picture))
            self._kept[name] = (picture, depth)
            while len(self._kept) > MAX_UPLOADS:
                self._kept.popitem(last=False)
        return name


def add_depths(app: FastAPI, host: Host, depths: Depths) -> None:
    """Add the route /api/pictures/NAME/depth."""

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
