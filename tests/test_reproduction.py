"""The page of the paper's claims: verdicts follow from intervals, and what was not run is said not to be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from reproduction import (  # noqa: E402
    AGREES,
    DISAGREES,
    OPEN,
    UNDECIDED,
    above,
    below,
    captions,
    chunk_one,
    encoding,
    guidance,
    guidance_light,
    interval,
    page,
    pair,
    representation,
    stages,
    stages_light,
)


def values(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


def test_verdicts_are_where_the_interval_lies():
    assert below(values(-2, -1)) == above(values(1, 2)) == AGREES
    assert below(values(1, 2)) == above(values(-2, -1)) == DISAGREES
    assert below(values(-1, 1)) == above(values(-1, 1)) == OPEN
    assert interval(values(-0.5, 1)) == "+0.25 [-0.50, +1.00]"
    found = {"comparisons": [{"of": "a 2 steps", "minus": "a 3 steps"}]}
    assert pair(found, " 2 steps", " 3 steps") == found["comparisons"][0]
    with pytest.raises(LookupError, match="no comparison of"):
        pair(found, " 4 steps", " 3 steps")


def test_a_folder_without_results_makes_a_page_that_says_so(tmp_path):
    text = page(tmp_path)
    assert text.count("| **not run** |") == 14 and text.count("| **not testable at this size** |") == 1


def test_one_effect_that_a_sentence_brings_about_is_enough():
    def effect(low, high):
        return {"intervals": {f"told briefly - {other}": values(low, high) for other in ("untold", "warp only")}}

    none = {"intervals": {f"told briefly - {other}": None for other in ("untold", "warp only")}}
    result = {"settings": {"clips": 8}, "effects": {"dark": effect(1, 2), "snow": effect(-1, 1), "tint": none}}
    found = captions(result)
    assert found.verdict == AGREES and "Dark: +1.50 [+1.00, +2.00] dB" in found.shown and "tint" not in found.shown
    assert captions(result | {"effects": {"snow": effect(-1, 1)}}).verdict == OPEN


def test_guidance_is_judged_by_pairs_with_motion_alone():
    def row(of, minus, low, high):
        known = dict.fromkeys(("psnr", "blocks"), values(0, 0)) | {"epe_mean": values(low, high)}
        return {"of": f"a {of}", "minus": f"a {minus}"} | known

    def verdict(*rows):
        return guidance({"comparisons": [*rows, row("motion", "plain", -2, -1) | {"minus": "carried mixture"}]}).verdict

    motion = [row(kind, "motion", 1, 2) for kind in ("joint", "text")]
    assert verdict(*motion, row("plain", "motion", 1, 2)) == AGREES
    assert verdict(*motion, row("plain", "motion", -1, 2)) == OPEN and verdict(*motion) == UNDECIDED
    assert verdict(*motion, row("motion", "plain", 1, 2)) == DISAGREES
    # all against joint, of which plain follows best: plain and motion were never paired
    assert verdict(row("motion", "joint", -2, -1), row("plain", "joint", -9, -7)) == UNDECIDED


def test_a_difference_that_nobody_sees_is_none():
    seen = {"psnr_difference": values(0.01, 0.05), "epe_difference": values(-1, 1)}
    drifted = {"last_seconds": {"comparisons": [{"of": "a c1s1w1", "minus": "a c3s1w1"} | seen]}}
    assert chunk_one(drifted | {"settings": {"clips": 4, "seconds": 10}}).verdict == OPEN
    way = {"psnr": 30.0, "epe_mean": 1.0}
    pair = {"of": "student", "minus": "teacher", "psnr": values(0.01, 0.05), "epe_mean": None, "blocks": values(0, 0)}
    assert stages({"ways": {"teacher": way, "student": way}, "comparisons": [pair]}).verdict == OPEN


def test_light_is_judged_where_the_effect_is():
    def found(of, low, high):
        ways = {name: {"psnr_effect": 20.0, "psnr_by_clip": [1, 2]} for name in ("a plain", of)}
        row = {"of": of, "minus": "a plain", "psnr_effect": values(low, high)}
        warped = {"warp only": {"psnr_effect": 12.0}}
        other = row | {"of": "a plain", "minus": "carried"}
        return {"ways": ways, "comparisons": [row, other], "references": warped, "settings": {"effect": "dark"}}

    assert guidance_light(found("a text", 1, 2)).verdict == AGREES
    assert guidance_light(found("a text", -2, -1)).verdict == DISAGREES
    assert stages_light(found("student", 1, 2)).verdict == DISAGREES
    shown = stages_light(found("student", -1, 1))
    assert shown.verdict == OPEN and "2 scenes of dark" in shown.shown and "student minus a plain +0.00" in shown.shown


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_script_evaluates_and_writes_the_page(tmp_path):
    """At debug size, the shortest."""
    environment = os.environ | {
        "BIN": str(Path(sys.executable).parent),
        "MODEL": "debug",
        "EXTRA": "--untrained",
        "CLIPS": "1",
        "ONLY": "steps",
        "RESULTS": str(tmp_path / "results"),
        "PAGE": str(tmp_path / "page.md"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    script = ROOT / "runs" / "reproduction.sh"
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}
    assert set(results) == {"steps"}
    text = (tmp_path / "page.md").read_text()
    assert text.count("| **not run** |") == 13 and "`steps.json`: `motionstream evaluate compare" in text


def test_drawn_tracks_have_to_be_worth_less_for_the_claim_to_hold():
    def found(low, high):
        base = {"weights": 1_300_000, "error": 0.4, "tracks_are_worth": values(0.1, 0.2)}
        drawn = base | {"minus_base": values(0.1, 0.2), "worth_minus_base": values(low, high)}
        return {"variants": {"base": base, "rgb": drawn}, "clips": 30_000, "size": [48, 48]}

    assert [representation(found(*each)).verdict for each in ((-0.2, -0.1), (0.1, 0.2), (-0.1, 0.1))] == [
        AGREES,
        DISAGREES,
        OPEN,
    ]
    times = {
        "settings": {"model": "wan", "size": [240, 416], "frames": 17},
        "milliseconds": {"head": 10.0, "drawn": 400.0},
        "times_as_long": 40.0,
        "operations": {"head": 10, "drawn": 5000},
    }
    assert "40 times as long" in encoding(times).shown and encoding(times).verdict == AGREES
    assert encoding(times | {"times_as_long": 0.5}).verdict == DISAGREES
