"""Pictures with parts of them missing, filled from what is around these."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def surroundings(picture: Tensor, gone: Tensor) -> Tensor:
    """A picture (N, 3, h, w) without what is ``gone`` from it (N, 1, h, w), 0 to 1: in its place is what is around it,
    the coarser the farther away. (A pyramid, averaged on the way up and filled in on the way down.)"""
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
