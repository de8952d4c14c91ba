"""benchmarks/hidden_map.py: the widened teacher, which cells count, and the whole comparison at debug size."""

import json
from dataclasses import replace

import pytest
import torch

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.checkpoint_files import write_tensors
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.model.motion_model import MotionModel
from motionstream.presets import preset
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.clips.rendered import prepare
from motionstream.training.diffusion.flow_matching import make_conditions
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.recipes import nano as nano_recipes

COMPRESS = "model.track_head.compress.weight"


@pytest.fixture(scope="module")
def script(load_benchmark):
    return load_benchmark("hidden_map")


def make_trainee() -> Trainee:
    """Random everywhere: a fresh model's last layer is zero and would hide what comes before it."""
    torch.manual_seed(0)
    trainee = Trainee(preset("debug"))
    with torch.no_grad():
        for parameter in trainee.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return trainee


@pytest.fixture(scope="module")
def clips(script) -> PreparedClips:
    recipe = nano_recipes.debug()
    rendered = render(replace(recipe.data.scene, sprites=(2, 2)), 2, 1, TextureBank(()))
    autoencoder = LinearAutoencoder(recipe.model.autoencoder)
    mix = replace(script.TRACKS, dense=1.0, random=0.0, drags=0.0)
    made = prepare(rendered, make_trainee().model, autoencoder, mix, torch.Generator().manual_seed(0))
    assert (made.positions.isfinite().all(-1) & ~made.visible).any(), "nothing is hidden in these clips"
    return made


def velocity(trainee: Trainee, clips: PreparedClips) -> torch.Tensor:
    conditions = make_conditions(trainee.model, trainee.text, clips, torch.Generator().manual_seed(0))
    noisy = torch.randn(clips.latents.shape, generator=torch.Generator().manual_seed(1))
    t = torch.full((len(clips), clips.latents.shape[2]), 0.7)
    return trainee.model(noisy, t, conditions)


def test_a_widened_model_is_the_old_one_until_it_listens_to_hidden_tracks(script, clips):
    old = make_trainee()
    before = {name: value.clone() for name, value in old.state_dict().items()}
    wide = script.widen(old)
    with torch.no_grad():
        # nothing but the order of sums may differ
        torch.testing.assert_close(velocity(wide, clips), velocity(old, clips), rtol=0, atol=1e-5)
        assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())
        untold = script.GIVEN["hidden as unspecified"](clips)
        assert torch.equal(velocity(old, untold), velocity(old, clips))
        half = before[COMPRESS].shape[1]
        dict(wide.named_parameters())[COMPRESS][:, half:] = 0.1
        assert (velocity(wide, clips) - velocity(wide, untold)).abs().max() > 1e-3
        torch.testing.assert_close(velocity(wide, untold), velocity(old, clips), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="already"):
        script.widen(wide)


def test_the_new_map_learns_from_hidden_tracks_alone(script, clips):
    wide = script.widen(make_trainee())
    half = wide.state_dict()[COMPRESS].shape[1] // 2
    for given, learns in (("everything", True), ("hidden as unspecified", False)):
        wide.zero_grad()
        velocity(wide, script.GIVEN[given](clips)).square().mean().backward()
        gradient = dict(wide.named_parameters())[COMPRESS].grad
        assert gradient[:, :half].abs().max() > 0
        assert (gradient[:, half:].abs().max() > 0) == learns


def test_cells_count_where_a_track_is_hidden_and_where_it_was_let_go(script, clips):
    config = preset("debug")
    one = clips.take([0])
    frames, count = one.visible.shape[1:]
    positions = torch.full((1, frames, count, 2), torch.nan)
    visible = torch.zeros(1, frames, count, dtype=torch.bool)
    positions[0, :, 0], visible[0, :, 0] = torch.tensor([4.0, 12.0]), True
    visible[0, 5:9, 0] = False  # hidden in latent frame 2
    positions[0, :13, 1], visible[0, :13, 1] = torch.tensor([28.0, 4.0]), True  # let go after latent frame 3
    positions[0, :13, 2] = torch.tensor([20.0, 28.0])  # never seen: not let go, but hidden in latent frames 0 to 3
    found = script.regions(replace(one, positions=positions, visible=visible), config)
    assert {tuple(cell) for cell in found["hidden"].nonzero().tolist()} == {
        *((0, 2, 1, 0), (0, 1, 3, 2), (0, 2, 3, 2), (0, 3, 3, 2))
    }
    assert {tuple(cell) for cell in found["released"].nonzero().tolist()} == {(0, f, 0, 3) for f in (4, 5, 6)}
    assert not found["all"][:, 0].any() and found["all"][:, 1:].all()


def test_the_comparison_runs_whole_at_debug_size(script, tmp_path):
    recipe = nano_recipes.debug()
    torch.manual_seed(0)
    write_tensors(tmp_path / "teacher.safetensors", Trainee(recipe.model).state_dict())
    write_tensors(tmp_path / "autoencoder.safetensors", LinearAutoencoder(recipe.model.autoencoder).state_dict())
    write_tensors(tmp_path / "mixer.safetensors", MotionModel(recipe.model).pixel_mixer.state_dict())
    output = tmp_path / "result.json"
    sizes = ["--recipe", "debug", "--steps", "3", "--batch", "2", "--clips", "4", "--threads", "1"]
    script.main([*sizes, "--folder", str(tmp_path), "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["cells"]["all"] == {"share": 1.0, "clips": 4}
    assert 0 < result["cells"]["hidden"]["share"] < 0.5
    assert result["map_weights_rms"]["hidden"] > 0
    assert {run["steps"] for run in result["trained"].values()} == {3}
    first = result["comparisons"][0]
    assert (first["first"], first["second"]) == ("two maps, everything", "one map, everything")
    students = result["students"]
    difference = students[first["first"]]["hidden"]["db"] - students[first["second"]]["hidden"]["db"]
    assert difference == pytest.approx(first["hidden"]["db"]["value"], abs=0.002)
