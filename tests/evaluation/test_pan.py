"""The measure of a pan against pans that are known to be good and bad, and the command."""

import json

import numpy as np
import pytest
from PIL import Image

from motionstream.cli import main
from motionstream.evaluation.pan import LAG, evaluate_pan, measure


def pan(frames: int, step: float, wrong: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A texture that goes left by whole pixels, and what is said of it; `wrong` pixels a frame beside the truth."""
    small = np.random.default_rng(0).integers(0, 256, (16, 64, 3), np.uint8)
    wide = np.asarray(Image.fromarray(small).resize((512, 128), Image.Resampling.BICUBIC))
    video = np.stack([wide[:, round(step * t) : round(step * t) + 128] for t in range(frames)])
    return video, np.stack([-(step + wrong) * np.arange(frames), np.zeros(frames)], axis=-1)


def test_a_true_pan_scores_well_and_a_false_one_badly():
    good, false = measure(*pan(48, 1.0), 24), measure(*pan(48, 1.0, wrong=0.7), 24)
    assert good["psnr"].shape == (2,) and good["psnr"].min() > 60 and good["epe"].max() < 1
    assert false["psnr"].max() < 30 and false["epe"].min() == pytest.approx(0.7 * LAG, abs=1.2)


def test_what_freezes_scores_as_frozen():
    video, offsets = pan(48, 1.0)
    frozen = measure(np.repeat(video[:1], 48, axis=0), offsets, 24)
    assert frozen["epe"].min() == pytest.approx(LAG, abs=0.5)


def test_the_command_compares_the_same_scenes(tmp_path, capsys):
    path = tmp_path / "pan.json"
    arguments = ["--model", "debug", "--untrained", "--clips", "1", "--seconds", "6", "-o", str(path)]
    assert main(["evaluate", "pan", *arguments]) == 0
    result = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == result
    assert set(result["lines"]) == {"fixed sink", "adaptive sink"}
    assert len(result["lines"]["fixed sink"]["psnr"]) == 6
    assert {"value", "low", "high"} == set(result["last_seconds"]["adaptive_minus_fixed"]["psnr"])


def test_wrong_values_are_named():
    for wrong, words in (({"seconds": 5.0}, "seconds = 5"), ({"clips": 0}, "clips = 0")):
        with pytest.raises(ValueError, match=words):
            evaluate_pan("debug", untrained=True, **wrong)
