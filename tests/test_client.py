"""The Python client against a server on a real socket."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvicorn

from motionstream.client import Client, ServerError
from motionstream.media.videos import write_video
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.app import create_app
from motionstream.server.engine import Engine
from motionstream.server.guard import Access
from motionstream.server.pictures import Example
from motionstream.server.serving import listen
from motionstream.server.session import Limits

TOKEN = "a-token-of-the-test"


def stripes() -> np.ndarray:
    return np.tile(np.repeat(np.uint8([40, 200]), 8), (32, 2))[..., None].repeat(3, 2)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    with listen("127.0.0.1", 0) as listener, Engine(lambda: pipeline, Limits(sessions=16)) as engine:
        while engine.status == "loading":
            time.sleep(0.01)
        app = create_app(engine, [Example("stripes", "Stripes", "drawn here", stripes)], Access(token=TOKEN))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws_per_message_deflate=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


def test_a_refused_gesture_is_told_and_the_stream_goes_on(address: str) -> None:
    with Client(address, TOKEN) as client:
        client.start("stripes")
        client.drag(300, 16, radius=0)
        with pytest.raises(ServerError, match="outside the picture"):
            for _ in client.chunks(seconds=5):
                pass
        assert len(next(client.chunks()).frames)


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_a_drag_is_in_the_frames_that_come(address: str, codec) -> None:
    with Client(address, TOKEN, codec) as client:
        assert client.hello["model"] == "debug"
        started = client.start("stripes", prompt="stripes", seed=5)
        assert started["seed"] == 5 and started == client.started
        with client.drag(8, 16, radius=0) as drag:
            drag.move(20, 16)
            for chunk in client.chunks():
                assert chunk.frames.shape == (len(chunk.positions), 32, 32, 3) and chunk.frames.dtype == np.uint8
                if chunk.delay is not None and chunk.positions.shape[1] and chunk.positions[-1, 0, 0] == 20:
                    break
        assert 0 < chunk.delay < chunk.arrived
        pin = client.pin(4, 4, radius=0)
        while not any(group == [pin, "pin", 1] for group in chunk.header["groups"]):
            chunk = next(client.chunks())
        client.stop()
        assert client.wait_for("ended")["reason"] == "stopped"


def test_a_video_and_a_webcam_are_followed(address: str, tmp_path) -> None:
    wide = np.repeat(np.repeat(np.random.default_rng(3).integers(0, 256, (16, 20, 3), np.uint8), 4, 0), 4, 1)
    film = np.stack([np.roll(wide, step, axis=1) for step in range(48)])
    write_video(tmp_path / "film.mp4", film, 24)
    with Client(address, TOKEN) as client:
        video = client.upload_video(tmp_path / "film.mp4")
        assert video["size"] == [64, 80] and video["frames"] == 48
        client.start("stripes")
        client.follow(video["name"], align=[(40, 32, 16, 16)], repeat=True)
        while not (chunk := next(client.chunks())).header["groups"]:
            pass
        assert chunk.header["groups"][0][:2] == [-2, "follow"]
        assert np.nanmax(np.ptp(chunk.positions[..., 0], axis=0)) > 2
        client.unfollow()
        while (chunk := next(client.chunks())).header["groups"]:
            pass
        client.follow(webcam=(64, 80))
        client.look(film[0])
        while not (chunk := next(client.chunks())).header["groups"]:
            pass
        client.look(film[0, :40])
        with pytest.raises(ServerError, match="80x40, but 80x64 were announced"):
            client.wait_for("ended")
        (tmp_path / "no.mp4").write_bytes(b"no video")
        with pytest.raises(ServerError, match="it is no video"):
            client.upload_video(tmp_path / "no.mp4")


def test_chunks_end_after_so_much_video_or_with_the_stream(address: str) -> None:
    with Client(address, TOKEN) as client:
        client.start("stripes")
        chunks = list(client.chunks(seconds=1.0))
        assert sum(len(chunk.frames) for chunk in chunks) == 33 and [chunk.first for chunk in chunks] == [0, 9, 21]
        client.stop()
        assert len(list(client.chunks())) <= 3


def test_one_stream_begins_right_after_another(address: str) -> None:
    with Client(address, TOKEN, "jpeg") as client:
        for seed in range(3):
            assert client.start("stripes", seed=seed)["seed"] == seed
            client.send("erase", gesture=77)
            client.stop()
            time.sleep(0.5)  # that it was refused, and that the stream has ended, is on its way by now


def test_an_uploaded_picture_begins_a_stream(address: str, tmp_path) -> None:
    with Client(address, TOKEN, "jpeg") as client:
        picture = np.zeros((40, 40, 3), np.uint8)
        picture[..., 0] = 200
        client.start(client.upload(picture))
        assert next(client.chunks()).frames.shape[1:] == (32, 32, 3)
        (tmp_path / "no.png").write_bytes(b"no picture")
        with pytest.raises(ServerError, match="cannot read this file: it is no picture"):
            client.upload(tmp_path / "no.png")


def test_a_depth_map_is_the_streams(address: str, tmp_path) -> None:
    np.save(tmp_path / "depth.npy", np.ones((32, 32)))
    with Client(address, TOKEN, "jpeg") as client:
        depth = client.upload_depth("stripes", tmp_path / "depth.npy", inverse=True)
        assert client.start("stripes", depth=depth)["depth"] is True
        np.save(tmp_path / "depth.npy", np.ones((32, 90)))
        with pytest.raises(ServerError, match="a depth map of 90x32"):
            client.upload_depth("stripes", tmp_path / "depth.npy")


def test_a_lost_session_is_found_again(address: str) -> None:
    with Client(address, TOKEN) as client:
        session = client.start("stripes")["session"]
        last = list(client.chunks(seconds=0.5))[-1]
    with Client(address, TOKEN) as client:
        assert client.rejoin(session)["frame"] > last.first
        assert next(client.chunks()).first > last.first
        with pytest.raises(ServerError, match="that stream has ended"):
            client.rejoin("another")


def test_a_share_link_is_watched_without_the_token(address: str) -> None:
    with Client(address, TOKEN) as owner:
        share = owner.start("stripes")["share"]
        with Client(address, share=share) as watcher:
            watcher.wait_for("started")
            assert next(watcher.chunks()).delay is None
            watcher.stop()
            with pytest.raises(ServerError, match="only shows the stream"):
                watcher.wait_for("ended")


def test_what_the_server_refuses_is_told_in_its_words(address: str) -> None:
    with pytest.raises(ServerError, match="does not let us in; is the token right"):
        Client(address, "another-token-of-the-test")
    with pytest.raises(ServerError, match="cannot be reached"):
        Client("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="address is 'localhost'; give one like"):
        Client("localhost")
    with Client(address, TOKEN) as client:
        with pytest.raises(ServerError, match="there is no picture 'nothing'"):
            client.start("nothing")
        client.send("explode")
        with pytest.raises(ServerError, match="explode"):
            client.wait_for("started")
    with pytest.raises(ServerError, match="the connection is closed"):
        client.stop()
