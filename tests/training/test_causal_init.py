"""Causal initialisation: the regression where its answer is known, trajectories under guidance, levels per chunk."""

from types import SimpleNamespace

import pytest
import torch

from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.model.flow import per_frame
from motionstream.model.motion_model import Conditions
from motionstream.sampler.bidirectional import trajectory
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.clips.rendered import prepare
from motionstream.training.diffusion.causal_init import CausalStage
from motionstream.training.diffusion.flow_matching import x0_loss
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.trajectories import solve
from motionstream.training.loop.distributed import SampleDraws
from motionstream.training.recipes.named import RECIPES

DEVIATION = 0.4
TIMES = (1.0, 0.8, 0.5)


class Gaussian:
    """A perfect teacher of data N(0, DEVIATION²): its velocity is linear, and noise z ends at DEVIATION z."""

    config = SimpleNamespace(image_conditioning="first_latent")

    def __call__(self, noisy, t, conditions, context=None):
        time = per_frame(t)
        variance = (1 - time) ** 2 * DEVIATION**2 + time**2
        return (time - (1 - time) * DEVIATION**2) / variance * noisy


def test_regression_on_a_linear_field_recovers_the_exact_map():
    noise = torch.randn(16, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    conditions = Conditions(torch.zeros(16, 1, 1), torch.zeros(16, 0, 4, 5, 5))
    path = list(trajectory(Gaussian(), noise, conditions, steps=400, shift=1.0))
    end = path[-1][1]
    torch.testing.assert_close(end, DEVIATION * noise, atol=0.01, rtol=0.01)
    states = {level: min(path[:-1], key=lambda state: abs(state[0] - level)) for level in TIMES}
    student = torch.zeros(len(TIMES), requires_grad=True)  # x0 = a(t) x_t
    optimiser = torch.optim.LBFGS([student], max_iter=50)

    def loss() -> torch.Tensor:
        parts = []
        for place, (now, x, _) in enumerate(states.values()):
            t = torch.full((16, 4), now)
            parts.append(x0_loss(student[place] * x, end, x, t, conditions).mean())
        return torch.stack(parts).sum()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        total = loss()
        total.backward()
        return total

    before = loss().item()
    optimiser.step(closure)
    exact = [DEVIATION / ((1 - t) ** 2 * DEVIATION**2 + t**2) ** 0.5 for t, _, _ in states.values()]
    torch.testing.assert_close(student.detach(), torch.tensor(exact), atol=0.01, rtol=0.01)
    assert loss().item() < 1e-3 * before
    # not the one-step denoiser, whose gain is that of the conditional mean
    t = states[0.5][0]
    assert abs(exact[2] - (1 - t) * DEVIATION**2 / ((1 - t) ** 2 * DEVIATION**2 + t**2)) > 0.1


@pytest.fixture(scope="module")
def trainee() -> Trainee:
    torch.manual_seed(0)
    trainee = Trainee(RECIPES["debug"]().model)
    with torch.no_grad():
        for parameter in trainee.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return trainee.eval()


@pytest.fixture(scope="module")
def clips(trainee) -> PreparedClips:
    from motionstream.autoencoder.linear import LinearAutoencoder

    recipe = RECIPES["debug"]()
    rendered = render(recipe.data.scene, 2, 1, TextureBank(()))
    generator = torch.Generator().manual_seed(0)
    mix = TrackMix(dense=1.0, random=0.0, drags=0.0)
    return prepare(rendered, trainee.model, LinearAutoencoder(recipe.model.autoencoder), mix, generator)


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_trajectories_under_guidance_are_others_and_keep_the_picture(trainee, clips):
    solved = {guided: solve(trainee, clips, generators(2), guided=guided) for guided in (False, True)}
    for parts in solved.values():
        torch.testing.assert_close(parts["x0"][:, :, :1], clips.latents[:, :, :1], atol=0, rtol=0)
        assert parts["states"].shape[1] == len(trainee.model.config.sampler.student_times)
    assert (solved[True]["x0"] - solved[False]["x0"])[:, :, 1:].abs().max() > 1e-3


def test_levels_are_drawn_chunk_by_chunk_and_the_picture_is_not_in_the_loss(trainee, clips):
    solved = solve(trainee, clips, generators(2))
    store = SimpleNamespace(times=solved["times"])
    stage = CausalStage(trainee, store, clips, batch=2, seed=0)
    seen = set()
    for step in range(20):
        noisy, t = stage._mix_levels(solved["states"], solved["x0"], SampleDraws(0, step, range(2)))
        assert (t[:, 0] == 0).all()
        chunks = t.unflatten(1, (-1, 3))
        assert (chunks[:, 1:] == chunks[:, 1:, :1]).all(), "one level for each chunk"
        assert (t > 0).any(dim=1).all(), "something must be left to learn from"
        clean = (t == 0)[:, None, :, None, None].expand_as(noisy)
        torch.testing.assert_close(noisy[clean], solved["x0"][clean], atol=0, rtol=0)
        seen |= set(t.unique().tolist())
    assert seen == {0.0, *solved["times"].tolist()}
