"""The inputs of the training loop: a stage, which computes the loss, and settings of its length and optimiser."""

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

    Resuming is bit-exact if the stage draws its random numbers by step or from generators that the loop saves
    (``Stage.rng``, torch's and Python's own), except with ``minutes``: that schedule follows the clock.
    """

    steps: int
    lr: float = 1e-3
    opponent_lr: float | None = None
    """Learning rate of the stage's opponent, if it has one; twice ``lr`` when None."""
    warmup: int = 50
    final_lr: float = 0.05
    """The cosine schedule ends at this fraction of ``lr``."""
    weight_decay: float = 0.01
    optimiser: Literal["adamw", "muon"] = "adamw"
    """``muon``: Muon for the transformer's matrices, scaled to AdamW's update size; AdamW for the rest."""
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.995
    minutes: float | None = None
    """Wall-clock budget. The schedule then follows whichever of steps and minutes is further along."""
    bf16: bool = False
    """Mixed precision by autocast; master weights, optimiser and averages stay float32."""
    accumulate: int = 1
    """Gradient accumulation: number of micro-batches per global batch."""
    shard: bool = False
    """Shard the transformers among the ranks (FSDP2); otherwise each rank keeps full copies."""
    recompute: bool = False
    """Activation checkpointing: the backward pass recomputes the blocks' activations instead of keeping them."""
    compile: bool = False
    """``torch.compile`` the transformer's blocks; worthwhile if shapes rarely change."""
    frozen_dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the frozen networks' transformers, except the islands (``cast_with_islands``); unchanged when
    None."""
    offload_frozen: bool = False
    """Keep the blocks of frozen networks in CPU memory and move each to the device when it is needed."""
    offload_optimiser: bool = False
    """Keep the optimisers' moments in CPU memory between updates."""
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
    """One training stage: the trained module and its loss.

    ``module`` is trained, saved and averaged. ``rng`` is saved with it, for random numbers other than those of
    ``distributed.SampleDraws``, which depend only on seed, step and sample.
    """

    opponent: nn.Module | None = None
    """A module with an optimiser of its own (the critic of DMD, the discriminator of a GAN), saved but not averaged."""
    frozen: tuple[nn.Module, ...] = ()
    """Modules that are used but not trained (the teacher of DMD): sharded and compiled like ``module``, and optionally
    offloaded or kept in another precision."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.rng = torch.Generator()

    @abstractmethod
    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of the network that ``step`` updates, a mean over the samples ``distributed.shard(batch)``, and
        numbers for the log."""

    @abstractmethod
    def validate(self, module: nn.Module) -> dict[str, float]:
        """Figures of ``module``, which holds the averaged weights. All ranks call this and ``pictures``; the first
        rank's results are kept."""

    def before(self) -> dict[str, float]:
        """Figures before training, logged beside those of every validation. Called when all networks are on their
        devices, before any update or checkpoint."""
        return {}

    def turn(self, step: int) -> Literal["module", "opponent"]:
        """Which network ``step`` updates."""
        return "module"

    def last_batch(self) -> dict[str, Any]:
        """The inputs of the last loss, tensors and plain values: saved if it fails."""
        return {}

    def pictures(self) -> dict[str, np.ndarray]:
        """Pictures of the last validation, uint8 (H, W, 3) by name, for ``validation/`` in the run's folder and
        TensorBoard. The averaged weights are still in place."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Additional state for exact resuming, tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``."""
        return
