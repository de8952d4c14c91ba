import numpy as np
import pytest
from PIL import Image

from motionstream.cli import main
from motionstream.media.pictures import read_picture
from motionstream.tracks import Tracks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a photograph and its depth map, as bright as near."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    near = np.full((64, 96), 10000, np.uint16)
    near[:, 40:56] = 60000
    Image.fromarray(near).save(tmp_path / "near.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_camera_becomes_tracks_and_a_preview(folder, capsys):
    arguments = ["--pan", "0.25,0", "--zoom", "1.2", "--seconds", "1", "--size", "96x64", "--preview", "p.png"]
    assert main(["camera", "photo.png", *arguments]) == 0
    said = capsys.readouterr().out
    assert "a plain guess" in said and "24 frames of 96x64 at 24 fps" in said
    tracks = Tracks.load("photo.npz")
    assert tracks.length == 24 and tracks.size == (64, 96) and tracks.count > 30
    seen = tracks.visible[0] & tracks.visible[-1]
    assert (tracks.positions[-1] - tracks.positions[0])[seen][:, 0].mean() < -10
    assert read_picture("p.png").shape[1] > 4 * 96


def test_depth_makes_what_is_near_go_further(folder):
    arguments = ["--pan", "0.1,0", "--camera-ease", "linear", "--seconds", "1", "--size", "96x64"]
    assert main(["camera", "photo.png", "--depth", "near.png", "--inverse-depth", "-o", "d.npz", *arguments]) == 0
    tracks = Tracks.load("d.npz")
    seen = tracks.visible[0] & tracks.visible[-1]
    gone = (tracks.positions[-1] - tracks.positions[0])[:, 0]
    pillar = np.abs(tracks.positions[0, :, 0] - 47.5) < 8
    assert np.allclose(gone[seen & pillar] / gone[seen & ~pillar].mean(), 6, rtol=1e-3)  # FAR


def test_stream_moves_the_camera_over_a_drag(folder, capsys):
    model = ["--model", "debug", "--untrained", "--seconds", "1", "--radius", "0"]
    drag = ["--drag", "16,16:24,16", "--save-tracks", "t.npz"]
    assert main(["stream", "photo.png", *model, *drag, "--pan", "0.25,0", "-o", "out.mp4"]) == 0
    tracks = Tracks.load("t.npz")
    assert tracks.size == (32, 32) and tracks.count > 4
    object_ = tracks.positions[:, -1]  # objects come last
    assert np.allclose(object_[0], (16, 16)) and np.allclose(object_[-1, 1], 16, atol=0.5)
    assert object_[-1, 0] == pytest.approx(24 - 8, abs=1.5)  # dragged right, and the camera goes right


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the camera stays where it is"),
        (["--pan", "1"], "--pan: '1' is not a point"),
        (["--pan", "nan,0"], "finite"),
        (["--zoom", "0"], "camera zoom is 0"),
        (["--dolly", "1"], "camera dolly is 1"),
        (["--zoom", "2", "--seconds", "0"], "--seconds is 0"),
        (["--zoom", "2", "--seconds", "1e9"], "--seconds is 1e+09"),
        (["--zoom", "2", "--size", "big"], "--size is 'big'"),
        (["--zoom", "2", "--depth", "none.npy"], "none.npy"),
        (["--zoom", "2", "--depth", "photo.png"], "not 16-bit grey"),
        (["--zoom", "2", "--inverse-depth"], "--inverse-depth has no effect"),
        (["--zoom", "2", "--depth", "near.png", "--depth-model", "x"], "give one of them"),
        (["--zoom", "2", "--depth-model", "x"], "there is no folder x"),
        (["--zoom", "2", "-o", "t.txt"], "t.txt"),
        (["--zoom", "2", "--depth", "near.png", "--preview", "near.png"], "cannot write near.png"),
    ],
)
def test_bad_values_are_one_line(folder, capsys, arguments, words):
    assert main(["camera", "photo.png", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["near.png", "photo.png"]
