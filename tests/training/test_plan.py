"""The dry run: what it counts, what it refuses, and what the command prints."""

import re
from dataclasses import replace

import pytest

from motionstream.cli import main
from motionstream.training.diffusion.lora import LoraSettings
from motionstream.training.planning.plan import Machine, plan
from motionstream.training.recipes.named import RECIPES, recipe_named
from motionstream.training.recipes.recipe import in_parts, on_gpus
from motionstream.training.sources import Trainee

H100 = Machine(gpu="H100")


def test_parameters_and_their_share_are_those_of_the_model_that_would_be_trained():
    recipe = recipe_named("debug")
    whole = sum(p.numel() for p in Trainee(recipe.model).model.parameters())
    first, second = plan(recipe, ("teacher",), H100)
    assert first.parameters == second.parameters == whole
    assert first.setup.trainable is None
    pytest.importorskip("peft")
    thin = replace(recipe_named("wan2.2-debug"), lora=LoraSettings(rank=2))
    first, second = plan(thin, ("teacher",), H100)
    trained = first.setup.trainable
    assert trained is not None and 0 < trained < first.parameters
    assert second.setup.trainable is not None and second.setup.trainable < trained  # without the track head


def test_hours_follow_steps_batch_and_gpus():
    recipe = recipe_named("wan2.1-debug")
    (one,) = plan(recipe, ("causal",), H100)
    longer = replace(recipe, causal=replace(recipe.causal, steps=2 * recipe.causal.steps), trajectories=0)
    (none,) = plan(replace(recipe, trajectories=0), ("causal",), H100)
    (twice,) = plan(longer, ("causal",), H100)
    assert twice.flops == pytest.approx(2 * none.flops) and one.flops > none.flops
    (parts,) = plan(in_parts(recipe, 2), ("causal",), H100)
    assert (parts.setup.batch, one.setup.batch) == (1, 2) and parts.flops == one.flops
    with pytest.raises(ValueError, match="2 does not divide by 4 GPUs"):
        plan(recipe, ("self-forcing",), Machine(gpus=4, gpu="H100"))


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["wan2.1-1.3b-lora", "wan2.2-5b-lora"])
def test_affordable_recipes_run_on_the_gpus_that_they_are_for(name, gpus):
    pytest.importorskip("peft")
    recipe = recipe_named(name)
    for stage in plan(recipe, recipe.stages, Machine(gpus=gpus, gpu="A100")):
        assert (stage.setup.batch, stage.setup.accumulate, stage.batch) == (1, 8 // gpus, 8)


def test_a_gpu_takes_no_more_at_a_time_than_the_recipe_says():
    recipe = replace(recipe_named("wan2.1-debug"), batch=24, self_forcing_batch=12, micro_batch=3)

    def taken(gpus):
        recipe_there = on_gpus(recipe, gpus)
        runs = (recipe_there.teacher[1].train, recipe_there.forcing.train, recipe_there.causal)
        assert len({run.accumulate for run in runs}) == 1
        return runs[0].accumulate, recipe_there.self_forcing.accumulate

    assert [taken(gpus) for gpus in (1, 2, 3, 4, 12)] == [(8, 4), (4, 2), (4, 2), (2, 1), (1, 1)]
    (stage,) = plan(recipe, ("causal",), Machine(gpus=3, gpu="H100"))
    assert (stage.setup.batch, stage.setup.accumulate) == (2, 4)  # 8 clips a GPU, and 3 at a time would leave some over
    told = in_parts(recipe, 2)
    assert on_gpus(told, 3) == told and told.causal.accumulate == 2
    with pytest.raises(ValueError, match="24 does not divide by 5 GPUs"):
        plan(recipe, ("causal",), Machine(gpus=5, gpu="H100"))
    with pytest.raises(ValueError, match="micro_batch = 0"):
        replace(recipe, micro_batch=0)


def test_a_phase_is_counted_by_its_own_clips():
    first, second = plan(recipe_named("nano-ids"), ("teacher",), H100)
    assert (first.setup.batch, second.setup.batch) == (16, 8)
    tokens = {"first": 8 * 8 * 3, "second": 8 * 8 * 9}  # of a clip
    less = (first.flops / first.train.steps / 16) / (second.flops / second.train.steps / 8)
    assert 0.3 < less / (tokens["first"] / tokens["second"]) < 1.05


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_clips_too_short_to_distil_are_refused_before_the_first_stage(more, tmp_path, capsys, monkeypatch):
    recipe = recipe_named("debug")
    short = replace(recipe, data=replace(recipe.data, scene=replace(recipe.data.scene, frames=21)))
    assert short.latent_frames == 6
    monkeypatch.setitem(RECIPES, "debug", lambda minutes: short)
    folder = tmp_path / "run"
    assert main(["train", "teacher", "--recipe", "debug", "--folder", str(folder), *more]) == 2
    said = capsys.readouterr().err
    assert "clips of 2 chunks never roll" in said and "at least 3 chunks, 33 frames" in said
    assert not folder.exists()


def test_the_command_tells_all_stages_and_trains_none(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["train", "all", "--recipe", "wan2.1-debug", "--folder", str(folder), "--dry-run", "--gpu", "H100"]
    assert main([*arguments, "--gpu-memory", "80"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(\S.*?): \d", said, re.M) == ["teacher, phase 1", "teacher, phase 2", "causal", "self-forcing"]
    assert said.count("it fits") == 4 and said.count("of 1 × H100 (989 TFLOP/s)\n") == 4
    assert not folder.exists()
    assert main([*arguments[:-1], "A100", "--gpu-memory", "80"]) == 0
    assert "40GB" not in capsys.readouterr().out  # the first of several A100
    assert main([*arguments, "--gpu-memory", "0.5"]) == 0
    assert "it needs" in capsys.readouterr().out
    assert main(["train", "all", "--recipe", "wan2.1-debug", "--dry-run", "--gpu", "abacus"]) == 2
    assert "known are NVIDIA" in capsys.readouterr().err
