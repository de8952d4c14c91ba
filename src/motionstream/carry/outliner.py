"""Drawing the thing that some points are on: a network's guess, which helps a graph cut of the picture (``things.py``).

It is shown the picture, the points, others that are not on the thing, how far every pixel is from either and how
different its colour is. It has learnt from rendered pictures (``training/outlining.py``) and may be wrong about
photographs, so it has a voice and not the last word.
Axes: N points on the thing, M beside it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.carry.unet import UNet

SHOWN = 3 + 2 * 3
"""Channels: the picture; of points on the thing and beside it, where they are, how far, and how different in colour."""
FARTHEST, UNLIKEST = 64.0, 2.0
"""Pixels, and distance of colours in [−1, 1], beyond which it does not matter by how much."""
DOT = 1.5
"""Pixels around a point that stand for it."""


class Outliner(nn.Module):
    """See the module's docstring. Works at half the picture's size. ``widths``: of its U-Net."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.net = UNet(4 * SHOWN, widths, 4)
        self.multiple = int(2 ** len(widths))

    def forward(self, shown: Tensor) -> Tensor:
        """What ``show`` makes of pictures, (B, 9, H, W) → the logits (B, H, W) that a pixel is of the thing."""
        out: Tensor = F.pixel_shuffle(self.net(F.pixel_unshuffle(shown, 2)).float(), 2)
        return out[:, 0]

    @torch.no_grad()
    def draw(self, picture: np.ndarray, on: np.ndarray, off: np.ndarray) -> np.ndarray:
        """A ``tracks.masks.Draw``, of pictures of any size."""
        device, (height, width) = self.net.inlet.weight.device, picture.shape[:2]
        pixels, *points = (torch.from_numpy(np.array(x, np.float32)).to(device) for x in (picture, on, off))
        shown = show(pixels.permute(2, 0, 1) / 127.5 - 1, *points)
        below, beside = -height % self.multiple, -width % self.multiple
        whole = F.pad(shown[None], (0, beside, 0, below), mode="replicate")
        return np.asarray(self(whole)[0, :height, :width].sigmoid().cpu().numpy())


def show(picture: Tensor, on: Tensor, off: Tensor) -> Tensor:
    """The channels (9, H, W) that an outliner sees of a picture (3, H, W) and points (N, 2) and (M, 2) in pixels."""
    smooth = F.avg_pool2d(picture[None], 3, 1, 1, count_include_pad=False)[0]
    return torch.cat([picture, _points(smooth, on), _points(smooth, off)])


def _points(smooth: Tensor, points: Tensor) -> Tensor:
    """Points by where they are, and every pixel by its distance, in the picture and in colour, to the nearest:
    (3, H, W). Where there are none they are as far as can be."""
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
