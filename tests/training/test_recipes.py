"""Every stage at debug size: it runs, resumes where it stopped, and its weights load into a pipeline."""

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from motionstream.components import Placement, random_components
from motionstream.loading import random_model
from motionstream.pipeline import MotionStreamPipeline
from motionstream.training import sources, stages
from motionstream.training.diffusion.self_forcing import check_rollouts
from motionstream.training.export import export
from motionstream.training.loop.run import TrainConfig, train
from motionstream.training.loop.stage import Stage
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes import recipe as recipes
from motionstream.training.recipes.named import RECIPES, recipe_named
from motionstream.wan_presets import TINY_WAN22_LARGE


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = nano_recipes.debug()
    for stage in recipes.STAGES:
        stages.TRAINERS[stage](recipe, folder, say=lambda text: None)
    return recipe, folder


def test_every_stage_leaves_weights_and_a_log(trained):
    _, folder = trained
    for stage in recipes.STAGES:
        weights = load_file(sources.weights_path(folder, stage))
        assert all(torch.isfinite(value).all() for value in weights.values())
    lines = [json.loads(line) for line in (folder / "causal" / "log.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"train", "validate"}
    assert "rollout_db" in lines[-1]


def test_the_tiny_decoder_follows_the_last_stage_of_the_full_one(trained, tmp_path):
    """Its latents are the autoencoder's; what it is compared to is the ``decoder`` stage's where that is finished."""
    recipe, folder = trained
    log = [json.loads(line) for line in (folder / "tiny-decoder" / "log.jsonl").read_text().splitlines()]
    assert {"l1", "stand_in", "judge", "adversarial"} <= {name for line in log for name in line}
    shutil.copy(sources.weights_path(folder, "autoencoder"), tmp_path)
    said: list[str] = []
    stages.TRAINERS["tiny-decoder"](recipe, tmp_path, said.append)
    assert said[0] == (
        "clips: rendered, validation on held-out pictures; perceptual distance: stand_in (our stand-in; --lpips takes "
        "LPIPS)"
    )
    trained_here, before = (load_file(sources.weights_path(f, "tiny-decoder")) for f in (tmp_path, folder))
    assert all(torch.equal(value, before[name]) for name, value in trained_here.items()), "the target is the video"
    other = [json.loads(line) for line in (tmp_path / "tiny-decoder" / "log.jsonl").read_text().splitlines()]
    assert other[-1]["psnr"] == log[-1]["psnr"] and other[-1]["psnr_full"] != log[-1]["psnr_full"]


def train_configs(value):
    """All of them anywhere in a recipe."""
    if isinstance(value, TrainConfig):
        return [value]
    inner = vars(value).values() if dataclasses.is_dataclass(value) else value if isinstance(value, tuple) else ()
    return [config for part in inner for config in train_configs(part)]


@pytest.mark.parametrize("name", RECIPES)
def test_float32_is_all_that_changes_for_slow_processors(name):
    recipe = recipe_named(name)
    before, after = train_configs(recipe), train_configs(recipes.in_float32(recipe))
    assert after == [replace(config, bf16=False) for config in before] and len(before) >= 4


@pytest.mark.parametrize("name", RECIPES)
def test_the_stages_of_a_recipe_share_its_minutes(name):
    recipe = replace(recipe_named(name, 60.0), forcing=None)  # trained only where it is asked for
    minutes = [config.minutes for config in train_configs(recipe)]
    assert sum(minutes) == pytest.approx(60) and min(minutes) > 2
    whole = train_configs(recipe_named(name))
    assert len(whole) >= len(minutes) and all(config.minutes is None for config in whole)


@pytest.mark.parametrize("name", RECIPES)
def test_the_student_of_every_recipe_can_be_distilled_on_its_clips(name):
    recipe = recipe_named(name)
    check_rollouts(recipe.rollouts, recipe.model, recipe.latent_frames)


def test_recipes_have_the_tiny_decoders_they_can_train():
    for name in RECIPES:
        recipe = recipe_named(name)
        rendered = isinstance(recipe.data, recipes.Rendered)
        assert ("tiny-decoder" in recipe.stages) == (rendered and recipe.tiny is not None)
        if recipe.tiny is None:
            assert recipe.model.name in ("nano-ids", "nano-along"), "whose cells of 4×4 pixels it does not decode"
            continue
        assert with_videos(recipe).own_tiny.videos is not None
        assert recipe.tiny.side % (8 * recipe.model.tiny_decoder.patch_size) == 0
    large = recipe_named("wan2.2-5b")
    assert large.model.tiny_decoder == TINY_WAN22_LARGE and large.tiny.drawn_frames == 53
    updates = large.tiny.train.steps - (large.tiny.train.steps - large.tiny.loss.adversarial_start) // 2
    assert updates == 200_000 and large.tiny.loss.batch == 16
    assert nano_minutes(100) == pytest.approx(75)  # the mixer has the other quarter
    with pytest.raises(ValueError, match="for debug trains no tiny decoder"):
        replace(nano_recipes.debug(), tiny=None).own_tiny  # noqa: B018
    with pytest.raises(ValueError, match="for debug trains no tiny decoder"):
        with_videos(replace(nano_recipes.debug(), tiny=None))
    with pytest.raises(ValueError, match="frames = 8"):
        replace(nano_recipes.debug().tiny, frames=8)


def with_videos(recipe):
    return recipes.with_data(recipe, videos=Path("films"))


def nano_minutes(minutes):
    recipe = nano_recipes.nano(minutes)
    own = recipe.autoencoder
    parts = [own.train, *(phase.train for phase in recipe.teacher), recipe.causal, recipe.self_forcing, own.decoder]
    return sum(part.minutes for part in (*parts, recipe.tiny.train))


def test_a_student_that_learns_light_gets_other_clips_in_training_and_validation(trained, tmp_path):
    recipe, folder = trained
    rollouts = replace(recipe.rollouts, score_weight=0.0, regression_weight=1.0, own_content=False)
    figures, weights = [], []
    for light in (False, True):
        here = tmp_path / str(light)
        here.mkdir()
        for stage in ("autoencoder", "mixer", "teacher", "causal"):
            shutil.copy(sources.weights_path(folder, stage), here)
        stages.train_self_forcing(replace(recipe, light=light, rollouts=rollouts), here, say=lambda text: None)
        log = [json.loads(line) for line in (here / "self-forcing" / "log.jsonl").read_text().splitlines()]
        figures.append(log[-1]["carried_db"])
        weights.append(load_file(sources.weights_path(here, "self-forcing")))
    assert figures[1] != figures[0], "held-out clips are lit, too"
    assert any((weights[1][name] - value).abs().max() > 1e-6 for name, value in weights[0].items())


def test_training_again_goes_on_instead_of_starting_over(trained):
    recipe, folder = trained
    before = load_file(sources.weights_path(folder, "causal"))
    said: list[str] = []
    stages.train_causal(recipe, folder, say=said.append)
    assert any("going on from step 2" in line for line in said)
    after = load_file(sources.weights_path(folder, "causal"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=0, rtol=0)
    longer = replace(recipe, causal=replace(recipe.causal, steps=4))
    stages.train_causal(longer, folder, say=said.append)
    changed = load_file(sources.weights_path(folder, "causal"))
    assert any((changed[name] - value).abs().max() > 0 for name, value in before.items())


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"train the (autoencoder|mixer) stage first"):
        stages.train_teacher(nano_recipes.debug(), tmp_path)


class _Line(Stage):
    """A stage that fits a line, or blows up on request."""

    def __init__(self, *, explode_at: int | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(torch.nn.Linear(3, 1))
        self.rng.manual_seed(0)
        self.explode_at = explode_at

    def loss(self, step):
        x = torch.randn(16, 3, generator=self.rng)
        loss = (self.module(x) - x.sum(1, keepdim=True)).square().mean()
        return (loss * float("nan") if step == self.explode_at else loss), {}

    def validate(self, module):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(5))
        return {"error": (module(x) - x.sum(1, keepdim=True)).square().mean().item()}


def test_the_loop_learns_stops_at_a_loss_that_is_not_finite_and_goes_on(tmp_path):
    config = TrainConfig(steps=120, lr=0.05, warmup=5, ema=0.9, checkpoint_every=40, weight_decay=0.0)
    whole = train(_Line(), config, tmp_path / "whole", say=lambda text: None)
    assert whole.validate()["error"] < 0.01
    with pytest.raises(FloatingPointError, match="step 70"):
        train(_Line(explode_at=70), config, tmp_path / "cut", say=lambda text: None)
    resumed = train(_Line(), config, tmp_path / "cut", say=lambda text: None)
    assert resumed.step == 120 and resumed.validate()["error"] < 0.01
    again = train(_Line(), config, tmp_path / "again", say=lambda text: None)
    torch.testing.assert_close(again.average["weight"], whole.average["weight"], atol=0, rtol=0)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="steps = 0"):
        TrainConfig(steps=0)
    with pytest.raises(ValueError, match="ema = 1"):
        TrainConfig(steps=1, ema=1.0)


def test_the_teacher_begins_with_a_base_of_its_sizes_around_its_own_mixer(trained, tmp_path):
    recipe, folder = trained
    older = replace(recipe.model, carry=replace(recipe.model.carry, mixer=None))
    placement = Placement(device="cpu", dtype="float32")
    model, components = random_model(older, placement, seed=3), random_components(older, placement, seed=4)
    MotionStreamPipeline(model, components, stages=["teacher"]).save_pretrained(tmp_path / "older")
    begun = sources.begin(replace(recipe, base=str(tmp_path / "older")), folder, None)
    assert begun.model.config == recipe.model
    ours, mixer = begun.model.state_dict(), load_file(sources.weights_path(folder, "mixer"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ours[name], value, atol=2e-3, rtol=2e-3)  # stored in half precision
    for name, value in components.text_encoder.state_dict().items():
        torch.testing.assert_close(begun.text.state_dict()[name], value, atol=2e-3, rtol=2e-3)
    assert all(torch.equal(ours[f"pixel_mixer.{name}"], value) for name, value in mixer.items()) and mixer
    frozen = {name.split(".")[0] for name, parameter in begun.model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"pixel_mixer"}


def test_with_a_base_its_autoencoder_and_mixer_are_used_for_rendered_clips_too(trained, tmp_path):
    recipe, folder = trained
    export(recipe, folder, tmp_path / "base")
    recipe = recipes.with_data(recipe, base=str(tmp_path / "base"))
    assert recipe.stages == ("teacher", "causal", "self-forcing", "tiny-decoder")
    stages.TRAINERS["teacher"](recipe, tmp_path / "run", say=lambda text: None)
    assert sources.weights_path(tmp_path / "run", "teacher").exists()
    for part in ("autoencoder", "mixer"):
        with pytest.raises(ValueError, match="comes from the base model"):
            stages.TRAINERS[part](recipe, tmp_path / "run", say=lambda text: None)


def test_the_papers_conditioning_alone_is_trained_on_rendered_clips_too(trained, tmp_path, monkeypatch):
    """``nano-ids`` at debug size, with the autoencoder of a base: no content carried, small clips first."""
    recipe, folder = trained
    export(recipe, folder, tmp_path / "base")
    whole, few = recipe.model, replace(recipe.teacher[0].train, steps=1)
    inputs = (*whole.inputs[:2], ("image", whole.latent_channels))
    width = sum(channels for _, channels in inputs)
    transformer = replace(whole.transformer, in_channels=width)
    concat = {"image_conditioning": "concat", "carry": None, "still_std": 0.7}
    model = replace(whole, inputs=inputs, transformer=transformer, **concat)
    shared = {"base": str(tmp_path / "base"), "autoencoder": None, "mixer": None, "causal": few, "self_forcing": few}
    first = replace(recipe.teacher[0], train=few)
    small = replace(recipe.data.scene, height=16, width=32, frames=9, sprite_radius=(4.0, 8.0))
    recipe = replace(recipe, model=model, teacher=(replace(first, scene=small, batch=3), first), **shared)
    seen = []
    monkeypatch.setattr(stages, "clip_view", lambda *given: (seen.append(given[2]), sources.clip_view(*given))[1])
    for stage in ("teacher", "causal", "self-forcing"):
        stages.TRAINERS[stage](recipe, tmp_path / "run", say=lambda text: None)
    assert [tuple(clips.latents.shape[2:]) for clips in seen[:2]] == [(3, 2, 4), (12, 4, 4)]
    assert (recipe.in_phase(0).batch, recipe.in_phase(1).batch) == (3, recipe.batch)
    with pytest.raises(ValueError, match="phase 1 of debug is for rendered clips"):
        replace(recipe, data=None).in_phase(0)
    lines = [json.loads(x) for x in (tmp_path / "run" / "teacher_phase1" / "log.jsonl").read_text().splitlines()]
    assert "epe_px" in lines[-1]
    assert recipe_named("nano-ids").stages == ("autoencoder", "teacher", "causal", "decoder", "self-forcing")
