"""The pictures with which streams begin: examples and uploads, and their routes."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from fastapi import FastAPI, HTTPException, Request, Response

from motionstream.config import ModelConfig
from motionstream.media.pictures import Fit, fit, read_picture
from motionstream.scene import MOST_SCALE
from motionstream.server.host import EngineBusy, Host

MAX_UPLOAD = 20 * 2**20  # bytes per picture file
MAX_UPLOADS = 64  # pictures kept; the oldest are dropped first; each is at most a few times as large as a frame


@dataclass(frozen=True)
class Example:
    """A picture of the gallery: a short name (for its address), a title, a credit, and a function that reads it."""

    name: str
    title: str
    credit: str
    load: Callable[[], np.ndarray]  # uint8 (H, W, 3)


def photographs() -> list[Example]:
    """The held-out photographs that scikit-image ships; the model was not trained on them."""
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
    """The gallery's and the uploaded pictures by name, cropped to the model's aspect ratio: uint8 (sH, sW, 3), with the
    scale s from `kept_scale`."""

    def __init__(self, gallery: Sequence[Example], config: Callable[[], ModelConfig]) -> None:
        self.gallery = {example.name: example for example in gallery}
        self._config = config
        self._kept: OrderedDict[str, tuple[np.ndarray, Fit]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> np.ndarray:
        """The picture of this name. ValueError if there is none or it cannot be read."""
        return self._find(name)[0]

    def fitting(self, name: str) -> Fit:
        """The scaling and cropping of a picture for the model. Raises as `get` does."""
        return self._find(name)[1]

    def _find(self, name: str) -> tuple[np.ndarray, Fit]:
        with self._lock:
            if name not in self._kept:
                if name not in self.gallery:
                    raise ValueError(f"there is no picture {name[:40]!r} (any more); choose it again")
                self._keep(name, self.gallery[name].load())
            return self._kept[name]

    def add(self, path: Path) -> tuple[str, str]:
        """Read an uploaded file and keep its picture; returns its name and a description of how it was fitted.

        ValueError if it is no picture.
        """
        name = f"upload-{secrets.token_hex(8)}"
        with self._lock:  # one at a time: reading a large picture takes a few hundred megabytes
            return name, self._keep(name, read_picture(path))

    def _keep(self, name: str, picture: np.ndarray) -> str:
        config = self._config()
        scale, fitting = kept_scale(picture, config), Fit(picture.shape[:2], config.size)
        kept, _ = fit(picture, (scale * config.size[0], scale * config.size[1]))
        self._kept[name] = kept, fitting
        while len(self._kept) > MAX_UPLOADS:
            self._kept.popitem(last=False)
        return fitting.describe()


def kept_scale(picture: np.ndarray, config: ModelConfig) -> int:
    """The scale, relative to the model's size, at which a picture is kept: no detail that frames can show is lost."""
    if config.carry is None:
        return 1
    finer = math.ceil(min(picture.shape[0] / config.size[0], picture.shape[1] / config.size[1]))
    return min(max(finer, 1), MOST_SCALE)


def add_pictures(app: FastAPI, host: Host, pictures: Pictures) -> None:
    """Add the routes /api/gallery, /api/pictures and /api/pictures/NAME."""

    @app.get("/api/gallery")
    async def gallery() -> list[dict[str, str]]:
        return [{"name": e.name, "title": e.title, "credit": e.credit} for e in pictures.gallery.values()]

    @app.get("/api/pictures/{name}")
    async def picture(name: str) -> Response:
        check_ready(host)
        try:
            pixels = await asyncio.to_thread(pictures.get, name)
        except ValueError as error:
            raise HTTPException(404, str(error)) from None
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95, colorsubsampling="444")
        return Response(jpeg, media_type="image/jpeg")

    @app.post("/api/pictures")
    async def upload(request: Request) -> dict[str, str]:
        check_ready(host)
        with tempfile.TemporaryDirectory(prefix="motionstream-") as folder:
            path = Path(folder) / "picture"
            await receive(request, path, MAX_UPLOAD)
            try:
                name, fitted = await asyncio.to_thread(pictures.add, path)
            except ValueError as error:
                raise HTTPException(422, str(error).replace(str(path), "this file")) from None
        return {"name": name, "fitted": fitted}


def check_ready(host: Host) -> None:
    """Raise status 503 until the model is loaded, whose size determines how pictures are fitted."""
    try:
        _ = host.model
    except EngineBusy as error:
        raise HTTPException(503, str(error)) from None


async def receive(request: Request, path: Path, most: int, remedy: str = "scale it down first") -> None:
    """Write a request's body to a file; status 413 beyond ``most`` bytes, regardless of its Content-Length."""
    size = 0
    with path.open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise HTTPException(413, f"the file is larger than {most // 2**20} MB; {remedy}")
            file.write(part)
