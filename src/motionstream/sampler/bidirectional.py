"""The teacher's sampler: many steps, bidirectional."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from motionstream.model.attention import AttentionContext
from motionstream.model.flow import hold_picture, schedule, velocity_to_x0
from motionstream.model.motion_model import Conditions, MotionModel
from motionstream.sampler.guidance import joint_guidance


@dataclass(frozen=True)
class Guidance:
    """Joint guidance: the conditions without text and without motion, and the weights of equation 2."""

    no_text: Conditions
    no_motion: Conditions
    text: float
    motion: float


def guided_velocity(
    model: MotionModel,
    noisy: Tensor,
    t: Tensor,
    conditions: Conditions,
    guidance: Guidance | None,
    context: AttentionContext | None = None,
) -> Tensor:
    """The velocity, by one model evaluation without guidance, by three with it."""
    full = model(noisy, t, conditions, context)
    if guidance is None:
        return full
    no_text, no_motion = (model(noisy, t, c, context) for c in (guidance.no_text, guidance.no_motion))
    return joint_guidance(full, no_text, no_motion, guidance.text, guidance.motion)


@torch.no_grad()
def trajectory(
    model: MotionModel,
    noise: Tensor,
    conditions: Conditions,
    *,
    steps: int,
    shift: float,
    first_latent: Tensor | None = None,
    guidance: Guidance | None = None,
    context: AttentionContext | None = None,
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Solve the flow's ODE by Euler steps, from noise to data.

    Args:
        noise: (B, C, F, h, w).
        first_latent: the given picture's latent (B, C, 1, h, w); latent frame 0 is held to it (``hold_picture``) and
            ends in it.
        context: attention context; bidirectional when None.

    Yields:
        (t, x_t, the x0 predicted from x_t) for every time of the schedule but the last, then (0, x_0, x_0).
    """
    times = schedule(steps, shift).tolist()
    x = noise
    for now, after in pairwise(times):
        t = torch.full((x.shape[0], x.shape[2]), now, device=x.device)
        if first_latent is not None:
            clean = model.config.image_conditioning == "first_latent"
            x, t = hold_picture(x, t, first_latent, noise, clean=clean)
        velocity = guided_velocity(model, x, t, conditions, guidance, context)
        yield now, x, velocity_to_x0(x, velocity, t)
        x = x + (after - now) * velocity
    if first_latent is not None:
        x = torch.cat([first_latent, x[:, :, 1:]], dim=2)
    yield 0.0, x, x


def sample(model: MotionModel, noise: Tensor, conditions: Conditions, **settings: object) -> Tensor:
    """The final clean latents (B, C, F, h, w) of ``trajectory``."""
    *_, (_, end, _) = trajectory(model, noise, conditions, **settings)  # type: ignore[arg-type]
    return end
