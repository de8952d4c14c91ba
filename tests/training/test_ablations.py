"""benchmarks/ablations.py: variants differ in what they say, and the whole comparison runs, if at no useful size."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.training.recipes.named import recipe_named
from motionstream.training.sources import begin


@pytest.fixture(scope="module")
def script(load_benchmark):
    return load_benchmark("ablations")


def test_each_variant_changes_something_and_all_clips_are_shared_out(script):
    recipe = script.first_phase(recipe_named("nano-ids"))
    for name, (what, change) in script.VARIANTS.items():
        parts = change(recipe)
        assert what and sum(share for share, _ in parts) == 1
        assert all(made.batch == recipe.batch for _, made in parts)
        assert (name == "base" or name in script.DRAWN) == all(made == recipe for _, made in parts)
        assert all(replace(made, data=parts[0][1].data) == parts[0][1] for _, made in parts), "one run for all"


def test_clips_are_of_one_part_after_the_other_in_one_run(script, tmp_path, monkeypatch):
    recipe = script.first_phase(recipe_named("nano-ids"))

    class Source:
        def __init__(self, speed):
            self.speed, self.batch = speed, recipe.batch

        def at(self, step, samples=None):
            return self.speed, step, samples

    monkeypatch.setattr(
        script, "clip_source", lambda recipe, folder, mix, seed: Source((recipe.data.scene.speed, seed))
    )
    clips = script.in_turn(script.VARIANTS["slow-first"][1](recipe), tmp_path, 5)
    speed = recipe.data.scene.speed
    slow, fast = (speed / 2, 1_000_000), (speed, 2_000_000)
    assert [clips.at(step)[0] for step in range(5)] == [slow, slow, fast, fast, fast]
    assert clips.at(3, range(1, 2)) == (fast, 3, range(1, 2)) and clips.batch == recipe.batch


def test_wide_and_deep_have_as_many_weights(script, tmp_path):
    recipe = script.first_phase(recipe_named("nano-ids"))
    weights = {}
    for name in ("base", "wide", "deep"):
        ((_, made),) = script.VARIANTS[name][1](recipe)
        blocks = begin(made, tmp_path, None).model.transformer.blocks
        weights[name] = sum(p.numel() for p in blocks.parameters())
    assert max(weights.values()) < 1.2 * min(weights.values()) and len(set(weights.values())) == 3


def test_the_comparison_runs_and_is_kept_variant_by_variant(script, tmp_path):
    output = tmp_path / "ablations.json"
    autoencoder = LinearAutoencoder(recipe_named("nano-ids").model.autoencoder)
    save_file(autoencoder.state_dict(), tmp_path / "autoencoder.safetensors")
    few = ["--clips=2", "--batch=1", "--frames=9", "--held-out=2", "--workers=0"]
    few += ["--width=128", "--layers=4", "--head=32", "--folder", str(tmp_path), "--work", str(tmp_path / "work")]
    script.main([*few, "--variant=slow-first", "--variant=deep", "--variant=rgb", "--output", str(output)])
    result = json.loads(output.read_text())
    assert list(result["variants"]) == ["base", "slow-first", "deep", "rgb"] and result["clips"] == 2
    base, slow, deep, drawn = result["variants"].values()
    assert base["minus_base"] == {"value": 0, "low": 0, "high": 0} and deep["weights"] != base["weights"]
    assert drawn["weights"] == base["weights"] and drawn["error"] != base["error"]
    assert [line["clips"] for line in slow["curve"]] == [1, 2] and np.isfinite(slow["curve"][0]["loss_tracks"])
    logs = (tmp_path / "work" / "slow-first").rglob("log.jsonl")
    assert [path.parent.name for path in logs] == ["slow-first"], "one run, whatever its parts"
    assert (result["width"], result["layers"], result["size"]) == (128, 4, [32, 32])
    script.main([*few, "--variant=base", "--without-base", "--output", str(tmp_path / "alone.json")])
    (alone,) = json.loads((tmp_path / "alone.json").read_text())["variants"].values()
    assert [line["clips"] for line in alone["curve"]] == [1, 2], "the run that was resumed has one line a step"
    assert alone["error"] == base["error"] and alone["mean"] == base["mean"] and "minus_base" not in alone
    for options, said in ((["--held-out", "1"], "--held-out 1"), (["--width", "100"], "--width 100")):
        with pytest.raises(ValueError, match=said):
            script.main(options)
