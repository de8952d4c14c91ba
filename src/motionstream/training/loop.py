"""The training loop, for every stage: resumable, logged, averaged, and stopped by a number that is not finite.

A stage says what a loss is; the loop owns optimisers, schedule, averaged weights, log and checkpoints, on one process
or on several (``distributed``). A JSON line every few steps goes to ``log.jsonl`` in the run's folder, and to
TensorBoard where it is installed.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from motionstream.training import distributed
from motionstream.training.checkpoint import Checkpoints, save_file
from motionstream.training.logs import Log, Say, data_wait
from motionstream.training.player import Player, load_weights

BAD_BATCH = "bad_batch.pt"
FORMAT = 2
"""Of checkpoints; raised when older ones cannot be read any more."""


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
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
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


class Stage(Protocol):
    """One training stage. ``module`` is what is trained, saved and averaged; ``rng`` is saved with it.

    A stage may have more than is asked for here:

    - ``opponent``, a module with an optimiser of its own (the critic of DMD, the discriminator of a GAN), saved but not
      averaged, and ``turn(step)``, "module" or "opponent": who is updated at a step. ``loss`` is then that player's.
    - ``frozen``, modules that are used but not trained (the teacher of DMD): sharded and tuned as ``module`` is.
    - ``state_dict()`` and ``load_state_dict(state)``: tensors and plain values without which resuming is not exact.
    - ``last_batch()``, tensors and plain values: what the last ``loss`` was computed from. Saved where it went wrong.

    ``loss`` is a mean over the samples ``distributed.shard(batch)``; random numbers come from
    ``distributed.SampleDraws``. On several ranks all call ``validate``; the first one's numbers are logged.
    """

    module: nn.Module
    rng: torch.Generator

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]: ...

    def validate(self, module: nn.Module) -> dict[str, float]: ...


class Run:
    """State of one run in ``folder``: optimisers, averaged weights, progress."""

    def __init__(self, stage: Stage, config: TrainConfig, folder: Path) -> None:
        self.stage, self.config, self.folder = stage, config, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        opponent: nn.Module | None = getattr(stage, "opponent", None)
        for module in (stage.module, opponent, *getattr(stage, "frozen", ())):
            if module is not None:
                distributed.tune_blocks(module, recompute=config.recompute, compiled=config.compile)
                distributed.spread(module, shard=config.shard)
        self.players = {"module": Player("module", stage.module, config.lr, config.betas, config.weight_decay)}
        if opponent is not None:
            rate = 2 * config.lr if config.opponent_lr is None else config.opponent_lr
            self.players["opponent"] = Player("opponent", opponent, rate, config.betas, config.weight_decay)
        self._average = {k: v.detach().clone() for k, v in stage.module.state_dict().items()}
        self.step = 0
        self.seconds = 0.0
        self.checkpoints = Checkpoints(folder, background=config.background_checkpoints)
        self._restore()

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights, whole; with sharding all ranks must ask together."""
        return {name: distributed.whole(value) for name, value in self._average.items()}

    def use_average(self) -> None:
        """Put the averaged weights into the module, for what follows the run."""
        load_weights(self.stage.module, self._average)

    @property
    def progress(self) -> float:
        """0 … 1, by steps or by minutes, whichever is further."""
        done = self.step / self.config.steps
        if self.config.minutes is not None:
            done = max(done, self.seconds / (60 * self.config.minutes))
        return min(done, 1.0)

    def player(self) -> Player:
        """Whose update the coming step is."""
        if "opponent" not in self.players:
            return self.players["module"]
        stage: Any = self.stage
        return self.players[stage.turn(self.step)]

    def precision(self) -> AbstractContextManager[object]:
        where = self.players["module"].parameters[0].device.type
        return torch.autocast(where, torch.bfloat16, enabled=self.config.bf16)

    def learning_rate(self, player: Player) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return player.lr * warm * (self.config.final_lr + (1 - self.config.final_lr) * cosine)

    def save(self) -> None:
        """Write a checkpoint. Raises OSError, the one before it intact, where there is no room."""
        rest = {
            "format": FORMAT,
            "step": self.step,
            "seconds": self.seconds,
            "updates": {name: player.updates for name, player in self.players.items()},
            "ranks": distributed.gather(self._rank_state()),
        }
        self.checkpoints.save(self._average_tensors() | self._player_tensors(), rest)

    def _rank_state(self) -> dict[str, Any]:
        stage: Any = self.stage
        own = {"stage": stage.state_dict()} if hasattr(stage, "state_dict") else {}
        return {"random": self._random_state(), **own}

    def _random_state(self) -> dict[str, Any]:
        state = {"stage": self.stage.rng.get_state(), "torch": torch.get_rng_state(), "python": random.getstate()}
        return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def _set_random_state(self, state: dict[str, Any]) -> None:
        self.stage.rng.set_state(state["stage"])
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])

    def _restore(self) -> None:
        loaded = self.checkpoints.load(lambda: self._average_tensors() | self._player_tensors(moments=True))
        if loaded is None:
            return
        tensors, rest = loaded
        if rest.get("format") != FORMAT:
            raise ValueError(f"the checkpoint in {self.folder} is of another version: train into another folder")
        if set(rest["updates"]) != set(self.players):
            raise ValueError(f"the checkpoint in {self.folder} is of another stage: train into another folder")
        for name, player in self.players.items():
            player.restore(tensors)
            player.updates = rest["updates"][name]
        for name, value in self._average.items():
            distributed.local(value).copy_(
                distributed.local(distributed.sharded_like(tensors[f"average.{name}"], value))
            )
        self.step, self.seconds = rest["step"], rest["seconds"]
        ranks = rest["ranks"]
        if len(ranks) != distributed.world_size():
            warnings.warn(
                f"the run in {self.folder} was on {len(ranks)} ranks, this is on {distributed.world_size()}: random "
                "numbers that are not keyed by sample differ from here on",
                stacklevel=3,
            )
        mine = ranks[distributed.rank() % len(ranks)]
        self._set_random_state(mine["random"])
        stage: Any = self.stage
        if "stage" in mine:
            stage.load_state_dict(mine["stage"])

    def _average_tensors(self) -> dict[str, Tensor]:
        return {f"average.{name}": value for name, value in self._average.items()}

    def _player_tensors(self, *, moments: bool = False) -> dict[str, Tensor]:
        return {k: v for player in self.players.values() for k, v in player.tensors(moments=moments).items()}

    def update(self) -> dict[str, float]:
        """One optimiser step; returns what is to be logged.

        Raises FloatingPointError for a loss or a gradient that is not finite: weights are then as they were, the batch
        is in ``bad_batch.pt`` and the run's state in its checkpoint.
        """
        player, before = self.player(), self._random_state()
        for other in self.players.values():
            other.clear()
        loss, numbers, batches = self._backward()
        distributed.average_gradients(player.parameters)
        norm = distributed.clip_gradients(player.parameters, self.config.clip).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._stop(loss, norm, batches, before)
        rate = self.learning_rate(player)
        player.update(rate)
        if player.name == "module":
            self._update_average(player)
        self.step += 1
        return {"loss": loss, "gradient_norm": norm, "lr": rate, **numbers}

    def _backward(self) -> tuple[float, dict[str, float], list[Any]]:
        """Gradients of the global batch's mean loss: (loss, numbers, batches), the former two over all ranks."""
        count, stage = self.config.accumulate, self.stage
        last_batch: Callable[[], Any] | None = getattr(stage, "last_batch", None)
        total = torch.zeros((), dtype=torch.float64)
        sums: dict[str, list[float]] = {}
        batches = []
        for index in range(count):
            with distributed.micro_batch(index, count):
                with self.precision():
                    loss, numbers = stage.loss(self.step)
                (loss / count).backward()
            total = total.to(loss.device) + loss.detach().double() / count
            for name, value in numbers.items():
                sums.setdefault(name, []).append(value)
            if last_batch is not None:
                batches.append(last_batch())
        means = {name: sum(values) / len(values) for name, values in sums.items()}
        means = distributed.mean_over_ranks({"": total.item()} | means)
        return means.pop(""), means, batches

    def _stop(self, loss: float, norm: float, batches: list[Any], before: dict[str, Any]) -> NoReturn:
        """Save the batch, and the run as it was before it: the next try meets the same batch."""
        for player in self.players.values():
            player.clear()
        self._set_random_state(before)
        suffix = f".rank{distributed.rank()}" if distributed.world_size() > 1 else ""
        path = self.folder / BAD_BATCH.replace(".pt", f"{suffix}.pt")
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        where = f"its batch is in {path}"
        try:
            save_file(path, {"step": self.step, "loss": loss, "norm": norm, "random": before, "batches": batches})
            self.save()
            self.checkpoints.wait()
        except OSError as error:
            where = f"its batch could not be saved ({error})"
        raise FloatingPointError(
            f"{what} at step {self.step}; {where}, the weights in {self.folder} are those before it. Look at the "
            f"batch, or lower the learning rate (lr = {self.config.lr:g}) and train again"
        )

    @torch.no_grad()
    def _update_average(self, player: Player) -> None:
        decay = min(self.config.ema, player.updates / (player.updates + 9))
        for name, value in self.stage.module.state_dict().items():
            if value.is_floating_point():
                distributed.local(self._average[name]).lerp_(distributed.local(value), 1 - decay)

    def validate(self) -> dict[str, float]:
        """The stage's validation with the averaged weights in place."""
        module = self.stage.module
        trained = {k: v.detach().clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self._average)
        module.eval()
        with torch.no_grad(), self.precision():
            numbers = self.stage.validate(module)
        module.load_state_dict(trained)
        module.train()
        return numbers


def train(stage: Stage, config: TrainConfig, folder: Path, *, say: Say = print) -> Run:
    """Train to the end, or go on from the checkpoint in ``folder``; returns the run with its averaged weights.

    All ranks call this together. Raises FloatingPointError as ``Run.update`` does, and OSError where a checkpoint
    cannot be written.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    run = Run(stage, config, folder)
    log = Log(folder, run.step, say)
    for player in run.players.values():
        player.module.train()
    if run.step:
        log.say(f"going on from step {run.step} of {folder}")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    hidden = not (console.is_terminal and log.first)
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden, transient=True) as bar:
            task = bar.add_task(folder.name, total=1.0)
            _steps(run, log, lambda: bar.update(task, completed=run.progress))
    finally:
        log.close()
        run.checkpoints.wait()
    return run


def _steps(run: Run, log: Log, moved: Callable[[], None]) -> None:
    """The loop itself."""
    config, since, steps = run.config, 0.0, 0
    data_wait.take()
    while run.progress < 1:
        began = time.monotonic()
        numbers = run.update()
        elapsed = time.monotonic() - began
        if config.minutes is not None:  # ranks must agree when time is up
            elapsed = distributed.mean_over_ranks({"": elapsed})[""]
        run.seconds, since, steps = run.seconds + elapsed, since + elapsed, steps + 1
        if run.step % config.log_every == 0:
            pace = {"step_seconds": since / steps, "data_wait": data_wait.take() / max(since, 1e-9)}
            log.write(run.step, run.seconds, numbers | pace, "train")
            since, steps = 0.0, 0
        if run.step % config.validate_every == 0:
            log.write(run.step, run.seconds, run.validate(), "validate")
        if run.step % config.checkpoint_every == 0:
            run.save()
        moved()
    if run.step % config.validate_every:
        log.write(run.step, run.seconds, run.validate(), "validate")
    run.save()
