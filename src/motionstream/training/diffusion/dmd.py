"""The loss of distribution matching distillation (DMD; paper, section 3.2, eq. 3), for any two denoisers.

The gradient of the reverse KL divergence between generated and real clips, both noised to the same level, is a
difference of two scores. For rectified flow a score follows from an x0 prediction:
s(x_t) = ((1 − t) E[x0 | x_t] − x_t) / t², hence

    s_fake − s_real = (1 − t) / t² · (x0_fake − x0_real).

As in DMD and Self-Forcing, the factor is replaced by a normalisation per sample: the difference is divided by the mean
of |x0 − x0_real|. Latent frame 0, the given picture, is excluded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from motionstream.model.flow import shift_time

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents (B, C, F, h, w), t (B, F)) → predicted clean latents (B, C, F, h, w)."""

LOWEST, HIGHEST = 0.02, 0.98
"""Range of noise levels at which scores are compared (Self-Forcing): with less noise denoisers merely copy their input,
with more the input shows nothing of the clip."""

FLOOR = 1e-3
"""Lower bound of the divisor, the mean |x0 − x0_real|, in latent units. If the student is closer than this, the
gradient shrinks with the difference; a smaller divisor would amplify noise to the size of a real difference."""


def score_times(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels from uniform numbers in [0, 1), shifted and clamped. Both the comparison of scores and the
    critic's training use them, with one level per clip."""
    return shift_time(uniform, shift).clamp(LOWEST, HIGHEST)


def _clip_mean(x: Tensor) -> Tensor:
    """Mean of each clip without the given picture's frame: (B, C, F, h, w) → (B, 1, 1, 1, 1)."""
    return x[:, :, 1:].mean(dim=(1, 2, 3, 4), keepdim=True)


@torch.no_grad()
def dmd_gradient(
    x0: Tensor, noisy: Tensor, t: Tensor, real: Denoiser, fake: Denoiser, weight: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The loss's gradient, which points from the real distribution towards the generated one, and figures about it.

    Args:
        x0: generated clips (B, C, F, h, w); latent frame 0 is the given picture.
        noisy: ``x0`` noised to ``t`` (B, F), with the picture as in the denoisers' training (``hold_picture``).
        real: the teacher, usually guided. fake: the critic, not guided.
        weight: positive weights, shaped like ``x0``. They apply to the difference and to its divisor, so a factor per
            clip has no effect. They change how fast each element converges, but not where.

    Returns:
        The gradient (B, C, F, h, w), zero in latent frame 0, and, both unweighted, ``score_gap`` (mean
        |x0_fake − x0_real|, which shrinks with training, unlike the normalised loss) and ``real_gap`` (mean
        |x0 − x0_real|). Values that are not finite are kept: the loop stops at them.
    """
    x0_real, x0_fake = real(noisy, t), fake(noisy, t)
    weight = torch.ones_like(x0) if weight is None else weight
    away, gap = x0_fake - x0_real, (x0 - x0_real).abs()
    # weighted, so that the floor is in latent units whatever the weights
    scale = torch.maximum(_clip_mean(weight * gap), FLOOR * _clip_mean(weight))
    gradient = weight * away / scale
    gradient = torch.cat([torch.zeros_like(gradient[:, :, :1]), gradient[:, :, 1:]], dim=2)
    figures = {"score_gap": _clip_mean(away.abs()).mean().item(), "real_gap": _clip_mean(gap).mean().item()}
    return gradient, figures


def dmd_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """½ (x0 − sg(x0 − gradient))², averaged over all elements but those of latent frame 0: a loss whose derivative with
    respect to ``x0`` is ``gradient`` divided by the number of these elements."""
    target = (x0 - gradient).detach()
    return 0.5 * (x0 - target).square()[:, :, 1:].mean()
