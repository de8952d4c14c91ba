"""Effects of a caption: the same scene with and without one, measured where it differs."""

import json

import numpy as np
import pytest

from motionstream.cli import main
from motionstream.evaluation.captions import ROWS, SHOWN, briefly, changed, summary
from motionstream.evaluation.scenes import EFFECTS, held_out_clip
from motionstream.presets import nano

CONFIG = nano()


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_scene_with_an_effect_differs_in_that_and_its_caption_alone(effect):
    clip, plain = held_out_clip(CONFIG, 1, 3, effect=effect), held_out_clip(CONFIG, 1, 3)
    assert np.array_equal(clip.drags.positions, plain.drags.positions)
    assert np.array_equal(clip.followed.positions, plain.followed.positions)
    assert all(np.array_equal(clip.regions[name], plain.regions[name]) for name in clip.regions)
    assert clip.caption != plain.caption
    mask = changed(clip.video, plain.video)
    assert mask.shape == (SHOWN, 128, 128) and mask.any() and not changed(plain.video, plain.video).any()
    share = mask.mean()
    assert share > 0.7 if effect in ("dark", "fog") else share < 0.7, "some effects are everywhere, some are not"


def test_effects_are_said_briefly_as_people_do():
    assert briefly("fog", "fog rolls in, a static camera") == "it gets foggy"
    for caption in ("the grey object turns green, one object slides down", "an object slowly turns green"):
        assert briefly("tint", caption) == "it turns green"
    assert briefly("tint", "one object goes up, an object changes to green") == "it turns green"
    assert briefly("tint", "the red object becomes green, the camera is still") == "it turns green"
    for index in range(6):
        words = briefly("tint", held_out_clip(CONFIG, index, 3, effect="tint").caption).split()
        assert words[:2] == ["it", "turns"] and len(words) == 3


def test_what_being_told_brings_is_paired():
    rows = {row: [10.0, 20.0, 30.0] for row in ROWS} | {"told": [11.0, 22.0, 33.0]}
    found = summary(rows)
    assert found["clips"] == 3 and found["psnr"]["told"] == 22
    difference = found["intervals"]["told - untold"]
    assert difference["value"] == pytest.approx(2) and 1 <= difference["low"] <= 2 <= difference["high"] <= 3
    assert summary({row: [] for row in ROWS})["psnr"] == dict.fromkeys(ROWS)


def test_the_command(tmp_path, capsys):
    output = tmp_path / "captions.json"
    assert main(["evaluate", "captions", "--model", "debug", "--untrained", "--clips", "1", "-o", str(output)]) == 0
    result = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == result
    assert list(result["effects"]) == list(EFFECTS)
    dark = result["effects"]["dark"]
    assert dark["clips"] == 1 and all(5 < dark["psnr"][row] < 60 for row in ROWS)


def test_wrong_values_are_named(tmp_path, capsys):
    assert main(["evaluate", "captions", "--clips", "0"]) == 2
    assert "--clips is 0" in capsys.readouterr().err
    assert main(["evaluate", "captions", "--model", "debug", "--speed", "3"]) == 2
    assert "takes no --speed" in capsys.readouterr().err
