"""The training loop, for every stage: resumable, logged, averaged, and stopped by a number that is not finite.

A stage says what a loss is; the loop owns the optimiser, the schedule, the averaged weights, the log and the
checkpoints. A JSON line a step goes to ``log.jsonl`` in the run's folder.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from motionstream.training.checkpoint import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class TrainConfig:
    """Length and optimiser of a run."""

    steps: int
    lr: float = 1e-3
    warmup: int = 50
    final_lr: float = 0.05
    """The cosine schedule ends at this fraction of ``lr``."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
    minutes: float | None = None
    """Wall-clock budget. The schedule then follows whichever of steps and minutes is further on."""
    bf16: bool = False
    """Mixed precision by autocast; master weights, optimiser and averages stay float32."""
    log_every: int = 10
    checkpoint_every: int = 100
    validate_every: int = 250

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema}: must lie in 0..1, below 1")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes = {self.minutes}: must be positive")


class Stage(Protocol):
    """One training stage. ``module`` is what is trained, saved and averaged; ``rng`` is saved with it."""

    module: nn.Module
    rng: torch.Generator

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]: ...

    def validate(self, module: nn.Module) -> dict[str, float]: ...


class Run:
    """State of one run in ``folder``: optimiser, averaged weights, progress."""

    def __init__(self, stage: Stage, config: TrainConfig, folder: Path) -> None:
        self.stage, self.config, self.folder = stage, config, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parameters = [p for p in stage.module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self.average = {k: v.detach().clone() for k, v in stage.module.state_dict().items()}
        self.step = 0
        self.seconds = 0.0
        state = load_checkpoint(self.path)
        if state is not None:
            self._restore(state)

    @property
    def path(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def progress(self) -> float:
        """0 … 1, by steps or by minutes, whichever is further."""
        done = self.step / self.config.steps
        if self.config.minutes is not None:
            done = max(done, self.seconds / (60 * self.config.minutes))
        return min(done, 1.0)

    def precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.parameters[0].device.type, torch.bfloat16, enabled=self.config.bf16)

    def learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return self.config.lr * warm * (self.config.final_lr + (1 - self.config.final_lr) * cosine)

    def save(self) -> None:
        save_checkpoint(
            self.path,
            {
                "module": self.stage.module.state_dict(),
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "rng": self.stage.rng.get_state(),
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.stage.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = state["average"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.stage.rng.set_state(state["rng"])

    def update(self) -> dict[str, float]:
        """One optimiser step; returns what is to be logged."""
        with self.precision():
            loss, numbers = self.stage.loss(self.step)
        if not torch.isfinite(loss):
            self.save()
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.step}; the run is saved in {self.path}. Lower the learning "
                "rate or look at the last batches"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        decay = min(self.config.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, value in self.stage.module.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
        self.step += 1
        return {"loss": loss.item(), "gradient_norm": norm.item(), "lr": rate, **numbers}

    def validate(self) -> dict[str, float]:
        """The stage's validation with the averaged weights in place."""
        module = self.stage.module
        trained = {k: v.detach().clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.average)
        module.eval()
        with torch.no_grad(), self.precision():
            numbers = self.stage.validate(module)
        module.load_state_dict(trained)
        module.train()
        return numbers


def train(stage: Stage, config: TrainConfig, folder: Path, *, say: Callable[[str], None] = print) -> Run:
    """Train to the end, or go on from the checkpoint in ``folder``; returns the run with its averaged weights."""
    run = Run(stage, config, folder)
    stage.module.train()
    if run.step:
        say(f"going on from step {run.step} of {folder}")
    with open(folder / "log.jsonl", "a") as log:

        def write(numbers: dict[str, float], kind: str) -> None:
            record = {"step": run.step, "minutes": round(run.seconds / 60, 2), "kind": kind}
            log.write(json.dumps(record | {k: round(v, 6) for k, v in numbers.items()}) + "\n")
            log.flush()
            say(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in (record | numbers).items())
            )

        while run.progress < 1:
            began = time.monotonic()
            numbers = run.update()
            run.seconds += time.monotonic() - began
            if run.step % config.log_every == 0:
                write(numbers, "train")
            if run.step % config.validate_every == 0:
                write(run.validate(), "validate")
            if run.step % config.checkpoint_every == 0:
                run.save()
        if run.step % config.validate_every:
            write(run.validate(), "validate")
    run.save()
    return run
