"""Recorded sessions over HTTP, and going on from one over the WebSocket."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from motionstream.media.videos import read_video
from motionstream.server.protocol import VERSION
from motionstream.server.serving import open_library
from motionstream.session.recording import Recording
from motionstream.tracks import Tracks


def until(socket, kind: str) -> dict:
    """The next control message of this type, or chunk's header ("chunk")."""
    while True:
        message = socket.receive()
        if message.get("bytes"):
            length = int.from_bytes(message["bytes"][4:8], "little")
            content = {"type": "chunk", **json.loads(message["bytes"][8 : 8 + length])}
        else:
            content = json.loads(message["text"])
        if content["type"] == kind:
            return content
        assert content["type"] != "failed", content


@pytest.fixture(scope="module")
def recorded(client: TestClient) -> str:
    """The name of a session of at least three chunks, with a pin."""
    with client.websocket_connect("/ws") as socket:
        assert "recording" in until(socket, "hello")["capabilities"]
        socket.send_json({"type": "start", "protocol": VERSION, "picture": "checkers", "prompt": "snow"})
        name = until(socket, "started")["recording"]
        socket.send_json({"type": "pin", "t": 1.0, "gesture": 1, "x": 9, "y": 9})
        until(socket, "accepted")
        while until(socket, "chunk")["chunk"] < 2:
            pass
        socket.send_json({"type": "stop"})
        until(socket, "ended")
    return name


def test_a_session_s_timeline(client: TestClient, recorded: str) -> None:
    content = client.get(f"/api/sessions/{recorded}").json()
    assert content["model"] == "debug" and content["size"] == [32, 32] and content["prompt"] == "snow"
    assert content["frames"][:3] == [9, 12, 12] and content["changes"] in ([[0, "pin"]], [[1, "pin"]])


def test_a_session_can_be_had_as_every_kind_of_file(client: TestClient, recorded: str, tmp_path: Path) -> None:
    def fetch(kind: str, suffix: str) -> Path:
        answer = client.get(f"/api/sessions/{recorded}/{kind}")
        assert answer.status_code == 200
        assert f'filename="motionstream-{recorded}{suffix}"' in answer.headers["content-disposition"]
        (tmp_path / f"file{suffix}").write_bytes(answer.content)
        return tmp_path / f"file{suffix}"

    recording = Recording.read(fetch("recording", ".jsonl"))
    frames, fps = read_video(fetch("mp4", ".mp4"))
    assert fps == 24 and len(frames) == recording.frames >= 33
    assert Tracks.load(fetch("tracks", ".npz")).length == recording.frames
    with Image.open(io.BytesIO(fetch("gif", ".gif").read_bytes())) as gif:
        assert gif.size == (32, 32)
    assert np.ptp(frames) > 50


def test_what_is_not_there_is_said(client: TestClient, recorded: str) -> None:
    for address, word in (
        ("/api/sessions/2026-01-01-000000-0123456789abcdef", "there is no session"),
        ("/api/sessions/2026-01-01-000000-0123456789abcdef/mp4", "there is no session"),
        (f"/api/sessions/{recorded}/exe", "choose mp4, gif, tracks, recording"),
    ):
        answer = client.get(address)
        assert answer.status_code == 404 and word in answer.json()["detail"]


def test_a_stream_goes_on_from_an_earlier_chunk(client: TestClient, recorded: str) -> None:
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "start", "protocol": VERSION, "recording": recorded, "chunk": 2})
        assert until(socket, "started")["recording"] != recorded
        assert until(socket, "replaying") == {"type": "replaying", "done": 1, "of": 2}
        continued = until(socket, "continued")
        assert continued["chunk"] == 2 and continued["frame"] == 21 and continued["prompt"] == "snow"
        chunk = until(socket, "chunk")
        assert (chunk["chunk"], chunk["first"]) == (2, 21)
        assert [group[:2] for group in chunk["groups"]] == continued["gestures"]


def test_a_session_file_can_be_brought_along(client: TestClient, recorded: str) -> None:
    file = client.get(f"/api/sessions/{recorded}/recording").content
    answer = client.post("/api/sessions", content=file).json()
    name = answer.pop("name")
    assert name != recorded and answer == client.get(f"/api/sessions/{recorded}").json()
    assert "not all of it was kept" in client.get(f"/api/sessions/{name}/mp4").json()["detail"]
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "start", "protocol": VERSION, "recording": name, "chunk": 1})
        assert until(socket, "continued")["chunk"] == 1
    for content, word in ((b"\xff\xd8\n", "this file: line 1 is not JSON"), (b"{}\n", "no session of MotionStream")):
        answer = client.post("/api/sessions", content=content)
        assert answer.status_code == 422 and word in answer.json()["detail"]


def test_a_start_from_what_is_not_there_is_refused(client: TestClient, recorded: str) -> None:
    with client.websocket_connect("/ws") as socket:
        for fields, word in (
            ({"recording": "../../etc/passwd"}, "there is no session"),
            ({"recording": recorded, "chunk": 999}, "chunk is 999; the recording has"),
        ):
            socket.send_json({"type": "start", "protocol": VERSION, **fields})
            message = json.loads(socket.receive()["text"])
            while message["type"] == "hello":
                message = json.loads(socket.receive()["text"])
            assert message["type"] == "failed" and word in message["message"]


def test_where_recordings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with open_library(None, False) as library:
        assert library.folder == tmp_path / "state" / "motionstream" / "sessions"
    with open_library(tmp_path / "mine", False) as library:
        assert library.folder == tmp_path / "mine"
    with open_library(None, True) as library:
        assert tmp_path not in library.folder.parents
    with pytest.raises(ValueError, match="choose one"):
        open_library(tmp_path, True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot keep"):
        open_library(tmp_path / "file" / "x", False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="kept while the server runs only"), open_library(None, False) as library:
        assert library.folder.is_dir()
