"""Linear layers with int8 weights: half of bfloat16's memory, for encoders that run once per prompt.

Plain PyTorch, so it runs on every device. Only weights are quantised, with one scale per output; they are converted to
the activations' precision while a layer runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Int8Linear(nn.Module):
    """``linear`` with int8 weights: y = (x Wᵀ) · scale + bias; scale (outputs,) is a row's largest magnitude / 127."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias


def to_int8(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every ``nn.Linear`` in place and move the module to ``device``, layer by layer, so that the device never
    holds all weights in full precision."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child).to(device))
        else:
            to_int8(child, device)
    return module.to(device)
