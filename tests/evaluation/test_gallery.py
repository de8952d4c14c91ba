"""The gallery measures what moved and what stayed; its command makes sheets, a page and numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motionstream.cli import main
from motionstream.evaluation.gallery import TRIALS, evaluate_gallery, means, measure
from motionstream.evaluation.photographs import read_photographs
from motionstream.media.pictures import fit
from motionstream.tracks import Tracks

FOLDER = Path(__file__).parents[2] / "examples" / "photographs"
SIZE = (128, 128)


@pytest.fixture(scope="module")
def gravel():
    photograph = next(one for one in read_photographs(FOLDER) if one.name == "gravel")
    return photograph, fit(photograph.read(), SIZE)[0]


def test_a_picture_that_follows_and_one_that_rests(gravel):
    photograph, picture = gravel
    tracks = photograph.dragged(45, SIZE, 24)
    corners = np.array(photograph.corners(SIZE), np.float32)
    rests = measure(np.repeat(picture[None], 45, axis=0), picture, tracks, corners)
    asked = np.linalg.norm(tracks.positions - tracks.positions[:1], axis=-1)
    assert rests["follow"] == pytest.approx(np.median(asked[asked >= 4]), abs=0.2)
    assert rests["corners"] < 0.05 and rests["corners_lost"] == 0 and rests["lost"] == 0
    assert rests["blocks"] == pytest.approx(1)
    # the whole picture goes along: dragged points arrive, and so do the corners
    shifts = np.round(tracks.positions[:, 0] - tracks.positions[0, 0]).astype(int)
    moved = np.stack([np.roll(picture, tuple(shift[::-1]), axis=(0, 1)) for shift in shifts])
    whole = Tracks(tracks.positions[:1] + shifts[:, None], tracks.visible, SIZE, 24)
    follows = measure(moved, picture, whole, corners[:1])
    assert follows["follow"] < 0.2
    assert follows["corners"] == pytest.approx(np.linalg.norm(shifts[-1]), abs=0.3)


def test_cells_of_one_colour_are_blocks(gravel):
    photograph, picture = gravel
    cells = picture.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3))
    coarse = np.repeat(np.repeat(cells, 8, axis=0), 8, axis=1).astype(np.uint8)
    half = (coarse // 2 + picture // 2).astype(np.uint8)
    tracks = photograph.dragged(45, SIZE, 24)
    assert measure(np.repeat(half[None], 45, axis=0), picture, tracks, np.zeros((0, 2)))["blocks"] > 1.1


def test_means_are_of_what_is_known():
    def row(value):
        other = {"model": dict.fromkeys(("follow", "lost", "corners", "corners_lost", "blocks"), value)}
        return {trial: {**other, "warp only": dict.fromkeys(other["model"], 1.0)} for trial in TRIALS}

    found = means({"a": row(2.0), "b": row(4.0), "c": row(None)})["drag"]
    assert found["model"]["follow"] == {"value": 3, "low": 2, "high": 4}
    assert found["model - warp only"]["corners"] == {"value": 2, "low": 1, "high": 3}
    assert means({"c": row(None)})["camera"]["model"]["follow"] is None


def test_the_command_makes_sheets_a_page_and_numbers(tmp_path, capsys):
    folder = tmp_path / "gallery"
    options = ["--model", "debug", "--untrained", "--only", "owl", "--only", "gravel", "--folder", str(folder)]
    assert main(["evaluate", "gallery", "--photographs", str(FOLDER), *options]) == 0
    result = json.loads((folder / "gallery.json").read_text())
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == result
    assert list(result["photographs"]) == ["owl", "gravel"]
    for name in result["photographs"]:
        with Image.open(folder / f"{name}.jpg") as sheet:
            assert sheet.size == (6 * 50 - 2, 3 * 50 - 2)  # 32 pixels, half as large again
    page = (folder / "README.md").read_text()
    assert "](owl.jpg)" in page and "Lepale, CC0 1.0" in page and "evaluate gallery" not in result["model"]["name"]


def test_what_does_not_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no photograph 'dodo'"):
        evaluate_gallery(FOLDER, tmp_path, "debug", names=["dodo"], untrained=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        evaluate_gallery(FOLDER, tmp_path / "file", "debug", untrained=True)
    with pytest.raises(ValueError, match="has the photographs"):
        evaluate_gallery(FOLDER, FOLDER, "debug", untrained=True)
    assert main(["evaluate", "gallery", "--clips", "3"]) == 2
    assert main(["evaluate", "rendered", "--only", "owl"]) == 2


def test_elsewhere_than_in_the_repository_it_says_where_it_looked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "gallery"]) == 2
    said = capsys.readouterr().err
    assert (
        f"--photographs {tmp_path / 'examples' / 'photographs'};" in said
        and "root of MotionStream's repository" in said
    )
    assert not list(tmp_path.iterdir())


def test_unless_told_it_does_not_write_into_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        "motionstream.evaluation.gallery.evaluate_gallery", lambda *given, **more: asked.append((given, more))
    )
    options = ["--photographs", str(FOLDER), "--model", "debug", "--untrained", "--only", "owl"]
    assert main(["evaluate", "gallery", *options]) == 0
    assert Path("work/gallery") in asked[0][0]
