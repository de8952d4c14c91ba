"""What the loop is given: a stage, which says what a loss is, and a configuration, how long and with what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainConfig:
    """Length and optimiser of a run.

    Resuming is exact, bit for bit, for runs of ``steps`` whose stages draw their random numbers by step or from what
    the loop saves (``Stage.rng``, torch's and Python's own). A run with ``minutes`` cannot be: its schedule follows the
    clock.
    """

    steps: int
    lr: float = 1e-3
    opponent_lr: float | None = None
    """Of the stage's opponent, if it has one; twice ``lr`` when None."""
    warmup: int = 50
    final_lr: float = 0.05
    """The cosine schedule ends at this fraction of ``lr``."""
    weight_decay: float = 0.01
    optimiser: Literal["adamw", "muon"] = "adamw"
    """``muon``: the transformer's matrices by Muon, at updates as large as AdamW's, all else by AdamW."""
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.995
    minutes: float | None = None
    """Wall-clock budget. The schedule then follows whichever of steps and minutes is further on."""
    bf16: bool = False
    """Mixed precision by autocast; master weights, optimiser and averages stay float32."""
    accumulate: int = 1
    """Micro-batches that the global batch is taken in, one after the other; their gradients are added up."""
    shard: bool = False
    """Divide the transformers among the ranks (FSDP2); otherwise each rank keeps all of them."""
    recompute: bool = False
    """Activation checkpointing: blocks are run again in the backward pass instead of being remembered."""
    compile: bool = False
    """``torch.compile`` the transformer's blocks; worth it where shapes stay the same for long."""
    frozen_dtype: Literal["float32", "bfloat16"] | None = None
    """Precision in which the frozen networks' transformers are kept, the islands aside; as they are when None."""
    offload_frozen: bool = False
    """The blocks of frozen networks wait in the computer's memory and come to the device when they are due."""
    offload_optimiser: bool = False
    """The optimisers' moments wait in the computer's memory between updates."""
    background_checkpoints: bool = False
    """Write checkpoints in a thread, from a copy of the state."""
    log_every: int = 10
    checkpoint_every: int = 100
    validate_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema}: must lie in 0..1, below 1")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes = {self.minutes}: must be positive")
        if self.optimiser not in ("adamw", "muon"):
            raise ValueError(f"optimiser = {self.optimiser!r}: give adamw or muon")
        if self.optimiser == "muon" and self.shard:
            raise ValueError("optimiser = 'muon' needs whole matrices: leave out shard, or take adamw")
        if self.frozen_dtype not in (None, "float32", "bfloat16"):
            raise ValueError(f"frozen_dtype = {self.frozen_dtype!r}: give float32, bfloat16 or None")


class Stage(ABC):
    """One training stage: what is trained, and on which loss.

    ``module`` is trained, saved and averaged. ``rng`` is saved with it, for random numbers other than those of
    ``distributed.SampleDraws``, which depend on seed, step and sample alone.
    """

    opponent: nn.Module | None = None
    """A module with an optimiser of its own (the critic of DMD, the discriminator of a GAN), saved but not averaged."""
    frozen: tuple[nn.Module, ...] = ()
    """Modules that are used but not trained (the teacher of DMD): sharded and tuned as ``module`` is, kept in another
    precision or offloaded where the configuration says so."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.rng = torch.Generator()

    @abstractmethod
    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of whose turn ``step`` is, a mean over the samples ``distributed.shard(batch)``, and numbers for the
        log."""

    @abstractmethod
    def validate(self, module: nn.Module) -> dict[str, float]:
        """Figures of ``module``, the averaged weights in place. On several ranks all are asked, for ``pictures``, too;
        the first one's are kept."""

    def before(self) -> dict[str, float]:
        """Figures of what the stage begins with, to stand beside those of every validation. Asked for when all networks
        are where they train, before any update and before a checkpoint is read."""
        return {}

    def turn(self, step: int) -> Literal["module", "opponent"]:
        """Who is updated at ``step``."""
        return "module"

    def last_batch(self) -> dict[str, Any]:
        """What the last loss was computed from, tensors and plain values: saved where it went wrong."""
        return {}

    def pictures(self) -> dict[str, np.ndarray]:
        """Of the last validation, uint8 (H, W, 3) by name, for ``validation/`` in the run's folder and TensorBoard. The
        averaged weights are still in place."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values without which resuming is not exact."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` has answered."""
        return
