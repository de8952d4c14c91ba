"""Fill missing parts of a picture smoothly from their surroundings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def surroundings(picture: Tensor, gone: Tensor) -> Tensor:
    """A picture (N, 3, h, w) with the ``gone`` part, (N, 1, h, w) from 0 to 1, filled from its surroundings, the more
    coarsely the farther they are (an image pyramid: averaged going up, filled in going down)."""
    kept = 1 - gone
    level = torch.cat([picture * kept, kept], dim=1)
    levels = [level]
    while min(level.shape[-2:]) % 2 == 0:
        level = F.avg_pool2d(level, 2)
        levels.append(level)
    out = level.mean(dim=(2, 3), keepdim=True)
    out = (out[:, :3] / out[:, 3:].clamp(min=1e-3)).expand_as(level[:, :3])
    for level in reversed(levels):
        out = F.interpolate(out, size=level.shape[-2:], mode="bilinear", align_corners=False)
        out = level[:, :3] + (1 - level[:, 3:]) * out
    return out
