"""Uploaded videos: reduced and kept, or refused in words."""

from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from motionstream.media.videos import write_video
from motionstream.server import videos
from motionstream.server.videos import Videos


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds at 12 frames a second, 400x200, ever brighter."""
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    frames = np.full((24, 200, 400, 3), 20, np.uint8) + np.arange(0, 192, 8, dtype=np.uint8)[:, None, None, None]
    write_video(path, frames, 12.0)
    return path.read_bytes()


def test_a_video_is_brought_to_the_models_rate_and_reduced(client: TestClient, clip: bytes) -> None:
    answer = client.post("/api/videos", content=clip).json()
    assert answer["name"].startswith("upload-")
    assert answer | {"frames": 48, "fps": 24, "size": [160, 320], "note": ""} == answer


def test_what_is_too_long_is_cut_and_said(clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_SECONDS", 1.0)
    (tmp_path / "video").write_bytes(clip)
    kept = Videos(lambda: 24.0)
    name, video = kept.add(tmp_path / "video")
    assert len(video.frames) == 24 and video.note == "only the first 1 seconds are used"
    means = kept.get(name).frames.mean((1, 2, 3))
    assert np.abs(means - (20 + 8 * (np.arange(24) // 2))).max() < 3, "each source frame is shown twice"


def test_a_truncated_video_gives_what_it_has_or_a_sentence(client: TestClient, clip: bytes) -> None:
    answer = client.post("/api/videos", content=clip[: 2 * len(clip) // 3])
    assert answer.status_code == 200 and 0 < answer.json()["frames"] < 48
    for broken in (clip[: len(clip) // 20], b"", b"no video", bytes(range(256)) * 100):
        answer = client.post("/api/videos", content=broken)
        detail = answer.json()["detail"]
        assert answer.status_code == 422 and detail.startswith("cannot read this file: ") and "convert" in detail


def test_a_file_that_is_too_large_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_UPLOAD", 2**20)
    answer = client.post("/api/videos", content=bytes(2**20 + 1))
    assert answer.status_code == 413 and answer.json()["detail"] == "the file is larger than 1 MB; cut it first"


def test_old_ones_make_room(clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_UPLOADS", 2)
    (tmp_path / "video").write_bytes(clip)
    kept = Videos(lambda: 12.0)
    names = [kept.add(tmp_path / "video")[0] for _ in range(3)]
    with pytest.raises(ValueError, match=r"there is no video 'upload-.*' \(any more\); choose it again"):
        kept.get(names[0])
    assert kept.get(names[2]).fps == 12.0
