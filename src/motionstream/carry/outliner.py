"""A network that predicts the mask of a thing from points on it, as a guess for the graph cut (``things.py``).

Its input is the picture, points on the thing and points off it, and for every pixel the distance in space and colour to
the nearest of each. It is trained on rendered pictures (``training/parts/outlining.py``) and may be wrong about
photographs, so its guess is refined and can be outvoted. Axes: N points on the thing, M off it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.carry.unet import UNet

SHOWN = 3 + 2 * 3
"""Channels: the picture; then, for points on the thing and off it each: position, distance, colour difference."""
FARTHEST, UNLIKEST = 64.0, 2.0
"""Distances are clamped to this many pixels, colour differences (of colours in [−1, 1]) to this value."""
DOT = 1.5
"""Radius in pixels of the dot that marks a point."""


class Outliner(nn.Module):
    """See the module's docstring. Works at half the picture's size. ``widths``: of its U-Net."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.net = UNet(4 * SHOWN, widths, 4)
        self.multiple = int(2 ** len(widths))

    def forward(self, shown: Tensor) -> Tensor:
        """Channels (B, 9, H, W) from ``show`` → logits (B, H, W) that a pixel belongs to the thing."""
        out: Tensor = F.pixel_shuffle(self.net(F.pixel_unshuffle(shown, 2)).float(), 2)
        return out[:, 0]

    @torch.no_grad()
    def draw(self, picture: np.ndarray, on: np.ndarray, off: np.ndarray) -> np.ndarray:
        """Implements ``tracks.masks.Draw`` for pictures of any size."""
        device, (height, width) = self.net.inlet.weight.device, picture.shape[:2]
        pixels, *points = (torch.from_numpy(np.array(x, np.float32)).to(device) for x in (picture, on, off))
        shown = show(pixels.permute(2, 0, 1) / 127.5 - 1, *points)
        below, beside = -height % self.multiple, -width % self.multiple
        whole = F.pad(shown[None], (0, beside, 0, below), mode="replicate")
        return np.asarray(self(whole)[0, :height, :width].sigmoid().cpu().numpy())


def show(picture: Tensor, on: Tensor, off: Tensor) -> Tensor:
    """The outliner's input (9, H, W) for a picture (3, H, W) and points on (N, 2) and off (M, 2) a thing, in pixels."""
    smooth = F.avg_pool2d(picture[None], 3, 1, 1, count_include_pad=False)[0]
    return torch.cat([picture, _points(smooth, on), _points(smooth, off)])


def _points(smooth: Tensor, points: Tensor) -> Tensor:
    """Dots at the points, and every pixel's distance in space and in colour to the nearest point: (3, H, W). Without
    points, both distances have their largest value."""
    height, width = smooth.shape[-2:]
    if len(points) == 0:
        return torch.tensor([0.0, 2.0, UNLIKEST], device=smooth.device)[:, None, None].expand(3, height, width)
    x = points[:, 0].round().long().clamp(0, width - 1)
    y = points[:, 1].round().long().clamp(0, height - 1)
    rows, columns = (torch.arange(side, device=smooth.device) for side in (height, width))
    square = (rows[:, None] - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
    distance = square.amin(dim=0).float().sqrt()
    unlike = torch.cdist(smooth.flatten(1).T, smooth[:, y, x].T).amin(dim=1).view(height, width)
    near = 2 * distance.clamp(max=FARTHEST) / FARTHEST
    return torch.stack([(distance < DOT).float(), near, unlike.clamp(max=UNLIKEST)])
