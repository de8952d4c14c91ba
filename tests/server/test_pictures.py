"""Pictures over HTTP: the gallery, uploads, and what is refused."""

import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
from fastapi.testclient import TestClient

from motionstream.data import photographs as data_photographs
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import preset
from motionstream.server import pictures
from motionstream.server.app import create_app
from motionstream.server.engine import Engine
from motionstream.server.pictures import kept_scale, photographs
from motionstream.server.protocol import VERSION
from motionstream.server.session import Limits
from motionstream.session.library import Library

Png = Callable[[np.ndarray], bytes]


def test_an_uploaded_picture_is_fitted_and_can_be_streamed(client: TestClient, png: Png) -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (255, 0, 0)
    answer = client.post("/api/pictures", content=png(wide)).json()
    name = answer["name"]
    assert answer["fitted"] == "cropped to the middle 32x32 of the 80x40 photograph scaled to 64x32"
    shown = simplejpeg.decode_jpeg(client.get(f"/api/pictures/{name}").content)
    assert shown.shape == (64, 64, 3) and shown[..., 0].min() > 200, "the middle, and only the middle"
    with client.websocket_connect("/ws") as socket:
        assert socket.receive_json()["type"] == "hello"
        socket.send_json({"type": "start", "protocol": VERSION, "picture": name})
        assert socket.receive_json()["type"] == "started"


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(20, 64, 1), (32, 32, 1), (33, 80, 2), (96, 128, 3), (999, 999, 4)]
)
def test_a_picture_is_kept_as_finely_as_frames_can_show_it(height: int, width: int, scale: int) -> None:
    picture, config = np.zeros((height, width, 3), np.uint8), preset("debug")
    assert kept_scale(picture, config) == scale
    assert kept_scale(picture, replace(preset("nano-ids"), size=config.size)) == 1, "which carries no content"


def test_larger_frames_begin_with_the_picture_in_full(png: Png) -> None:
    fine = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    with Library() as library, Engine(lambda: pipeline, Limits(scale=2), library) as engine:
        while engine.status == "loading":
            time.sleep(0.01)
        with TestClient(create_app(engine), headers={"host": "127.0.0.1:8000"}) as client:
            name = client.post("/api/pictures", content=png(fine)).json()["name"]
            with client.websocket_connect("/ws") as socket:
                socket.send_json({"type": "start", "protocol": VERSION, "picture": name})
                assert socket.receive_json()["type"] == "hello"
                started = socket.receive_json()
        assert np.array_equal(library.recording(started["recording"]).header.picture, fine)


def huge_png(side: int) -> bytes:
    """The header of a picture of side x side pixels: what a reader that trusts it would take memory for."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "it is no picture"),
        (b"not a picture", "it is no picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "it is no picture"),
        (huge_png(8000), "64000000 pixels, more than 50,000,000; scale it down first"),
        (huge_png(20_000), "400000000 pixels, more than 50,000,000; scale it down first"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(client: TestClient, content: bytes, word: str) -> None:
    detail = refusal(client, content)
    assert word in detail or word.replace("64000000", "8000x8000") in detail


def refusal(client: TestClient, content: bytes) -> str:
    answer = client.post("/api/pictures", content=content)
    detail = answer.json()["detail"]
    assert answer.status_code == 422 and detail.startswith("cannot read this file: ") and "tmp" not in detail
    return detail


def test_a_picture_that_breaks_off_is_refused_in_words(client: TestClient, png: Png) -> None:
    whole = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert "the picture is damaged" in refusal(client, whole[: len(whole) // 2])
    assert "it is no picture" in refusal(client, whole[:20])


def test_a_file_that_is_too_large_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_UPLOAD", 2**20)
    answer = client.post("/api/pictures", content=bytes(2**20 + 1))
    assert answer.status_code == 413 and "larger than 1 MB" in answer.json()["detail"]


def test_old_uploads_make_room_and_the_gallery_stays(
    client: TestClient, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_UPLOADS", 2)
    names = [client.post("/api/pictures", content=png(np.zeros((8, 8, 3), np.uint8))).json()["name"] for _ in range(3)]
    assert [client.get(f"/api/pictures/{name}").status_code for name in names] == [404, 200, 200]
    assert client.get("/api/pictures/checkers").status_code == 200


def test_the_gallery_is_the_held_out_photographs() -> None:
    assert {example.name for example in photographs()} == set(data_photographs.HELD_OUT)
    for example in photographs():
        stored = data_photographs.load(example.name).astype(int)
        away = np.abs(example.load() - stored)  # the rocket's are numbers of Adobe RGB
        assert away.max() == 0 if example.name != "rocket" else 2 < away.mean() < 10, example.name
