import json
import re

import numpy as np
import pytest
import torch

from motionstream.checkpoint_files import write_tensors as save_weights
from motionstream.cli import main
from motionstream.components import Placement
from motionstream.media.videos import write_video
from motionstream.pipeline import MotionStreamPipeline
from motionstream.training import stages
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.parts.perceptual import LPIPS
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes import recipe as recipes
from motionstream.training.recipes.named import RECIPES
from motionstream.training.sources import weights_path


@pytest.fixture
def finished(tmp_path):
    """A folder in which every stage of the debug recipe is finished, with random weights."""
    recipe = nano_recipes.debug()
    torch.manual_seed(5)
    trainee = Trainee(recipe.model)
    folder = tmp_path / "run"
    folder.mkdir()
    save_weights(weights_path(folder, "causal"), trainee.state_dict())
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    for stage in ("autoencoder", "decoder"):
        save_weights(weights_path(folder, stage), pipeline.parts.autoencoder.state_dict())
    return folder, trainee


def export(folder, target) -> int:
    return main(["train", "export", "--recipe", "debug", "--folder", str(folder), "-o", str(target)])


def test_export_makes_a_model_that_streams(finished, tmp_path):
    folder, trainee = finished
    target = tmp_path / "models" / "mine"
    assert export(folder, target) == 0
    pipeline = MotionStreamPipeline.from_pretrained(target)
    assert pipeline.stages == ("teacher", "causal")
    for name, value in trainee.model.state_dict().items():
        assert torch.allclose(pipeline.model.state_dict()[name], value, atol=1e-3), name
    for name, value in trainee.text.state_dict().items():
        assert torch.allclose(pipeline.parts.text_encoder.state_dict()[name], value, atol=2e-3), name
    assert [path.name for path in target.parent.iterdir()] == ["mine"]


def test_export_leaves_later_stages_out(finished, tmp_path):
    folder, trainee = finished
    save_weights(weights_path(folder, "teacher"), trainee.state_dict())
    arguments = ["train", "export", "--recipe", "debug", "--folder", str(folder), "-o", str(tmp_path / "teacher")]
    assert main([*arguments, "--through", "teacher"]) == 0
    settings = json.loads((tmp_path / "teacher" / "model.json").read_text())
    assert settings["stages"] == ["teacher"]
    assert main(["train", "teacher", "--recipe", "debug", "--folder", str(folder), "--through", "causal"]) == 2


def test_export_replaces_a_model_and_leaves_other_files(finished, tmp_path):
    folder, _ = finished
    target = tmp_path / "mine"
    assert export(folder, target) == 0
    (target / "README.md").write_text("about it")
    (target / "autoencoder.safetensors").write_bytes(b"damaged")
    assert export(folder, target) == 0
    assert (target / "README.md").read_text() == "about it"
    MotionStreamPipeline.from_pretrained(target)


def test_export_refuses_what_is_no_models_folder(finished, tmp_path, capsys):
    folder, _ = finished
    target = tmp_path / "letters"
    target.mkdir()
    (target / "letter.txt").write_text("dear")
    assert export(folder, target) == 2
    assert "letters is no model's folder" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["letter.txt"]


def test_export_needs_every_stage(finished, tmp_path, capsys):
    folder, _ = finished
    weights_path(folder, "causal").unlink()
    assert export(folder, tmp_path / "mine") == 2
    said = capsys.readouterr().err
    assert "causal.safetensors is missing" in said and said.count("\n") == 1
    assert not (tmp_path / "mine").exists()


def test_stages_run_in_order(tmp_path, monkeypatch, capsys):
    ran = []
    trainers = {
        stage: lambda recipe, folder, say, stage=stage: ran.append((stage, recipe.model.name, recipe.causal.minutes))
        for stage in recipes.STAGES
    }
    monkeypatch.setattr(stages, "TRAINERS", trainers)
    folder = tmp_path / "run"
    assert main(["train", "all", "--recipe", "debug", "--folder", str(folder), "--minutes", "3"]) == 0
    assert ran == [(stage, "debug", pytest.approx(0.3)) for stage in recipes.STAGES]
    assert "the causal stage is done" in capsys.readouterr().out
    for stage in recipes.STAGES:
        ran.clear()
        assert main(["train", stage, "--recipe", "debug", "--folder", str(folder)]) == 0
        assert ran == [(stage, "debug", None)]


def test_a_gpu_takes_as_many_clips_at_a_time_as_the_recipe_or_the_user_says(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(
        stages, "TRAINERS", {"causal": lambda recipe, folder, say: ran.append(recipe.causal.accumulate)}
    )
    data = ["--recipe", "wan2.1-1.3b-lora", "--shards", "clips", "--base", "model", "--folder", str(tmp_path)]
    assert main(["train", "causal", *data]) == 0
    assert main(["train", "causal", *data, "--accumulate", "4"]) == 0
    monkeypatch.setattr("motionstream.training.loop.distributed.world_size", lambda: 2)
    assert main(["train", "causal", *data]) == 0
    assert ran == [8, 4, 4]


@pytest.mark.parametrize("pays", [True, False])
def test_slow_bfloat16_is_left_to_processors_that_have_it(tmp_path, monkeypatch, capsys, pays):
    ran = []
    monkeypatch.setattr(stages, "TRAINERS", {"causal": lambda recipe, folder, say: ran.append(recipe.causal.bf16)})
    monkeypatch.setattr("motionstream.hardware.bfloat16_pays", lambda device: pays)
    assert main(["train", "causal", "--recipe", "nano", "--folder", str(tmp_path)]) == 0
    assert ran == [pays]
    assert ("training in float32" in capsys.readouterr().out) != pays


def test_a_stage_goes_on_from_the_weights_it_was_begun_with_alone(tmp_path, monkeypatch, capsys):
    def begin(recipe, folder, say):
        (folder / "causal").mkdir(exist_ok=True)
        (folder / "causal" / "checkpoint.pt").touch()

    monkeypatch.setattr(stages, "TRAINERS", {"causal": begin})
    weights_path(tmp_path, "teacher").write_bytes(b"one")
    for _ in range(2):
        assert main(["train", "causal", "--recipe", "debug", "--folder", str(tmp_path)]) == 0
    weights_path(tmp_path, "teacher").write_bytes(b"another")
    assert main(["train", "causal", "--recipe", "debug", "--folder", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "was begun with another teacher.safetensors: delete" in said and said.count("\n") == 1


def test_the_tiny_decoder_trains_on_videos_with_lpips_and_is_exported(finished, tmp_path, capsys):
    folder, _ = finished
    assert export(folder, tmp_path / "before") == 0
    assert not (tmp_path / "before" / "tiny_decoder.safetensors").exists()
    (tmp_path / "films").mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (12, 40, 48, 3), np.uint8)
        write_video(tmp_path / "films" / f"{index}.mp4", noise, 24)
    torch.manual_seed(1)
    save_weights(tmp_path / "lpips.safetensors", LPIPS().state_dict())
    options = ["--videos", str(tmp_path / "films"), "--lpips", str(tmp_path / "lpips.safetensors")]
    assert main(["train", "tiny-decoder", "--recipe", "debug", "--folder", str(folder), *options]) == 0
    said = capsys.readouterr().out
    assert "of 3 videos in" in said and "perceptual distance: lpips (of" in said and "lpips_full" in said
    assert "stand_in" not in said
    assert export(folder, tmp_path / "after") == 0
    pipeline = MotionStreamPipeline.from_pretrained(
        tmp_path / "after", placement=Placement(device="cpu", decoder="tiny")
    )
    frames = pipeline.stream(np.zeros((32, 32, 3), np.uint8)).step()
    assert frames.shape == (9, 32, 32, 3) and frames.std() > 0
    full = MotionStreamPipeline.from_pretrained(tmp_path / "after")
    assert not np.array_equal(full.stream(np.zeros((32, 32, 3), np.uint8)).step(), frames)


def test_the_autoencoder_stage_trains(tmp_path, capsys):
    assert main(["train", "autoencoder", "--recipe", "debug", "--folder", str(tmp_path / "run")]) == 0
    assert weights_path(tmp_path / "run", "autoencoder").is_file()
    assert "components keep" in capsys.readouterr().out


def test_the_help_names_every_recipe(capsys):
    """Written out there, for to ask the recipes would be to wait for torch."""
    assert main(["train", "--help"]) == 0
    lines = [line.strip(" │") for line in capsys.readouterr().out.splitlines()]
    told = " ".join(lines).partition("The numbers of the run: ")[2].partition("(default")[0]
    assert set(re.findall(r"[^\s,;()]+", told)) >= set(RECIPES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export"], "-o DIR"),
        (["teacher", "-o", "out"], "takes no -o"),
        (["all", "--recipe", "giant"], "'giant'; known: debug, nano"),
        (["all", "--minutes", "0"], "--minutes is 0"),
        (["causal", "--recipe", "debug", "--folder", "empty"], "missing: train the"),
        (["tiny-decoder", "--recipe", "debug", "--folder", "empty"], "missing: train the autoencoder stage first"),
        (
            ["all", "--recipe", "debug", "--folder", "empty", "--accumulate", "3"],
            "teacher: a batch of 2 does not divide",
        ),
        (["tiny-decoder", "--recipe", "debug", "--lpips", "no.safetensors"], "no.safetensors: there is no such file"),
        (["tiny-decoder", "--recipe", "wan2.1-debug", "--videos", "no"], "name it (--base)"),
        (
            ["tiny-decoder", "--recipe", "debug", "--shards", "no", "--base", "nano"],
            "has teacher, causal, self-forcing; --videos DIR adds the tiny decoder",
        ),
        (["mixer", "--recipe", "debug", "--base", "nano"], "tiny-decoder, and the rest is of --base nano"),
    ],
)
def test_bad_values_are_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
