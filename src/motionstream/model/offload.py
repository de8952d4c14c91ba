"""Offloads transformer blocks to CPU memory; each is copied to the device when it runs."""

from __future__ import annotations

import torch

from motionstream.model.transformer import MotionTransformer


def offload_blocks(transformer: MotionTransformer, device: torch.device) -> None:
    """Keep the weights of ``transformer`` on the CPU and copy each block to ``device`` while it runs.

    Only for networks without gradients: a backward pass would not find the weights. On CUDA the next block is copied
    while one is running.
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
