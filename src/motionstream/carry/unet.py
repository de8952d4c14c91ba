"""The small U-Net that the pixel mixer's parts are."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.residual import ResidualBlock


class UNet(nn.Module):
    """One block per scale on the way down and one on the way up, with added skip connections. ``kernel``: size of the
    first layer's."""

    def __init__(self, inputs: int, widths: tuple[int, ...], outputs: int, *, kernel: int = 1) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        self.inlet = nn.Conv2d(inputs, widths[0], kernel, padding=kernel // 2)
        self.left = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in steps)
        self.right = nn.ModuleList(ResidualBlock(width) for width in widths[:-1])
        self.outlet = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h, w)."""
        # the inlet has many input and few output channels, so converting its output to the faster layout is cheaper
        x, *kept = self._descend(self.inlet(x).contiguous(memory_format=torch.channels_last))
        for up, block in zip(reversed(self.up), reversed(self.right), strict=True):
            x = block(F.interpolate(up(x), scale_factor=2, mode="nearest") + kept.pop())
        return self.outlet(F.silu(x))

    def _descend(self, x: Tensor) -> list[Tensor]:
        """Outputs of the downward blocks: the coarsest first, then the others from the finest."""
        kept = []
        for block, down in zip(self.left, self.down, strict=False):
            x = block(x)
            kept.append(x)
            x = down(F.silu(x))
        return [self.left[-1](x), *kept]
