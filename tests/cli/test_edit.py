import numpy as np
import pytest
from PIL import Image

from motionstream.cli import main
from motionstream.media.pictures import read_picture
from motionstream.media.videos import read_video


@pytest.fixture
def folder(tmp_path, monkeypatch):
    small = np.random.default_rng(1).integers(0, 256, (12, 24, 3), np.uint8)
    Image.fromarray(small).resize((96, 48), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(*arguments: str) -> int:
    return main(["edit", "photo.png", "--model", "debug", "--untrained", *arguments])


def test_an_edit_has_the_photographs_size_and_leaves_its_margins(folder, capsys):
    assert edit("--drag", "0.5,0.5:0.8,0.5", "--transition", "t.mp4", "--preview", "p.png") == 0
    said = capsys.readouterr().out
    assert "photo-edited.png: 96x48, after 36 frames" in said
    edited, photo = read_picture("photo-edited.png"), read_picture("photo.png")
    assert edited.shape == photo.shape
    assert np.array_equal(edited[:, :20], photo[:, :20])  # cropped away by the model's square
    video, fps = read_video("t.mp4")
    assert video.shape == (36, 32, 32, 3) and fps == 24


def test_tracks_give_the_length_and_transparency_is_said(folder, capsys):
    from motionstream.tracks import drag_tracks

    drag_tracks((8, 16), (20, 16), 30, (32, 32)).save("t.npz")
    photo = Image.open("photo.png").convert("RGBA")
    photo.putpixel((50, 20), (0, 0, 0, 0))
    photo.save("photo.png")
    assert edit("--tracks", "t.npz") == 0
    said = capsys.readouterr().out
    assert "after 30 frames" in said and "photo.png: what is transparent is laid on white" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing is asked to move"),
        (["--drag", "1,1:2,2", "-o", "out.mp4"], "out.mp4"),
        (["--drag", "1,1:2,2", "--transition", "t.png"], "t.png"),
        (["--drag", "1,1:2,2", "-o", "photo.png"], "cannot write photo.png"),
        (["--drag", "1,1"], "not a drag"),
    ],
)
def test_bad_values_are_one_line(folder, capsys, arguments, words):
    assert edit(*arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["photo.png"]
