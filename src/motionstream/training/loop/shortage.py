"""Recognises errors of insufficient memory and suggests remedies."""

from __future__ import annotations

import torch

from motionstream.training.loop.stage import TrainConfig


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means too little memory, on the device or the CPU; PyTorch marks the latter only by its text."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory")
    )


def explain(config: TrainConfig, samples: range | None, ranks: int) -> str:
    """Sentences with the micro-batch that did not fit and the settings that need less memory.

    Args:
        samples: the micro-batch's samples on one rank; None if unknown.
    """
    size, finer = "a micro-batch", 2
    if samples is not None:
        count = len(samples)
        size = "1 sample at a time" if count == 1 else f"{count} samples at a time"
        finer = next((d for d in range(2, count + 1) if count % d == 0), 1)  # micro-batches must stay of equal size
    remedies = []
    if finer > 1:
        remedies.append(f"accumulate = {config.accumulate * finer}")
    if not config.recompute:
        remedies.append("recompute = True")
    if not config.shard:
        remedies.append("shard = True" if ranks > 1 else "shard = True on several ranks")
    remedies.append("a smaller batch")
    settings = f"accumulate = {config.accumulate}, recompute = {config.recompute}, shard = {config.shard}"
    return f"Each rank (of {ranks}) took {size} ({settings}). Train again with less at a time: {', or '.join(remedies)}"
