"""Networks that a stage uses and does not train, made small: in half precision, or offloaded.

Both concern transformers alone, as sharding does: what is around them is small, and keeps its precision and place.
"""

from __future__ import annotations

import torch
from torch import nn

from motionstream.model.offload import offload_blocks
from motionstream.model.precision import cast_with_islands
from motionstream.model.transformer import MotionTransformer
from motionstream.training import distributed
from motionstream.training.stage import TrainConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def place_frozen(module: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Make a frozen network the same on all ranks and put it where, and in which precision, ``config`` says.

    Offloaded, only its transformers' blocks leave ``device``; sharded as well, each rank keeps its part of them in the
    computer's memory (FSDP2's offloading). Raises ValueError for a network that is to be trained.
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
