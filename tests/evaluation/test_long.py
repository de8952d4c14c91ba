"""Drift: the gesture stays in its region, is taken up again with new ids, and the curve is printed."""

import json

import numpy as np
import pytest

from motionstream.evaluation import long
from motionstream.tracks import Tracks

SIZE = (128, 128)


def test_the_drag_goes_there_and_back_in_one_period():
    tracks = long.drag_at(0, 121, SIZE, swing=120, held=True)
    moved = tracks.positions[:, 0, 0] - tracks.positions[0, 0, 0]
    assert moved[60] == pytest.approx(long.REACH * 128, abs=0.01) and moved[120] == pytest.approx(0, abs=0.01)
    assert np.ptp(tracks.positions[:, -1], axis=0).max() == 0  # the pin rests


def test_the_still_region_is_away_from_every_dragged_point():
    mask = long.still_region(SIZE)
    tracks = long.drag_at(0, 121, SIZE, swing=120, held=True)
    moving = np.ptp(tracks.positions[..., 0], axis=0) > 1
    x, y = tracks.positions[:, moving].reshape(-1, 2).round().astype(int).T
    assert not mask[y, x].any() and mask.mean() > 0.6
    assert mask[round(long.PIN[1] * 128), round(long.PIN[0] * 128)]


def test_a_held_drag_keeps_its_ids_and_one_taken_up_again_does_not():
    starts = [0, *range(9, 12 * 24, 12)]
    for held in (True, False):
        chunks = [long.drag_at(s, 12 if s else 9, SIZE, swing=120, held=held) for s in starts]
        identities = {tuple(chunk.ids) for chunk in chunks}
        counts = [chunk.count for chunk in chunks]
        assert len(identities) == (1 if held else 3 + 1)  # three periods, and the pin alone in between
        assert counts.count(min(counts)) == (len(counts) if held else 2)
        joined = Tracks.join(chunks)
        for row in range(joined.count):  # every drag begins and ends where its content is: at rest
            x = joined.positions[joined.visible[:, row], row, 0]
            assert x[0] == min(x) and np.abs(np.diff(x)).max() < 1
            assert held or joined.visible[-1, row] or x[-1] == pytest.approx(x[0], abs=0.1)


def test_evaluate_long_end_to_end(tmp_path, capsys):
    output = tmp_path / "long.json"
    result = long.evaluate_long("debug", seconds=10, untrained=True, output=output)
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == json.loads(output.read_text()) == result
    curves = result["still_psnr_by_swing"]
    assert set(curves) == {f"{p}, {h}" for p in long.PATTERNS for h in ("held", "taken up again")}
    assert all(len(curve) == 2 and min(curve) > 5 for curve in curves.values())


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="seconds = 1"):
        long.evaluate_long("debug", seconds=1, untrained=True)
    with pytest.raises(ValueError, match="'astronaut' is not held out"):
        long.evaluate_long("debug", photograph="astronaut", untrained=True)
