"""The DMD loss against theory, on Gaussians whose scores are known."""

import pytest
import torch
from torch import nn

from motionstream.model.flow import add_noise
from motionstream.training.diffusion.dmd import FLOOR, HIGHEST, LOWEST, dmd_gradient, dmd_loss, score_times


def gaussian(mean, std, temperature=1.0):
    """E[x0 | x_t] for x0 ~ N(mean, std²), where the noise is scaled by ``temperature``."""

    def denoise(noisy, t):
        keep, t = (1 - t).reshape(len(t), 1, -1, 1, 1), t.reshape(len(t), 1, -1, 1, 1)
        return mean + keep * std**2 / (keep**2 * std**2 + (temperature * t) ** 2) * (noisy - keep * mean)

    return denoise


def test_the_gradient_is_the_difference_of_the_scores():
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(5, 3, 4, 2, 2, generator=generator).double()
    t = torch.linspace(0.1, 0.9, 5).double()[:, None].expand(-1, 4)
    noisy = add_noise(x0, torch.randn(x0.shape, generator=generator).double(), t)
    gradient, figures = dmd_gradient(x0, noisy, t, gaussian(0.4, 0.5), gaussian(-0.3, 1.2))

    def score(mean, std):
        """∇ log p_t, by autograd of the density of x_t = (1 − t) x0 + t n."""
        x, time = noisy.clone().requires_grad_(), t[:, None, :, None, None]
        law = torch.distributions.Normal((1 - time) * mean, ((1 - time) ** 2 * std**2 + time**2).sqrt())
        return torch.autograd.grad(law.log_prob(x).sum(), x)[0]

    time = t[:, None, :, None, None]
    away = time**2 / (1 - time) * (score(-0.3, 1.2) - score(0.4, 0.5))
    scale = (x0 - gaussian(0.4, 0.5)(noisy, t)).abs()[:, :, 1:].mean(dim=(1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(gradient[:, :, 1:], (away / scale)[:, :, 1:], atol=1e-10, rtol=1e-10)
    assert gradient[:, :, 0].abs().max() == 0 and gradient[:, :, 1:].abs().min(dim=1).values.max() > 0.05
    assert figures["score_gap"] == pytest.approx(away[:, :, 1:].abs().mean().item())


def test_its_mean_is_the_gradient_of_the_divergence():
    """For equal deviations KL(N((1−t)μ, v) ‖ N((1−t)m, v)) has the derivative (1 − t)² (μ − m) / v by μ."""
    generator = torch.Generator().manual_seed(0)
    mean, other, std, level = 0.7, -0.1, 0.6, 0.4
    x0 = mean + std * torch.randn(4000, 1, 5, 4, 4, generator=generator).double()
    t = torch.full((4000, 5), level).double()
    noisy = add_noise(x0, torch.randn(x0.shape, generator=generator).double(), t)
    away = gaussian(mean, std)(noisy, t) - gaussian(other, std)(noisy, t)
    gradient, _ = dmd_gradient(x0, noisy, t, gaussian(other, std), gaussian(mean, std))
    expected = (1 - level) ** 2 * (mean - other) / ((1 - level) ** 2 * std**2 + level**2)
    assert ((1 - level) ** 2 / level**2 * away).mean().item() == pytest.approx(expected, rel=1e-6)
    cosine = torch.nn.functional.cosine_similarity(gradient[:, :, 1:].flatten(), away[:, :, 1:].flatten(), dim=0)
    assert 0.9 < cosine < 1 - 1e-6  # the same direction; the normalisation differs from clip to clip


def test_the_loss_has_the_gradient_as_its_derivative_and_leaves_the_picture_alone():
    x0 = torch.randn(2, 3, 4, 2, 2, requires_grad=True)
    gradient = torch.randn(2, 3, 4, 2, 2)
    dmd_loss(x0, gradient).backward()
    counted = x0[:, :, 1:].numel()
    torch.testing.assert_close(x0.grad[:, :, 1:], gradient[:, :, 1:] / counted, atol=1e-7, rtol=1e-5)
    assert x0.grad[:, :, 0].abs().max() == 0


def test_weights_floor_and_what_is_not_finite():
    x0 = torch.randn(2, 3, 4, 2, 2)
    t = torch.tensor([[0.3], [0.8]]).expand(-1, 4)
    noisy = add_noise(x0, torch.randn_like(x0), t)
    real, fake = gaussian(0.5, 1.0), gaussian(-0.5, 1.0)
    plain, _ = dmd_gradient(x0, noisy, t, real, fake)
    a_number_a_clip = (1 / t**2)[:, None, :, None, None].expand_as(x0)
    torch.testing.assert_close(dmd_gradient(x0, noisy, t, real, fake, a_number_a_clip)[0], plain)
    uneven = torch.rand_like(x0) + 0.1
    weighted, _ = dmd_gradient(x0, noisy, t, real, fake, uneven)
    assert (weighted - plain).abs().max() > 0.1 and (weighted.sign() == plain.sign()).all()
    # where the real prediction is the clip itself, the gradient fades with the difference
    near, _ = dmd_gradient(x0, noisy, t, lambda x, t: x0, lambda x, t: x0 + 1e-6)
    torch.testing.assert_close(near[:, :, 1:], torch.full_like(near[:, :, 1:], 1e-6 / FLOOR), rtol=0.2, atol=0)
    broken, _ = dmd_gradient(x0, noisy, t, real, lambda x, t: torch.full_like(x, float("nan")))
    assert not torch.isfinite(dmd_loss(x0, broken))


def test_scaled_noise_makes_the_tempered_teacher_the_one_place_of_rest():
    """The teacher knows noise of deviation t; clips are noised by a quarter of that, as the critic has learned."""
    mean, std, temperature = 0.4, 0.8, 0.25
    t = torch.linspace(0.1, 0.9, 5).double()[:, None].expand(-1, 4)

    def gap(made_std):
        x0 = mean + made_std * torch.randn(5, 3, 4, 2, 2).double()
        noisy = add_noise(x0, temperature * torch.randn_like(x0), t)
        fake = gaussian(mean, made_std, temperature)
        return dmd_gradient(x0, noisy, t, gaussian(mean, std), fake)[0].abs().max().item()

    assert gap(temperature * std) < 1e-10
    assert gap(std) > 0.1 and gap(0.5 * temperature * std) > 0.1


def test_score_times_are_shifted_and_clamped():
    t = score_times(torch.rand(4000, 1, generator=torch.Generator().manual_seed(0)), 5.0)
    assert t.shape == (4000, 1) and t.min() == pytest.approx(LOWEST) and t.max() == pytest.approx(HIGHEST)
    assert t.median() == pytest.approx(5 / 6, abs=0.02)


@pytest.mark.parametrize("learned", [False, True])
def test_updates_bring_a_generator_to_the_real_distribution(learned):
    """x0 = a z + b against N(0.8, 0.5²); the critic is exact, or learned by flow matching, five updates to one."""
    generator = torch.Generator().manual_seed(0)
    a, b = nn.Parameter(torch.tensor(1.4)), nn.Parameter(torch.tensor(-0.6))
    mean, spread = nn.Parameter(torch.tensor(-0.6)), nn.Parameter(torch.tensor(1.4).log())
    student = torch.optim.Adam([a, b], lr=0.05, betas=(0.0, 0.99))
    critic = torch.optim.Adam([mean, spread], lr=0.05, betas=(0.0, 0.99))

    def clips():
        return a * torch.randn(64, 2, 4, 2, 2, generator=generator) + b

    def noised(x0):
        t = score_times(torch.rand(64, 1, generator=generator), 3.0).expand(-1, 4)
        return add_noise(x0, torch.randn(x0.shape, generator=generator), t), t

    gaps = []
    for _ in range(150):
        for _ in range(5 if learned else 0):
            x0 = clips().detach()
            noisy, t = noised(x0)
            error = (gaussian(mean, spread.exp())(noisy, t) - x0).square() / t[:, None, :, None, None] ** 2
            critic.zero_grad()
            error.mean().backward()
            critic.step()
        x0 = clips()
        noisy, t = noised(x0.detach())
        fake = gaussian(mean, spread.exp()) if learned else gaussian(b, a)
        gradient, figures = dmd_gradient(x0, noisy, t, gaussian(0.8, 0.5), fake)
        gaps.append(figures["score_gap"])
        student.zero_grad()
        dmd_loss(x0, gradient).backward()
        student.step()
    assert b.item() == pytest.approx(0.8, abs=0.12) and a.item() == pytest.approx(0.5, abs=0.12)
    assert sum(gaps[-20:]) < 0.3 * sum(gaps[:20])
