"""The weights that stay in float32 when a model runs in half precision ("islands").

In Wan: norms, modulation tables and the time embedding (official code, wan/modules/model.py; diffusers'
``_keep_in_fp32_modules``). They are small, but rounding them has a large effect. So it has for the networks that carry
picture content.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

ISLANDS = (
    "time_embedder",
    "time_proj",
    "scale_shift_table",
    "norm1",
    "norm2",
    "norm3",
    "norm_q",
    "norm_k",
    "norm_added_k",
    "norm_out",
    "carry_prior",
    "pixel_mixer",
)
"""A parameter is an island if one of its name's dotted parts is among these."""


def is_island(name: str) -> bool:
    """Whether the parameter with this dotted name stays in float32."""
    return any(part in ISLANDS for part in name.split("."))


def cast_with_islands(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters and buffers of ``module`` to ``dtype`` in place, the islands to float32."""
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if is_island(name) else dtype)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32 if is_island(name) else dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Operations run in the precision of what they are given. The meta device has no autocast that could be off."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
