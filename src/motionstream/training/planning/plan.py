"""``motionstream train --dry-run``: parameters, memory and time of a recipe's stages, without loading anything.

Memory is estimated by ``memory/training.py``; hours are operations divided by a share of the GPUs' peak. Both are
computed, not measured on a GPU. The stages of the small decoders are omitted: they fit anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from motionstream.config import ModelConfig
from motionstream.flops import clip_flops
from motionstream.hardware import PEAK_TFLOPS, peak
from motionstream.memory.budget import gib
from motionstream.memory.training import TrainingSetup, training_budget, training_remedy
from motionstream.model.motion_model import MotionModel
from motionstream.training.diffusion.lora import LoraSettings, add_lora
from motionstream.training.diffusion.self_forcing import check_rollouts
from motionstream.training.loop.stage import TrainConfig
from motionstream.training.planning.throughput import causal_flops, estimate_hours, self_forcing_flops, teacher_flops
from motionstream.training.recipes.recipe import Recipe, on_gpus

PLANNED = ("teacher", "teacher-forcing", "causal", "self-forcing")
"""The stages that ``plan`` knows."""


@dataclass(frozen=True)
class Machine:
    """The GPUs to plan for.

    ``gpu``: words of a name in ``hardware.PEAK_TFLOPS``; this machine's device when None. ``memory``: bytes per GPU,
    None if unknown. ``share``: the fraction of the peak that is reached.
    """

    gpus: int = 1
    gpu: str | None = None
    memory: int | None = None
    share: float = 0.4

    def __post_init__(self) -> None:
        if self.gpus < 1 or not 0 < self.share <= 1:
            raise ValueError(f"--gpus {self.gpus}, --share {self.share}: give at least one GPU and a share in 0..1")

    @property
    def kind(self) -> str:
        """ "cuda" or "cpu"."""
        return "cuda" if self.gpu is not None or torch.cuda.is_available() else "cpu"

    @cached_property
    def speed(self) -> tuple[float, str]:
        """Operations per second of one GPU, and its name in the user's words, since GPUs of equal speed may differ in
        memory. Raises ValueError for an unknown GPU."""
        if self.gpu is None:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            here = peak(device, torch.bfloat16)
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
            return here.flops, f"{name} ({here.source})"
        exact = re.compile(rf"\b{re.escape(self.gpu)}\b", re.IGNORECASE)
        found = [name for name in PEAK_TFLOPS if exact.search(name)]
        if not found:
            raise ValueError(f"--gpu {self.gpu!r}: known are {', '.join(PEAK_TFLOPS)}")
        tflops = PEAK_TFLOPS[found[0]]
        return tflops * 1e12, f"{self.gpu} ({tflops} TFLOP/s)"


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it trains and what it costs."""

    name: str
    train: TrainConfig
    setup: TrainingSetup
    batch: int
    parameters: int
    flops: float
    """Operations of all steps and of the preparation before the first."""

    def lines(self, machine: Machine) -> Iterator[str]:
        """The plan as lines of text."""
        setup, steps = self.setup, f"{self.train.steps:,} steps of {self.batch} clips"
        trained = self.parameters if setup.trainable is None else setup.trainable
        share = "all trained" if trained == self.parameters else f"{trained / 1e6:,.1f} M trained"
        yield f"{self.name}: {steps}, {self.parameters / 1e6:,.1f} M parameters, {share}"
        how = [f"{setup.batch} at a time on each of {setup.ranks}", f"{setup.latent_frames} latent frames"]
        how += [word for word, on in (("sharded", setup.shard), ("recomputed", setup.recompute)) if on]
        yield f"  clips    {', '.join(how)}"
        budget = training_budget(setup, device=machine.kind)
        yield f"  memory   {gib(budget.peak)} each: {budget}"
        if machine.memory is not None:
            yield f"  fits     {training_remedy(setup, machine.memory, device=machine.kind)}"
        speed, name = machine.speed
        hours = estimate_hours(self.flops, 1, gpus=setup.ranks, peak=speed, share=machine.share)
        limit = "" if self.train.minutes is None else f", stopped after {self.train.minutes:g} minutes"
        yield f"  time     {hours:,.1f} h at {machine.share:.0%} of {setup.ranks} × {name}{limit}"


def plan(recipe: Recipe, stages: Sequence[str], machine: Machine) -> list[StagePlan]:
    """Plans of the diffusion stages among ``stages``. Raises ValueError if a batch does not divide among the GPUs or
    the clips are too short for distillation (``check_rollouts``)."""
    check_rollouts(recipe.rollouts, recipe.model, recipe.latent_frames)
    recipe = on_gpus(recipe, machine.gpus)
    plans: list[StagePlan] = []
    frames = recipe.latent_frames
    for stage in stages:
        if stage == "teacher":
            for number, phase in enumerate(recipe.teacher):
                now = recipe.in_phase(number)
                size = None if phase.scene is None else phase.scene.size
                step = teacher_flops(recipe.model, now.latent_frames, size=size).model * now.batch
                name = f"teacher, phase {number + 1}"
                head = phase.track_head
                plans.append(_stage(now, name, "teacher", phase.train, now.batch, step, machine, recipe.lora, head))
        elif stage in ("causal", "teacher-forcing"):
            train = recipe.causal if stage == "causal" or recipe.forcing is None else recipe.forcing.train
            step = causal_flops(recipe.model, frames).model * recipe.batch * (1 if stage == "causal" else 2)
            before = _solving(recipe, frames) if stage == "causal" else 0.0
            lora = recipe.student_lora or recipe.lora
            made = _stage(recipe, stage, "causal", train, recipe.batch, step, machine, lora, False, before)
            if stage == "teacher-forcing":  # every clip is present twice, clean and noisy
                made = replace(made, setup=replace(made.setup, batch=2 * made.setup.batch))
            plans.append(made)
        elif stage == "self-forcing":
            batch = recipe.self_forcing_batch or recipe.batch
            both = self_forcing_flops(recipe.model, frames, recipe.rollouts)
            step = both.mean(recipe.rollouts.critic_updates) * batch
            lora = recipe.student_lora or recipe.lora
            plans.append(_stage(recipe, stage, stage, recipe.self_forcing, batch, step, machine, lora, False))
    return plans


def _stage(
    recipe: Recipe,
    name: str,
    kind: str,
    train: TrainConfig,
    batch: int,
    step: float,
    machine: Machine,
    lora: LoraSettings | None,
    track_head: bool,
    before: float = 0.0,
) -> StagePlan:
    parts = machine.gpus * train.accumulate
    if batch % parts:
        raise ValueError(
            f"{name}: a batch of {batch} does not divide by {machine.gpus} GPUs × accumulate {train.accumulate}"
        )
    parameters, trainable = _parameters(recipe.model, lora, track_head)
    rollouts = recipe.rollouts
    setup = TrainingSetup(
        recipe.model,
        kind,  # type: ignore[arg-type]  # one of the three, see plan
        batch=batch // parts,
        frames=recipe.model.frames_of(recipe.latent_frames),
        ranks=machine.gpus,
        shard=train.shard,
        recompute=train.recompute,
        bf16=train.bf16,
        accumulate=train.accumulate,
        trainable=None if lora is None else trainable,
        base_dtype=None if lora is None else lora.base_dtype,
        frozen_dtype=train.frozen_dtype or "float32",
        offload_frozen=train.offload_frozen,
        offload_optimiser=train.offload_optimiser,
        memory=(max(rollouts.sinks), max(rollouts.windows)) if kind == "self-forcing" else None,
    )
    return StagePlan(name, train, setup, batch, parameters, before + step * train.steps)


def _solving(recipe: Recipe, frames: int) -> float:
    """Operations for solving the teacher's trajectories."""
    evaluations = recipe.model.sampler.teacher_steps * (3 if recipe.guided_trajectories else 1)
    return recipe.trajectories * evaluations * clip_flops(recipe.model, frames).total


@lru_cache(maxsize=16)
def _parameters(config: ModelConfig, lora: LoraSettings | None, track_head: bool) -> tuple[int, int]:
    """The numbers of all parameters and of the trained ones."""
    with torch.device("meta"):
        model = MotionModel(config)
        total = sum(p.numel() for p in model.parameters())
        if lora is not None:
            add_lora(model, lora)
    model.track_head.requires_grad_(track_head)
    return total, sum(p.numel() for p in model.parameters() if p.requires_grad)
