"""The twenty photographs have credits and gestures; a camera's grid grows around the middle; bad tables are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from motionstream.data.photographs import TRAIN
from motionstream.evaluation.photographs import PAN, ZOOM, camera, read_photographs, to_pixels

FOLDER = Path(__file__).parents[2] / "examples" / "photographs"


def test_the_photographs_are_small_and_free_and_in_no_training():
    found = read_photographs(FOLDER)
    assert len(found) == 20 and {path.stem for path in FOLDER.glob("*.jpg")} == {one.name for one in found}
    table = (FOLDER / "README.md").read_text()
    for photograph in found:
        height, width, _ = photograph.read().shape
        assert height == width >= 240 and photograph.path.stat().st_size < 40_000
        assert photograph.licence in ("public domain", "CC0 1.0") and photograph.author
        assert f"| `{photograph.name}.jpg` | {photograph.title} | {photograph.kind} | {photograph.author}" in table
        assert photograph.name not in TRAIN
        # walking speed: 6 pixels of 128 in 12 frames
        start, end = (np.array(to_pixels(place, (128, 128))) for place in photograph.drag)
        assert 10 < np.linalg.norm(end - start) < 22


def test_corners_near_the_drag_are_not_pinned():
    photographs = {one.name: one for one in read_photographs(FOLDER)}
    assert len(photographs["gravel"].corners((128, 128))) == 4
    macaw = photographs["macaw"]  # dragged in the upper left
    corners = macaw.corners((128, 128))
    assert len(corners) == 3 and to_pixels((0.1, 0.1), (128, 128)) not in corners
    drag, both = macaw.dragged(45, (128, 128), 24), macaw.pinned(45, (128, 128), 24)
    pins = both.select(np.arange(drag.count, both.count))
    assert np.array_equal(both.positions[:, : drag.count], drag.positions)
    assert pins.count >= 3 and np.ptp(pins.positions, axis=0).max() == 0


def test_a_camera_comes_nearer_and_turns_aside():
    tracks = camera(45, (128, 192), 24.0)
    first, last = tracks.positions[0], tracks.positions[-1]
    assert tracks.visible[0].all() and not tracks.visible[-1].all()
    middle = np.array([191, 127]) / 2
    assert np.allclose(last - middle - ZOOM * (first - middle), [PAN[0] * 192, PAN[1] * 128], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].pop("author"), "an entry has"),
        (lambda rows: rows[0].update(drag=[[0.5, 0.5], [0.5, 1.5]]), "fractions of the picture"),
        (lambda rows: rows[0].update(radius=0), "positive number"),
        (lambda rows: rows[0].update(drag=[[0.5]]), "cannot read"),
        (lambda rows: rows[0].update(name="gone"), "not there"),
        (lambda rows: rows.clear(), "names no picture"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, change, message):
    rows = json.loads((FOLDER / "photographs.json").read_text())[:1]
    (tmp_path / "chelsea.jpg").write_bytes((FOLDER / "chelsea.jpg").read_bytes())
    (tmp_path / "photographs.json").write_text(json.dumps(rows))
    assert read_photographs(tmp_path)[0].name == "chelsea"
    change(rows)
    (tmp_path / "photographs.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_photographs(tmp_path)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no photographs\.json"):
        read_photographs(tmp_path)
