"""The training loop of all stages: resumable, logged, with averaged weights; it stops if a number is not finite.

A stage defines the loss; the loop owns the optimisers, schedule, averaged weights, log and checkpoints, in one process
or several (``distributed``). Every few steps it logs a JSON line to ``log.jsonl`` in the run's folder, and to
TensorBoard if installed.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from motionstream.hardware import data_sheet_tflops
from motionstream.training.loop import distributed
from motionstream.training.loop.checkpoint import Checkpoints, save_file
from motionstream.training.loop.frozen import place_frozen
from motionstream.training.loop.logs import Log, Pace, Say
from motionstream.training.loop.player import Player
from motionstream.training.loop.shortage import explain, is_out_of_memory
from motionstream.training.loop.stage import Stage, TrainConfig

BAD_BATCH = "bad_batch.pt"
FORMAT = 2
"""Version of the checkpoints' format, incremented when older ones can no longer be read."""


class Run:
    """State of one run in ``folder``: optimisers, averaged weights, progress."""

    def __init__(self, stage: Stage, config: TrainConfig, folder: Path) -> None:
        self.stage, self.config, self.folder = stage, config, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        for module in (stage.module, stage.opponent, *stage.frozen):
            if module is not None:
                distributed.tune_blocks(module, recompute=config.recompute, compiled=config.compile)
        self.players = {"module": self._player("module", stage.module, config.lr)}
        if stage.opponent is not None:
            rate = 2 * config.lr if config.opponent_lr is None else config.opponent_lr
            self.players["opponent"] = self._player("opponent", stage.opponent, rate)
        self.device = self.players["module"].parameters[0].device
        for module in stage.frozen:
            place_frozen(module, config, self.device)
        if not stage.frozen and (config.offload_frozen or config.frozen_dtype is not None):
            warnings.warn("the stage has no frozen network: offload_frozen, frozen_dtype have no effect", stacklevel=2)
        # of the trained parameters only: with LoRA most of a model is frozen
        self._average = {k: p.detach().clone() for k, p in stage.module.named_parameters() if p.requires_grad}
        self.step = 0
        self.seconds = 0.0
        self.pictures: dict[str, np.ndarray] = {}
        """Pictures of the last validation, by name."""
        self._micro = distributed.MicroBatch(0, config.accumulate)
        self._changing = False
        """Whether an update is under way, so that weights and moments may not be those of any step."""
        self.checkpoints = Checkpoints(folder, background=config.background_checkpoints)
        with self._looking():
            self.before = stage.before()
        self._restore()

    def _player(self, name: str, module: nn.Module, rate: float) -> Player:
        distributed.spread(module, shard=self.config.shard)
        config = self.config
        return Player(
            name,
            module,
            rate,
            config.betas,
            config.weight_decay,
            offload=config.offload_optimiser,
            muon=config.optimiser == "muon",
        )

    @property
    def average(self) -> dict[str, Tensor]:
        """The module's state with the averaged weights, as whole tensors; with sharding, all ranks must call it."""
        state = self.stage.module.state_dict() | self._average
        return {name: distributed.whole(value) for name, value in state.items()}

    def use_average(self) -> None:
        """Put the averaged weights into the module, for use after the run."""
        self._put(self._average)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        """Copy ``weights`` into the module's parameters of the same names."""
        for name, parameter in self.stage.module.named_parameters():
            if name in weights:
                distributed.local(parameter).copy_(distributed.local(weights[name]))

    @property
    def progress(self) -> float:
        """Progress 0 … 1, by steps or by minutes, whichever is further."""
        done = self.step / self.config.steps
        if self.config.minutes is not None:
            done = max(done, self.seconds / (60 * self.config.minutes))
        return min(done, 1.0)

    def player(self) -> Player:
        """The player that the coming step updates."""
        return self.players[self.stage.turn(self.step)]

    def precision(self) -> AbstractContextManager[object]:
        # autocast caches its copies of all weights until a forward ends: with sharding, these would be whole networks
        kept = not (self.config.shard and distributed.world_size() > 1)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16, cache_enabled=kept)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Context for evaluating the module: in eval mode, without gradients, in the run's precision."""
        for player in self.players.values():
            player.clear()  # gradients of the last step take as much memory as the weights
        self.stage.module.eval()
        with torch.no_grad(), self.precision():
            yield
        self.stage.module.train()

    def learning_rate(self, player: Player) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return player.lr * warm * (self.config.final_lr + (1 - self.config.final_lr) * cosine)

    def save(self) -> None:
        """Write a checkpoint. Raises OSError if it cannot be written (disk full); the one before it stays intact."""
        rest = {
            "format": FORMAT,
            "step": self.step,
            "seconds": self.seconds,
            "updates": {name: player.updates for name, player in self.players.items()},
            "ranks": distributed.gather(self._rank_state()),
        }
        self.checkpoints.save(self._average_tensors() | self._player_tensors(), rest)

    def _rank_state(self) -> dict[str, Any]:
        return {"random": self._random_state(), "stage": self.stage.state_dict()}

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
        self.stage.load_state_dict(mine.get("stage", {}))

    def _average_tensors(self) -> dict[str, Tensor]:
        return {f"average.{name}": value for name, value in self._average.items()}

    def _player_tensors(self, *, moments: bool = False) -> dict[str, Tensor]:
        return {k: v for player in self.players.values() for k, v in player.tensors(moments=moments).items()}

    def update(self) -> dict[str, float]:
        """One optimiser step; returns the numbers to log.

        Raises FloatingPointError if the loss or the gradient's norm is not finite: the weights are then unchanged, the
        batch is saved in ``bad_batch.pt`` and the run's state in its checkpoint. Raises MemoryError if memory runs out:
        the message says which state the checkpoint has, and what to do.
        """
        before = self._random_state()
        try:
            return self._update(before)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            problem = " ".join(str(error).split())
        # after the except clause, because inside it the error keeps all tensors of the step alive
        self._give_up(problem, before)

    def _update(self, before: dict[str, Any]) -> dict[str, float]:
        player = self.player()
        for other in self.players.values():
            other.clear()
        loss, numbers, batches = self._backward()
        distributed.average_gradients(player.parameters)
        norm = distributed.clip_gradients(player.parameters, self.config.clip).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._stop(loss, norm, batches, before)
        rate = self.learning_rate(player)
        self._changing = True
        player.update(rate)
        if player.name == "module":
            self._update_average(player)
        self.step += 1
        self._changing = False
        return {"loss": loss, "gradient_norm": norm, "lr": rate, **numbers}

    def _backward(self) -> tuple[float, dict[str, float], list[Any]]:
        """Compute gradients of the mean loss. Returns loss and numbers, averaged over micro-batches and ranks, and the
        batches."""
        count, stage = self.config.accumulate, self.stage
        total = torch.zeros((), dtype=torch.float64)
        sums: dict[str, list[float]] = {}
        batches = []
        for index in range(count):
            with distributed.micro_batch(index, count) as self._micro:
                with self.precision():
                    loss, numbers = stage.loss(self.step)
                (loss / count).backward()
            total = total.to(loss.device) + loss.detach().double() / count
            for name, value in numbers.items():
                sums.setdefault(name, []).append(value)
            batches.append(stage.last_batch())
        means = {name: sum(values) / len(values) for name, values in sums.items()}
        means = distributed.mean_over_ranks({"": total.item()} | means)
        return means.pop(""), means, batches

    def _stop(self, loss: float, norm: float, batches: list[Any], before: dict[str, Any]) -> NoReturn:
        """Save the batch and the run's state before it, so that resuming gets the same batch; then raise."""
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

    def _give_up(self, problem: str, before: dict[str, Any]) -> NoReturn:
        """Save the run's state before the step, if possible, and raise MemoryError."""
        for player in self.players.values():
            player.clear()
        where = "nothing newer could be saved: its last checkpoint is intact"
        if not self._changing and distributed.world_size() == 1:  # other ranks do not know, and would not join the save
            self._set_random_state(before)
            try:
                self.save()
                self.checkpoints.wait()
                where = "its state before the step is in its checkpoint"
            except (OSError, MemoryError, RuntimeError):
                pass  # the last checkpoint is intact, and the error to report is the lack of memory
        advice = explain(self.config, self._micro.samples, distributed.world_size())
        raise MemoryError(f"out of memory at step {self.step} of {self.folder}; {where}. {advice} ({problem[:300]})")

    @torch.no_grad()
    def _update_average(self, player: Player) -> None:
        decay = min(self.config.ema, player.updates / (player.updates + 9))
        for name, parameter in self.stage.module.named_parameters():
            if name in self._average:
                distributed.local(self._average[name]).lerp_(distributed.local(parameter), 1 - decay)

    def validate(self) -> dict[str, float]:
        """Run the stage's validation with the averaged weights, and store its pictures in ``pictures``. Returns its
        figures together with those from before training."""
        module = self.stage.module
        with self._looking():
            trained = {k: p.detach().clone() for k, p in module.named_parameters() if k in self._average}
            self._put(self._average)
            numbers = self.stage.validate(module)
            self.pictures = self.stage.pictures()
            self._put(trained)
        return numbers | self.before


def train(
    stage: Stage, config: TrainConfig, folder: Path, *, flops: Mapping[str, float] | None = None, say: Say = print
) -> Run:
    """Train to the end, resuming from the checkpoint in ``folder`` if there is one; returns the run.

    All ranks call this together. ``flops``: floating-point operations per update of each player, "module" and
    "opponent", for the whole global batch and without recomputation; if the device's peak speed is known from its data
    sheet, the log reports their share of it.

    Raises FloatingPointError and MemoryError as ``Run.update`` does, and OSError if a checkpoint cannot be written.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    run = Run(stage, config, folder)
    log = Log(folder, run.step, say)
    tflops = data_sheet_tflops(run.device, torch.bfloat16 if config.bf16 else torch.float32)
    count = None if flops is None else lambda step: flops[stage.turn(step)]
    pace = Pace(run.device, count, None if tflops is None else tflops * 1e12)
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
            _steps(run, log, pace, lambda: bar.update(task, completed=run.progress))
    finally:
        log.close()
        run.checkpoints.wait()
    return run


def _steps(run: Run, log: Log, pace: Pace, moved: Callable[[], None]) -> None:
    """Train until ``run.progress`` is 1; ``moved`` is called after every step."""
    config = run.config
    while run.progress < 1:
        began = time.monotonic()
        numbers = run.update()
        elapsed = time.monotonic() - began
        if config.minutes is not None:  # ranks must agree on when time is up
            elapsed = distributed.mean_over_ranks({"": elapsed})[""]
        run.seconds += elapsed
        pace.add(run.step - 1, elapsed)
        if run.step % config.log_every == 0:
            log.write(run.step, run.seconds, numbers | pace.take(), "train")
        if run.step % config.validate_every == 0:
            _validate(run, log)
        if run.step % config.checkpoint_every == 0:
            run.save()
        moved()
    if run.step % config.validate_every:
        _validate(run, log)
    run.save()


def _validate(run: Run, log: Log) -> None:
    log.write(run.step, run.seconds, run.validate(), "validate")
    log.show(run.step, run.pictures)
