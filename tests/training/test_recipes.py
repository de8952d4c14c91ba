"""Every stage at debug size: it runs, resumes where it stopped, and its weights load into a pipeline."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from motionstream.training import recipes, sources, stages
from motionstream.training.loop import TrainConfig, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = recipes.debug()
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
    with pytest.raises(ValueError, match="train the autoencoder stage first"):
        stages.train_teacher(recipes.debug(), tmp_path)


class _Line:
    """A stage that fits a line, or blows up on request."""

    def __init__(self, *, explode_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(3, 1)
        self.rng = torch.Generator().manual_seed(0)
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
