"""Drift: drags go there and back and are taken up where they were left, errors are of known motion, lines are pairs."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from motionstream.cli import main
from motionstream.evaluation import drift
from motionstream.evaluation.drift import DriftRow, by_second, comparisons, drags_at, schedule, turn_errors
from motionstream.evaluation.report import drift_figure
from motionstream.evaluation.scenes import held_out_clip
from motionstream.metrics import MAX_PSNR
from motionstream.presets import preset
from motionstream.tracks import Tracks
from motionstream.tracks.template import TemplateTracker

STARTS = [0, *range(9, 12 * 24, 12)]
TURN = 12 * drift.CHUNKS_A_TURN


@pytest.fixture(scope="module")
def clip():
    return held_out_clip(preset("nano"), 1)


def test_turns_go_there_or_back_from_where_they_were_left_and_rest_for_a_chunk():
    now = schedule(np.arange(3 * TURN - 3), 9, 12)
    assert np.abs(np.diff(now.frame)).max() == 1 and now.frame[0] == 0 and now.frame.max() == 35
    assert np.array_equal(np.flatnonzero(np.diff(now.turn)) + 1, [TURN - 3, 2 * TURN - 3])  # chunks' first frames
    back, there = (now.frame[now.turn == turn] for turn in (1, 2))
    assert back[:13].min() == 35 and back[-1] == 0 and there[:13].max() == 0 and there[-1] == 35
    assert np.array_equal(
        np.flatnonzero(~now.dragging), [*range(TURN - 3, TURN + 9), *range(2 * TURN - 3, 2 * TURN + 9)]
    )


@pytest.mark.parametrize("held", [True, False])
def test_drags_are_new_tracks_in_every_turn_unless_they_are_held(clip, held):
    frame = schedule(np.arange(STARTS[-1]), 9, 12).frame
    chunks = [drags_at(clip.drags, schedule(np.arange(*span), 9, 12), held=held) for span in pairwise(STARTS)]
    moving = np.ptp(clip.drags.positions, axis=0).max(axis=-1) > 0
    pins = set(np.flatnonzero(~moving))
    assert moving.any() and pins and all(pins <= set(chunk.ids) for chunk in chunks)
    kinds = [tuple(sorted(set(chunk.ids) - pins)) for chunk in chunks]
    assert len(set(kinds)) == (1 if held else 6 + 1) and kinds.count(()) == (0 if held else 5)
    joined = Tracks.join(chunks)
    for row in range(joined.count):  # every drag begins and ends where its content is
        seen = joined.positions[joined.visible[:, row], row]
        own = np.linalg.norm(np.diff(clip.drags.positions[:, joined.ids[row] % clip.drags.count], axis=0), axis=-1)
        assert np.linalg.norm(np.diff(seen, axis=0), axis=-1).max() <= own.max() + 1e-4
        first = frame[joined.visible[:, row].argmax()]
        assert np.abs(seen[0] - clip.drags.positions[first, joined.ids[row] % clip.drags.count]).max() < 1e-4


def test_a_true_video_has_the_trackers_error_and_a_still_one_the_whole_motion(clip):
    at = schedule(np.arange(2 * TURN), 9, 12)
    true = turn_errors(clip.video[at.frame], clip, at, TemplateTracker())
    still = turn_errors(np.repeat(clip.video[:1], 2 * TURN, axis=0), clip, at, TemplateTracker())
    assert np.isnan(true[~at.dragging]).all() and np.array_equal(np.isnan(true), np.isnan(still))
    assert np.nanmean(true) < 1 < 4 <= np.nanmin(still)
    # what is lost in one turn may be found again in the next
    gone = clip.video[at.frame].copy()
    gone[: TURN // 2] = 0
    errors = turn_errors(gone, clip, at, TemplateTracker())
    assert np.nanmean(errors[at.turn == 0]) > 4 and np.nanmean(errors[at.turn == 1]) < 1


def line(model, causal, psnr, epe):
    return DriftRow(model, causal, (), [np.array(row, float) for row in psnr], [np.array(row, float) for row in epe])


def test_lines_are_compared_clip_by_clip_over_the_last_seconds():
    nan = np.nan
    first = line("a", "c3s1w1", [[9, *[20] * 5], [9, *[30] * 5]], [[9, *[4] * 5], [9, *[8] * 4, nan]])
    better = line("b", "c3s1w1", [[0, *[21] * 5], [0, *[31] * 5]], [[0, *[3] * 5], [0, *[7] * 5]])
    sinkless = line("a", "c3s0w1", [[0, *[15] * 5], [0, *[29] * 5]], [[0, *[4] * 5], [0, *[8] * 5]])
    found = {(pair["of"], pair["minus"]): pair for pair in comparisons([first, better, sinkless])}
    assert set(found) == {("b c3s1w1", "a c3s1w1"), ("a c3s0w1", "a c3s1w1")}
    psnr, epe = (found["b c3s1w1", "a c3s1w1"][key] for key in ("psnr_difference", "epe_difference"))
    # clips 10 dB apart do not widen a paired interval
    assert psnr == {"value": 1, "low": 1, "high": 1} and epe == {"value": -1, "low": -1, "high": -1}
    assert found["a c3s0w1", "a c3s1w1"]["psnr_difference"] == {"value": -3, "low": -5, "high": -1}
    means = by_second(first.psnr)
    assert means[0].value == 9 and (means[1].value, means[1].low, means[1].high) == (25, 20, 30)
    assert by_second([np.array([nan, 1.0]), np.array([nan, 3.0])])[0] is None


def test_the_command_writes_numbers_and_a_figure(tmp_path, capsys):
    numbers, figure = tmp_path / "drift.json", tmp_path / "drift.png"
    options = [
        "--model",
        "debug",
        "--untrained",
        "--mixture",
        "--seconds",
        "6",
        "--clips",
        "1",
        "--causal",
        "c3s1w1",
        "--causal",
        "c3s0w1",
    ]
    assert main(["evaluate", "drift", *options, "-o", str(numbers), "--figure", str(figure)]) == 0
    result = json.loads(numbers.read_text())
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == result
    lines = [("debug", "c3s1w1"), ("debug", "c3s0w1"), ("carried mixture of debug", "c3s1w1")]
    assert [(row["model"], row["causal"]) for row in result["lines"]] == lines
    assert all(len(row["psnr"]) == len(row["epe"]) == 6 for row in result["lines"])
    # more than the cache holds of it: the streams of both patterns begin alike and go apart
    assert result["lines"][0]["psnr"][0] == result["lines"][1]["psnr"][0]
    best = result["reference"]["psnr"]
    assert len(best) == 6 and all(10 < coded["value"] < 60 for coded in best)
    # what is carried has not been through the code, and an untrained model's addition is noise
    assert all(10 < made["value"] <= MAX_PSNR for row in result["lines"] for made in row["psnr"])
    assert len(result["last_seconds"]["comparisons"]) == 2
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_mixture_is_the_model_without_its_transformer():
    made = list(drift._lines(["nano"], ["c3s0w1"], untrained=False, mixture=True))
    (line, model), (control, silent) = made
    assert (line.name, control.name) == ("nano c3s0w1", "carried mixture of nano c3s0w1")
    assert model.model.transformer.proj_out.weight.abs().max() > 0.01
    assert all(parameter.abs().max() == 0 for parameter in silent.model.transformer.proj_out.parameters())
    assert silent.config.causal.sink_chunks == 0


def test_a_second_without_motion_leaves_a_gap_in_the_curve(tmp_path):
    point = {"value": 2.0, "low": 1.0, "high": 3.0}
    lines = [{"model": name, "causal": "c3s1w1", "psnr": [point] * 3, "epe": [point, None, point]} for name in "ab"]
    drawn = {"settings": {"clips": 1, "held": False}, "reference": lines[0], "lines": lines[1:]}
    drift_figure(drawn, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_bad_settings_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="seconds = 1"):
        drift.evaluate_drift(["debug"], seconds=1, untrained=True)
    with pytest.raises(ValueError, match="clips = 0"):
        drift.evaluate_drift(["debug"], clips=0, untrained=True)
    assert main(["evaluate", "drift", "--figure", str(tmp_path / "a.jpg")]) == 2
    assert main(["evaluate", "rendered", "--model", "debug", "--model", "nano"]) == 2
    assert "one --model" in capsys.readouterr().err


def test_a_clip_in_which_nothing_counts_has_no_value_and_is_no_observation():
    nan = np.nan
    first = line("a", "c3s1w1", [[20] * 5, [30] * 5], [[4] * 5, [nan] * 5])
    second = line("b", "c3s1w1", [[21] * 5, [31] * 5], [[3] * 5, [nan] * 5])
    assert first.to_dict()["last_seconds_by_clip"]["epe"] == [4, None]
    [pair] = comparisons([first, second])
    assert pair["epe_difference"] == {"value": -1, "low": -1, "high": -1}
    [pair] = comparisons([replace(one, psnr=one.psnr[1:], epe=one.epe[1:]) for one in (first, second)])
    assert pair["epe_difference"] is None and pair["psnr_difference"]["value"] == 1
    json.dumps([first.to_dict(), pair], allow_nan=False)


def test_what_a_line_loses_on_its_way():
    fallen = line("a", "c3s1w1", [[*[25] * 5, 9, *[20] * 5], [*[35] * 5, 9, *[31] * 5]], [[1] * 11, [np.nan] * 11])
    assert drift.decline(fallen)["psnr"] == {"value": -4.5, "low": -5, "high": -4}
    assert drift.decline(fallen)["epe"] == {"value": 1, "low": 1, "high": 1}
    assert drift.decline(DriftRow("a", "", ())) == {"psnr": None, "epe": None}


def test_every_pattern_is_asked_for_the_same_motion(capsys):
    options = ["--model", "debug", "--untrained", "--seconds", "5", "--clips", "1", "--held"]
    patterns = ["c1s1w1", "c7s1w1"]
    assert main(["evaluate", "drift", *options, *[f"--causal={pattern}" for pattern in patterns]]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["causal"] for row in result["lines"]] == patterns
    assert all(len(row["psnr"]) == 5 and row["fps"] > 0 and row["latency"] > 0 for row in result["lines"])
    assert main(["evaluate", "drift", *options[:-1], "--causal", "c7s1w1"]) == 2
    assert "hold them (--held)" in capsys.readouterr().err
