"""Out of memory: telling it from other errors, and what to do about it."""

from __future__ import annotations

import torch

from motionstream.training.stage import TrainConfig


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, the device's or the computer's: PyTorch tells the latter by text alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory")
    )


def explain(config: TrainConfig, samples: range | None, ranks: int) -> str:
    """What was taken at a time, and the settings that need less, as sentences.

    Args:
        samples: of a micro-batch on one rank; None where that is not known.
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
