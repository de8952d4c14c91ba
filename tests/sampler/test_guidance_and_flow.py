"""Joint guidance (eq. 2) and the flow's algebra."""

import pytest
import torch

from motionstream.model.flow import add_noise, keyed_noise, schedule, shift_time, velocity_to_x0, x0_to_velocity
from motionstream.sampler.guidance import joint_guidance

FULL, NO_TEXT, NO_MOTION = torch.randn(3, 2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind(0)


def test_joint_guidance_is_the_equation():
    out = joint_guidance(FULL, NO_TEXT, NO_MOTION, 3.0, 1.5)
    alpha = 3.0 / 4.5
    base = alpha * NO_TEXT + (1 - alpha) * NO_MOTION
    torch.testing.assert_close(out, base + 3.0 * (FULL - NO_TEXT) + 1.5 * (FULL - NO_MOTION))


def test_its_limits_are_ordinary_guidance_on_one_condition():
    text_only = joint_guidance(FULL, NO_TEXT, NO_MOTION, 3.0, 0.0)
    torch.testing.assert_close(text_only, NO_TEXT + 3.0 * (FULL - NO_TEXT))
    motion_only = joint_guidance(FULL, NO_TEXT, NO_MOTION, 0.0, 1.5)
    torch.testing.assert_close(motion_only, NO_MOTION + 1.5 * (FULL - NO_MOTION))
    torch.testing.assert_close(joint_guidance(FULL, NO_TEXT, NO_MOTION, 1.0, 0.0), FULL)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0)])
def test_weights_without_meaning_are_refused(weights):
    with pytest.raises(ValueError, match="guidance"):
        joint_guidance(FULL, NO_TEXT, NO_MOTION, *weights)


def test_velocity_and_x0_are_two_sides_of_one_thing():
    x0, noise = FULL, NO_TEXT
    t = torch.tensor([[0.3, 0.5, 1.0], [0.9, 0.1, 0.7]])
    noisy = add_noise(x0, noise, t)
    torch.testing.assert_close(velocity_to_x0(noisy, noise - x0, t), x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x0_to_velocity(noisy, x0, t), noise - x0, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(x0_to_velocity(noisy, x0, torch.zeros(2, 3))).all()


def test_schedule_and_shift():
    times = schedule(4, 5.0)
    assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    torch.testing.assert_close(shift_time(torch.tensor(2 / 3), 5.0), torch.tensor(0.90909), atol=1e-4, rtol=0)
    torch.testing.assert_close(schedule(4, 1.0), torch.linspace(1, 0, 5, dtype=torch.float64))


def test_noise_depends_on_its_key_alone():
    one = keyed_noise((2, 3, 4), seed=1, chunk=2, step=0)
    torch.testing.assert_close(keyed_noise((2, 3, 4), seed=1, chunk=2, step=0), one, atol=0, rtol=0)
    torch.testing.assert_close(keyed_noise((1, 3, 4), seed=1, chunk=2, step=0), one[:1], atol=0, rtol=0)
    others = [keyed_noise((2, 3, 4), seed=s, chunk=c, step=k) for s, c, k in ((0, 2, 0), (1, 3, 0), (1, 2, 1))]
    assert all((other - one).abs().max() > 0.1 for other in others)
    assert (one[0] - one[1]).abs().max() > 0.1
