"""The teacher's sampler: three guided evaluations, the given picture re-imposed, an exact answer where one is known."""

from types import SimpleNamespace

import torch

from motionstream.sampler.bidirectional import Guidance, guided_velocity, sample, trajectory
from motionstream.sampler.guidance import joint_guidance


class Toward:
    """A model that knows the data: the velocity that leads to the clean latents named by its conditions."""

    def __init__(self, image_conditioning: str = "first_latent") -> None:
        self.config = SimpleNamespace(image_conditioning=image_conditioning)
        self.calls, self.times = 0, []

    def __call__(self, noisy, t, conditions, context=None):
        self.calls += 1
        self.times.append(t)
        return (noisy - conditions) / t.reshape(t.shape[0], 1, -1, 1, 1).clamp(min=1e-3)


def latents(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 6, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_guidance_costs_three_evaluations_and_is_the_equation():
    model, noisy, t = Toward(), latents(0), torch.full((2, 6), 0.5)
    full, no_text, no_motion = latents(1), latents(2), latents(3)
    plain = guided_velocity(model, noisy, t, full, None)
    assert model.calls == 1
    guided = guided_velocity(model, noisy, t, full, Guidance(no_text, no_motion, 3.0, 1.5))
    assert model.calls == 4
    parts = [Toward()(noisy, t, c) for c in (full, no_text, no_motion)]
    torch.testing.assert_close(guided, joint_guidance(*parts, 3.0, 1.5))
    assert (guided - plain).abs().max() > 0.1


def test_a_perfect_model_arrives_whatever_the_steps():
    target, noise = latents(1), latents(0)
    for steps in (1, 5):
        made = sample(Toward(), noise, target, steps=steps, shift=3.0, first_latent=target[:, :, :1])
        torch.testing.assert_close(made, target, atol=1e-4, rtol=1e-4)


def test_the_given_picture_is_clean_at_every_step():
    first = latents(5)[:, :, :1]
    states = list(trajectory(Toward(), latents(0), latents(1), steps=4, shift=3.0, first_latent=first))
    assert [round(t, 3) for t, _, _ in states] == [1.0, 0.9, 0.75, 0.5, 0.0]
    for _, x, _ in states:
        torch.testing.assert_close(x[:, :, :1], first, atol=0, rtol=0)


def test_a_concatenated_picture_goes_its_own_straight_path():
    first, noise, model = latents(5)[:, :, :1], latents(0), Toward("concat")
    *states, (_, end, _) = trajectory(model, noise, latents(1), steps=4, shift=3.0, first_latent=first)
    for t, x, _ in states:
        torch.testing.assert_close(x[:, :, :1], (1 - t) * first + t * noise[:, :, :1])
    torch.testing.assert_close(end[:, :, :1], first, atol=0, rtol=0)
    assert all((t == t[:, :1]).all() for t in model.times), "such a model knows one noise level for all frames"
