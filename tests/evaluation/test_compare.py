"""Ways of making a video are compared on the same clips, with the first one and with the carried mixture."""

import json

import numpy as np
import pytest
import torch

from motionstream.cli import main
from motionstream.evaluation import compare
from motionstream.evaluation.compare import ComparedRow, compared, evaluate_compare
from motionstream.evaluation.rendered import CEILING, FROZEN, MIXTURE, WARP
from motionstream.evaluation.scenes import held_out_clip
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import nano


def test_differences_are_paired_and_of_the_first_minus_the_second():
    clips = [held_out_clip(nano(), index) for index in (1, 2)]
    true, still = ComparedRow(name="true"), ComparedRow(name="still")
    for clip in clips:
        true.measure(lambda clip: clip.video, clip)
        still.measure(lambda clip: np.repeat(clip.video[:1], len(clip.video), axis=0), clip)
        still.measure(lambda clip: None, clip)  # what makes nothing has no numbers
    found = compared(true, still)
    assert (found["of"], found["minus"]) == ("true", "still") and len(still.psnr) == len(still.blocks) == 2
    assert found["psnr"]["low"] > 50 and found["epe_mean"]["high"] < -4 and true.blocks == [1, 1]
    assert true.to_dict()["psnr_by_clip"] == [100, 100]


def test_steps_are_the_streams_own(monkeypatch):
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    torch.nn.init.normal_(pipeline.model.transformer.proj_out.weight)  # what it adds must be more than noise
    clip = held_out_clip(pipeline.config, 0)
    own = pipeline(clip.video[0], clip.drags, clip.caption, 0)
    ways = dict(compare._ways("debug", pipeline, [3, 1, 3], [], 0))
    assert list(ways) == ["debug 3 steps", "debug 1 step"]
    assert np.array_equal(ways["debug 3 steps"](clip), own)  # debug's own number
    assert not np.array_equal(ways["debug 1 step"](clip), own)


def test_a_model_that_was_not_distilled_is_sampled_as_a_teacher():
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    pipeline.stages = ("teacher",)
    clip = held_out_clip(pipeline.config, 0)
    ((name, make),) = compare._ways("debug", pipeline, [], [], 0)
    assert name == "debug (teacher)"
    made = make(clip)
    assert np.array_equal(made, pipeline.teacher(clip.video[0], clip.drags, clip.caption, 0, guided=False))
    guided = dict(compare._ways("debug", pipeline, [], ["text", "joint"], 0))
    assert list(guided) == ["debug text", "debug joint"] and guided["debug joint"](clip).shape == made.shape


def test_the_command_compares_and_refuses(tmp_path, capsys):
    output = tmp_path / "compare.json"
    options = ["--model", "debug", "--untrained", "--clips", "1", "--steps", "1", "--steps", "2", "-o", str(output)]
    options += ["--frames", "21"]
    assert main(["evaluate", "compare", *options]) == 0
    result = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == result
    assert list(result["ways"]) == ["debug 1 step", "debug 2 steps"] and result["settings"]["frames"] == 21
    assert set(result["references"]) == {CEILING, FROZEN, WARP, MIXTURE}
    pairs = [(pair["of"], pair["minus"]) for pair in result["comparisons"]]
    first, second = result["ways"]
    assert pairs == [(second, first), (first, MIXTURE), (second, MIXTURE)]
    for wrong, message in (
        ({"steps": (1,), "guidance": ("joint",)}, "give one of them"),
        ({"steps": (9,)}, "steps = 9"),
        ({"guidance": ("strong",)}, "'strong'"),
        ({"effect": "rain"}, "effect 'rain'"),
        ({"clips": 0}, "clips = 0"),
        ({"frames": 22}, "frames = 22"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_compare(["debug"], untrained=True, **wrong)
    assert main(["evaluate", "gallery", "--steps", "1"]) == 2


def test_an_effect_is_told_alone_and_measured_where_it_is():
    config = MotionStreamPipeline.from_pretrained("debug", untrained=True).config
    told = compare._clip(config, 0, 0, 6.0, 21, "dark")
    plain = compare._clip(config, 0, 0, 6.0, 21, None)
    assert told is not None and plain is not None
    assert told.caption == "it gets dark" != plain.caption and compare.EFFECT not in plain.regions
    mask = told.regions[compare.EFFECT]
    assert mask[-1].any() and not mask[:8].any()
    assert (told.video[mask].astype(int) - plain.video[mask]).min(axis=-1).mean() < -4
    true, still = ComparedRow(name="true"), ComparedRow(name="still")
    true.measure(lambda clip: clip.video, told)
    still.measure(lambda clip: np.repeat(clip.video[:1], len(clip.video), axis=0), told)
    assert compared(true, still)["psnr_effect"]["low"] > 50


def test_clips_without_the_effect_are_left_out(monkeypatch):
    made = []

    def clip(*given):
        made.append(given)
        return None if len(made) == 1 else clip_of(*given)

    clip_of = compare._clip
    monkeypatch.setattr(compare, "_clip", clip)
    options = {"untrained": True, "frames": 21, "effect": "fog", "steps": (1,)}
    result = evaluate_compare(["debug"], clips=2, **options)
    assert len(result["ways"]["debug 1 step"]["psnr_by_clip"]) == 1 and result["settings"]["effect"] == "fog"
    assert all("psnr_effect" in pair for pair in result["comparisons"])
    monkeypatch.setattr(compare, "_clip", lambda *given: None)
    with pytest.raises(ValueError, match="none of the 2 clips shows fog"):
        evaluate_compare(["debug"], clips=2, **options)
