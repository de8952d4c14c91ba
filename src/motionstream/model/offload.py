"""Blocks that wait in the computer's memory and come to the device when they are due."""

from __future__ import annotations

import torch

from motionstream.model.transformer import MotionTransformer


def offload_blocks(transformer: MotionTransformer, device: torch.device) -> None:
    """Keep the weights of ``transformer`` on the CPU and bring each block to ``device`` for as long as it runs.

    Only for networks that run without gradients: by the time of a backward pass the weights are gone. On CUDA the next
    block is fetched while one is running.
    """
    from diffusers.hooks import apply_group_offloading

    transformer.to("cpu")
    apply_group_offloading(
        transformer,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )
