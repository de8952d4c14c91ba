"""Saves memory on networks that a stage uses but does not train, by lower precision or offloading.

Like sharding, both apply to transformers alone; the parts around them are small and keep their precision and device.
"""

from __future__ import annotations

import torch
from torch import nn

from motionstream.model.offload import offload_blocks
from motionstream.model.precision import cast_with_islands
from motionstream.model.transformer import MotionTransformer
from motionstream.training.loop import distributed
from motionstream.training.loop.stage import TrainConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def place_frozen(module: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Broadcast a frozen network to all ranks, with precision, sharding and offloading according to ``config``.

    Offloading moves only the transformers' blocks off ``device``; with sharding, each rank keeps its part of the
    transformers in CPU memory (FSDP2's offloading). Raises ValueError if a parameter requires gradients.
    """
    if any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("a network among the stage's frozen ones has parameters that require gradients: freeze it")
    transformers = [part for part in module.modules() if isinstance(part, MotionTransformer)]
    if config.frozen_dtype is not None:
        for part in transformers:
            cast_with_islands(part, DTYPES[config.frozen_dtype])
    if not config.offload_frozen:
        distributed.spread(module, shard=config.shard)
        return
    sharded = config.shard and distributed.world_size() > 1
    waiting = set() if sharded else {id(tensor) for part in transformers for tensor in _tensors(part)}
    for tensor in _tensors(module):
        if id(tensor) not in waiting:
            tensor.data = tensor.data.to(device)
    distributed.spread(module, shard=config.shard, offload=True)
    if not sharded:
        for part in transformers:
            offload_blocks(part, device)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
