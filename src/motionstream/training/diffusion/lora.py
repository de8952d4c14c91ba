"""Low-rank fine-tuning (LoRA, through peft) together with full training of the few new weights, to fit on one GPU.

Every large projection is frozen and gets two low-rank matrices; the patch embedding, whose track slice is new, and the
track head are trained in full. A stage saves its weights with the low-rank matrices merged, so nothing after it depends
on LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from motionstream.conditioning.pretrained import optional_import
from motionstream.model.motion_model import MotionModel
from motionstream.model.precision import cast_with_islands

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""The projections of every block, by their names in diffusers."""
BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class LoraSettings:
    """Rank and scale of the low-rank matrices, and which parameters are trained in full."""

    rank: int = 64
    alpha: float = 64.0
    """The product of the two matrices is scaled by alpha / rank."""
    whole: tuple[str, ...] = ("patch_embedding",)
    """Transformer parameters whose names contain one of these are trained in full. So is the track head, unless a stage
    freezes it."""
    base_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the frozen weights."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"LoRA rank = {self.rank}, alpha = {self.alpha}: must be positive")


def add_lora(model: MotionModel, settings: LoraSettings) -> None:
    """Freeze the transformer and add low-rank matrices to its projections, initialised so that outputs do not change.

    Raises ValueError if peft is not installed.
    """
    peft = optional_import("peft", 'pip install -e ".[train]"')
    if settings.base_dtype == "bfloat16":
        cast_with_islands(model.transformer, torch.bfloat16)
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(TARGETS), bias="none")
    peft.inject_adapter_in_model(config, model.transformer)
    for module_name, module in model.transformer.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            name = f"{module_name}.{name}"
            parameter.requires_grad_(any(part in name for part in settings.whole) or ".lora_" in name)
            if parameter.requires_grad and parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()  # master weights
                if ".lora_" not in name:  # peft converts the inputs of its own matrices
                    _keep_precision(module, torch.bfloat16)


def _keep_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Make a module with float32 master weights accept any precision and return ``dtype``, like its frozen neighbours:
    outside autocast, for example in a rollout before training, nothing else converts."""
    if not module._forward_pre_hooks:  # once, for weight and bias
        module.register_forward_pre_hook(lambda part, inputs: (inputs[0].float(),))
        module.register_forward_hook(lambda part, inputs, output: output.to(dtype))


def merged(state: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """A model's state with the low-rank matrices merged and the names from before ``add_lora``, float32."""
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        part, base, kind = name.partition(BASE)
        value = value.float()
        if base and kind == "weight":
            down, up = state[part + DOWN].float(), state[part + UP].float()
            value = value + settings.alpha / settings.rank * (up @ down)
        plain[f"{part}.{kind}" if base else name] = value
    return plain
