"""Distribution matching distillation (paper, section 3.2, eq. 3): the loss alone, for any two denoisers.

The gradient of the reverse KL between generated and real clips, noised alike, is the difference of two scores. For the
rectified flow a score is an x0 prediction: s(x_t) = ((1 − t) E[x0 | x_t] − x_t) / t², hence

    s_fake − s_real = (1 − t) / t² · (x0_fake − x0_real).

As in DMD and Self-Forcing the factor is replaced by a normalisation, sample by sample: the difference is divided by the
mean of |x0 − x0_real|. Latent frame 0, the given picture, is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from motionstream.model.flow import shift_time

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents (B, C, F, h, w), t (B, F)) → the clean latents expected of them."""

LOWEST, HIGHEST = 0.02, 0.98
"""Noise levels at which scores are compared (Self-Forcing): below, denoisers merely copy; above, they see nothing."""

FLOOR = 1e-3
"""Least mean |x0 − x0_real| the difference is divided by, in latent units. Where the student is that near, the gradient
shrinks with the difference; a division by nearly nothing would make noise as large as a real difference."""


def score_times(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels from numbers uniform in [0, 1): shifted, clamped. Scores are compared and the critic is trained at
    the same ones, one a clip."""
    return shift_time(uniform, shift).clamp(LOWEST, HIGHEST)


def _clip_mean(x: Tensor) -> Tensor:
    """Mean over all but the clip and the given picture's frame: (B, C, F, h, w) → (B, 1, 1, 1, 1)."""
    return x[:, :, 1:].mean(dim=(1, 2, 3, 4), keepdim=True)


@torch.no_grad()
def dmd_gradient(
    x0: Tensor, noisy: Tensor, t: Tensor, real: Denoiser, fake: Denoiser, weight: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The direction that leads generated clips away from the real distribution, and figures about it.

    Args:
        x0: generated clips (B, C, F, h, w), latent frame 0 being the given picture's.
        noisy: ``x0`` noised to ``t`` (B, F), the picture held as the denoisers know it.
        real: the teacher, guided. fake: the critic, not guided.
        weight: positive, like ``x0``: the metric in which the difference is measured. Both it and what it is divided
            by are weighted, so that a factor per clip has no effect. It changes how fast each element follows, not
            where they come to rest.

    Returns:
        The gradient (B, C, F, h, w), zero in latent frame 0, and ``score_gap`` (mean |x0_fake − x0_real|: what is
        being closed, unlike the normalised loss) and ``real_gap`` (mean |x0 − x0_real|), both unweighted. What is not
        finite stays so: the loop stops at it.
    """
    x0_real, x0_fake = real(noisy, t), fake(noisy, t)
    weight = torch.ones_like(x0) if weight is None else weight
    away, gap = x0_fake - x0_real, (x0 - x0_real).abs()
    # the floor is in latent units, whatever the weights
    scale = torch.maximum(_clip_mean(weight * gap), FLOOR * _clip_mean(weight))
    gradient = weight * away / scale
    gradient = torch.cat([torch.zeros_like(gradient[:, :, :1]), gradient[:, :, 1:]], dim=2)
    figures = {"score_gap": _clip_mean(away.abs()).mean().item(), "real_gap": _clip_mean(gap).mean().item()}
    return gradient, figures


def dmd_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """½ ‖x0 − sg(x0 − gradient)‖², the mean over every frame but the given one: a loss whose derivative by ``x0`` is
    ``gradient`` over the number of elements."""
    target = (x0 - gradient).detach()
    return 0.5 * (x0 - target).square()[:, :, 1:].mean()
