import numpy as np
import pytest
from PIL import Image

from motionstream.cli import main
from motionstream.media.videos import write_video
from motionstream.tracks import Tracks, grid_points
from motionstream.tracks.tracker import TemplateTracker


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A texture that moves a pixel a frame to the right, as clip.mp4 in the working directory."""
    small = np.random.default_rng(2).integers(0, 256, (16, 32, 3), np.uint8)
    wide = np.asarray(Image.fromarray(small).resize((128, 64), Image.Resampling.BICUBIC))
    frames = np.stack([np.roll(wide, frame, axis=1)[:, 32:96] for frame in range(10)])
    monkeypatch.chdir(tmp_path)
    write_video("clip.mp4", frames, 12, crf=0)
    return frames


@pytest.mark.parametrize("tracker", ["lucas-kanade", "template"])
def test_the_motion_is_found(clip, capsys, tracker):
    assert main(["track", "clip.mp4", "-o", "t.npz", "--grid", "12", "--tracker", tracker]) == 0
    assert "144 tracks over 10 frames of 64x64 at 12 fps" in capsys.readouterr().out
    tracks = Tracks.load("t.npz")
    assert tracks.fps == 12 and tracks.ids.tolist() == list(range(144))
    assert np.array_equal(tracks.positions[0], grid_points((64, 64), 12))
    seen = tracks.visible[-1]
    assert seen.mean() > 0.5
    shift = np.median((tracks.positions[-1] - tracks.positions[0])[seen], axis=0)
    assert np.allclose(shift, [9, 0], atol=0.2)


def test_groups_of_points_change_nothing(clip):
    from motionstream.media.videos import read_video

    assert main(["track", "clip.mp4", "--grid", "12", "--tracker", "template"]) == 0
    video, fps = read_video("clip.mp4")
    whole = TemplateTracker().track(video, grid_points((64, 64), 12), fps)
    tracks = Tracks.load("clip.npz")
    assert np.array_equal(whole.visible, tracks.visible)
    assert np.allclose(whole.positions, tracks.positions, atol=1e-3)


@pytest.mark.parametrize("name", ["cotracker", "cotracker-online"])
def test_cotracker_follows_all_points_together(clip, monkeypatch, name):
    from motionstream.tracks import tracker as module

    asked = []

    def make(*arguments):
        asked.append(arguments)
        return Spy()

    class Spy(TemplateTracker):
        def track(self, video, points, fps=24.0):
            asked.append(len(points))
            return super().track(video, points, fps)

    monkeypatch.setattr(module, "make_tracker", make)
    arguments = ["--grid", "12", "--tracker", name, "--cotracker", "clone", "weights.pth", "--device", "cpu"]
    assert main(["track", "clip.mp4", *arguments]) == 0
    assert asked == [(name, ("clone", "weights.pth"), "cpu"), 144]
    assert Tracks.load("clip.npz").count == 144


def test_limit(clip):
    assert main(["track", "clip.mp4", "-o", "t.npz", "--grid", "3", "--limit", "4"]) == 0
    assert Tracks.load("t.npz").length == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.mp4"], "none.mp4: there is no such file"),
        (["text.mp4"], "text.mp4: it is no video"),
        (["clip.mp4", "--grid", "0"], "--grid is 0"),
        (["clip.mp4", "--grid", "101"], "--grid is 101"),
        (["clip.mp4", "--limit", "0"], "--limit is 0"),
        (["clip.mp4", "--tracker", "magic"], "'magic'"),
        (["clip.mp4", "--cotracker", "a", "b"], "--cotracker has no effect with --tracker lucas-kanade"),
        (["clip.mp4", "--tracker", "template", "--device", "cpu"], "--device has no effect with --tracker template"),
        (["clip.mp4", "--tracker", "cotracker-online", "--cotracker", "a", "b"], "a has no hubconf.py"),
        (["clip.mp4", "--tracker", "cotracker", "--device", "abacus"], "abacus"),
        (["clip.mp4", "-o", "t.txt"], "t.txt"),
        (["clip.mp4", "-o", "none/t.npz"], "none/t.npz"),
    ],
)
def test_bad_values_are_one_line(clip, tmp_path, capsys, arguments, words):
    (tmp_path / "text.mp4").write_text("no video")
    assert main(["track", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "text.mp4"]


def test_a_video_cut_short_is_warned_of_in_one_line(clip, tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    write_video("long.mp4", frames, 12)
    whole = (tmp_path / "long.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert main(["track", "cut.mp4", "--grid", "2"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("motionstream: warning: cut.mp4 breaks off") and said.count("\n") == 1
