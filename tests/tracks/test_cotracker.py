"""The adapters against predictors that are as strict about how they are called as CoTracker3's own, and no cleverer."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from motionstream.data.encode import PrepareSettings
from motionstream.tracks.tracker import TRACKERS, CoTracker, CoTrackerOnline, make_tracker

SIZE = (48, 64)

# Both read a frame's number off its pixels, so that what they answer shows which frames they saw, and move every point
# by `speed` a frame. Points that start left of x = 10 are hidden.
HUBCONF = """
import torch

def check(video, queries):
    assert video.shape[0] == 1 and video.shape[2] == 3 and video.dtype == torch.float32
    if queries is not None:
        assert queries.shape[0] == 1 and queries.shape[2] == 3 and (queries[..., 0] == 0).all()

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.speed = torch.nn.Parameter(torch.zeros(2))

class Predictor(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Model()

    def answer(self, video, queries):
        frame = video[0, :, 0, 0, 0]
        seen = (queries[:, None, :, 1] > 10).expand(-1, len(frame), -1)
        return queries[:, None, :, 1:] + frame[None, :, None, None] * self.model.speed, seen

class Offline(Predictor):
    def forward(self, video, queries):
        check(video, queries)
        return self.answer(video, queries)

class Online(Predictor):
    step = 8

    def __init__(self):
        super().__init__()
        self.windows = []

    def forward(self, video_chunk, is_first_step=False, queries=None, grid_size=5, add_support_grid=False):
        check(video_chunk, queries)
        if is_first_step:
            self.queries, self.last, self.support = queries, None, add_support_grid
            self.windows.append([])
            return None, None
        assert self.support == add_support_grid, "it cuts off the support it was told of first"
        frames = video_chunk.shape[1]
        self.windows[-1].append(frames)
        assert 1 <= frames <= 2 * self.step, "at most a window at once"
        found, seen = self.answer(video_chunk, self.queries)
        found[:, self.step :] += 0.25  # seen once, not yet bettered
        if self.last is not None:
            assert self.last.shape[1] == 2 * self.step, "only the last window may be short"
            assert frames > self.step, "it brings new frames"
            assert torch.equal(video_chunk[:, : self.step], self.last[:, self.step :]), "half of it is the last one's"
            kept = self.found.shape[1] - self.step
            found, seen = torch.cat([self.found[:, :kept], found], 1), torch.cat([self.seen[:, :kept], seen], 1)
        self.last, self.found, self.seen = video_chunk, found, seen
        return found, seen

def cotracker3_offline(pretrained):
    assert not pretrained, "nothing is downloaded"
    return Offline()

def cotracker3_online(pretrained):
    assert not pretrained, "nothing is downloaded"
    return Online()
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    torch.save({"speed": torch.tensor([0.5, -0.25])}, tmp_path / "weights.pth")
    return tmp_path


@pytest.fixture(params=[CoTracker, CoTrackerOnline])
def tracker(request, repository):
    return request.param(repository, repository / "weights.pth")


@pytest.fixture
def online(repository):
    return CoTrackerOnline(repository, repository / "weights.pth")


def numbered(frames: int) -> np.ndarray:
    """Frame t is of colour t."""
    return np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, *SIZE, 3)).copy()


def test_predictors_are_handed_what_they_expect(tracker):
    points = np.array([[20.0, 40.0], [5.0, 40.0], [500.0, 3.0], [60.0, 20.0]], np.float32)
    tracks = tracker.track(numbered(13), points, fps=16)
    assert tracks.fps == 16 and tracks.size == SIZE and tracks.ids.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(tracks.positions[:, 0], [20, 40] + np.arange(13)[:, None] * [0.5, -0.25], atol=0.25)
    np.testing.assert_allclose(tracks.positions[0], points)
    assert tracks.visible[0].tolist() == [True, True, False, True]  # those inside are where they were asked for
    assert tracks.visible[1:, :3].tolist() == [[True, False, False]] * 12  # seen, hidden, outside
    assert tracks.visible[:, 3].tolist() == [True] * 7 + [False] * 6  # leaves at the right
    assert tracks.positions[-1, 1, 0] == pytest.approx(11, abs=0.3), "hidden points are followed all the same"


def test_without_points_inside_nothing_is_asked(tracker):
    tracks = tracker.track(numbered(3), np.array([[-5.0, 3.0], [70.0, 3.0]]))
    assert not tracks.visible.any() and tracks.length == 3
    assert tracker.track(numbered(3), np.zeros((0, 2))).count == 0
    with pytest.raises(ValueError, match="video is float64"):
        tracker.track(numbered(3).astype(float), np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("frames", "windows"),
    [
        (1, [1]),
        (7, [7]),
        (8, [8]),
        (9, [9]),
        (16, [16]),
        (17, [16, 9]),
        (24, [16, 16]),
        (25, [16, 16, 9]),
        (81, [16] * 9 + [9]),
    ],
)
def test_windows_cover_a_video_of_any_length(online, frames: int, windows: list[int]):
    tracks = online.track(numbered(frames), np.array([[12.0, 44.0]]))
    assert online.model.windows == [windows]
    exact = [12, 44] + np.arange(frames)[:, None] * [0.5, -0.25]
    once = np.arange(frames) >= 8 * len(windows)  # frames that only the last window saw
    np.testing.assert_allclose(tracks.positions[:, 0], exact + 0.25 * once[:, None])
    assert tracks.visible.all()


def test_every_video_begins_anew(online):
    first = online.track(numbered(30), np.array([[12.0, 44.0], [30.0, 40.0]]))
    second = online.track(numbered(20), np.array([[15.0, 40.0]]))
    again = online.track(numbered(30), np.array([[12.0, 44.0], [30.0, 40.0]]))
    assert second.positions.shape == (20, 1, 2) and second.positions[4, 0].tolist() == [17, 39]
    np.testing.assert_array_equal(first.positions, again.positions)
    assert len(online.model.windows) == 3


@pytest.mark.parametrize(("form", "file"), [(CoTracker, "scaled_offline.pth"), (CoTrackerOnline, "scaled_online.pth")])
def test_what_is_absent_is_named(form, file: str, repository, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"nowhere has no hubconf\.py.*CC BY-NC"):
        form(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"other\.pth does not exist; download .*{file} \(CC BY-NC"):
        form(repository, tmp_path / "other.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="facebookresearch_co-tracker_main has no hubconf"):
        form()
    with pytest.raises(ValueError, match=f"checkpoints/{file} does not exist"):
        form(repository)
    torch.save({"time_emb": torch.zeros(3)}, tmp_path / "else.pth")
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    for name in ("else.pth", "damaged.pth"):
        with pytest.raises(ValueError, match=rf"{name} is damaged or not for {form.ENTRY} .*give .*{file}"):
            form(repository, tmp_path / name)
    (repository / "hubconf.py").write_text("dependencies = ['torch']\n")
    with pytest.raises(ValueError, match=rf"cannot make {form.ENTRY} .*update the clone"):
        form(repository, repository / "weights.pth")


def test_they_have_names(repository):
    files = (str(repository), str(repository / "weights.pth"))
    assert type(make_tracker("cotracker", files)) is CoTracker
    assert type(make_tracker("cotracker-online", files)) is CoTrackerOnline
    assert get_args(get_type_hints(PrepareSettings)["tracker"]) == TRACKERS
