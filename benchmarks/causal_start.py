"""Does teacher forcing before the ODE regression help? Both start from the same teacher with equal compute.

    python benchmarks/causal_start.py --folder work/nano --steps 128 --threads 1

One student trains ``--steps`` of regression. Another trains a quarter as many steps of teacher forcing, each of which
costs twice as much because it processes every clip clean and noisy, then half of the regression. A third trains only
that half, to show the effect of teacher forcing. The shared trajectories and the rendering of clips are not counted.

The students, their intermediate stage and the teacher then roll out the same held-out clips, short and long
(``rollout_figures``). ``boundary_jump``, of the short ones, is the mean change between latent frames across chunk
boundaries divided by that within chunks, relative to the same ratio of the true latents; above 1 chunks do not join.

FOLDER contains a recipe's ``autoencoder.safetensors`` and ``teacher.safetensors``. Trajectories and runs are written to
``--work`` and resumed by another call, so use another folder for other settings.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motionstream.environment import environment
from motionstream.media.files import atomic_path
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.diffusion.causal_init import CausalStage
from motionstream.training.diffusion.rollouts import roll_out, rollout_figures
from motionstream.training.diffusion.teacher_forcing import TeacherForcingStage
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.trajectories import TrajectoryStore, make_trajectories
from motionstream.training.loop.run import Run, train
from motionstream.training.loop.stage import TrainConfig
from motionstream.training.recipes.named import recipe_named
from motionstream.training.recipes.recipe import Recipe, Rendered
from motionstream.training.sources import begin, clip_source, validation_clips

RESULTS = Path(__file__).parent / "results" / "nano-causal-start.json"


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    """The named recipe with the settings of this comparison."""
    recipe = recipe_named(arguments.recipe)
    if not isinstance(recipe.data, Rendered):
        raise ValueError(f"--recipe {arguments.recipe!r} is not of rendered clips; give nano")
    return replace(
        recipe,
        data=replace(recipe.data, workers=0),
        batch=arguments.batch,
        validation_clips=arguments.clips,
        trajectories=arguments.trajectories,
    )


def settings(recipe: Recipe, steps: int, lr: float | None = None) -> TrainConfig:
    """The causal stage's configuration with ``steps`` steps, without intermediate checkpoints and validations."""
    config = replace(recipe.causal, steps=steps, lr=lr or recipe.causal.lr, minutes=None, warmup=10)
    return replace(config, checkpoint_every=steps, validate_every=steps)


class Comparison:
    """Trains and evaluates the students; ``results`` by name."""

    def __init__(self, recipe: Recipe, folder: Path, work: Path) -> None:
        self.recipe, self.folder, self.work = recipe, folder, work
        self.held_out = {"short": validation_clips(recipe, folder), "long": validation_clips(recipe, folder, long=True)}
        self.results: dict[str, dict[str, Any]] = {}
        source = clip_source(recipe, folder, recipe.tracks, seed=recipe.seed + 5_000_000)
        shards = make_trajectories(
            self.teacher(),
            source,
            work / "trajectories",
            count=recipe.trajectories,
            seed=recipe.seed,
            bf16=recipe.causal.bf16,
            guided=recipe.guided_trajectories,
        )
        self.store = TrajectoryStore(shards)

    def teacher(self) -> Trainee:
        """A new student: with the teacher's weights, and the track head frozen as in the causal stage."""
        trainee = begin(self.recipe, self.folder, "teacher")
        trainee.model.track_head.requires_grad_(False)
        return trainee

    def force(self, trainee: Trainee, name: str, config: TrainConfig) -> None:
        """Train by teacher forcing and evaluate."""
        recipe = self.recipe
        source = clip_source(recipe, self.folder, recipe.tracks, seed=recipe.seed + 6_000_000)
        loss = recipe.teacher[-1].loss
        stage = TeacherForcingStage(trainee, source, self.held_out["short"], loss, seed=recipe.seed)
        self.finish(trainee, name, train(stage, config, self.work / name))

    def regress(self, trainee: Trainee, name: str, config: TrainConfig) -> None:
        """Train by regression on the trajectories and evaluate."""
        recipe = self.recipe
        stage = CausalStage(trainee, self.store, self.held_out["short"], batch=recipe.batch, seed=recipe.seed)
        self.finish(trainee, name, train(stage, config, self.work / name))

    def finish(self, trainee: Trainee, name: str, run: Run) -> None:
        """Load a run's averaged weights and evaluate."""
        run.use_average()
        self.look(trainee, name, {"steps": run.step, "seconds": round(run.seconds, 1)})

    def look(self, trainee: Trainee, name: str, trained: dict[str, float]) -> None:
        """Roll out the held-out clips and record the results."""
        trainee.eval()
        precision = torch.autocast(trainee.model.device.type, torch.bfloat16, enabled=self.recipe.causal.bf16)
        with torch.no_grad(), precision:
            figures = {length: rounded(rollout_figures(trainee, clips)) for length, clips in self.held_out.items()}
            jump = boundary_jump(trainee, self.held_out["short"])
        trainee.train()
        self.results[name] = {**trained, **figures, **rounded({"boundary_jump": jump})}
        print(name, json.dumps(self.results[name]), flush=True)


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def boundary_jump(network: Trainee, clips: PreparedClips) -> float:
    """See the module's docstring."""
    clips = clips.to(network.model.device)
    size = network.model.config.causal.chunk_frames

    def ratio(latents: Tensor) -> Tensor:
        steps = latents.diff(dim=2).square().mean(dim=(0, 1, 3, 4))
        across = torch.arange(1, latents.shape[2], device=steps.device) % size == 0
        return steps[across].mean() / steps[~across].mean()

    made = roll_out(network, clips, list(range(len(clips))), seed=0)
    return (ratio(made) / ratio(clips.latents)).item()


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    columns = ("rollout_db", "rollout_last_chunk_db", "rollout_drift_db", "last_chunk_energy")
    names = ["student", "steps", "seconds", "jump", *(f"{length} {c}" for length in ("short", "long") for c in columns)]
    lines = [names, ["---"] * len(names)]
    for name, result in results.items():
        numbers = [f"{result[length][column]:.2f}" for length in ("short", "long") for column in columns]
        lines.append([name, str(result["steps"]), str(result["seconds"]), f"{result['boundary_jump']:.2f}", *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Train, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("work/nano"), help="folder in which the teacher was trained"
    )
    parser.add_argument("--work", type=Path, help="folder of the runs; FOLDER/causal-start by default")
    parser.add_argument("--recipe", default="nano", help="the teacher's recipe, of rendered clips")
    parser.add_argument("--steps", type=int, default=128, help="of the regression alone; a multiple of 4")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--clips", type=int, default=8, help="held-out clips of each length")
    parser.add_argument("--trajectories", type=int, default=32)
    parser.add_argument("--threads", type=int, help="threads of torch; torch's own choice by default")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # of other processes, so read it before adding our own
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    recipe = make_recipe(arguments)
    if arguments.steps < 4 or arguments.steps % 4:
        raise ValueError(f"--steps is {arguments.steps}; give a multiple of 4")
    whole, half = settings(recipe, arguments.steps), settings(recipe, arguments.steps // 2)
    forcing = settings(recipe, arguments.steps // 4, lr=recipe.teacher[-1].train.lr)
    work = arguments.work or arguments.folder / "causal-start"
    comparison = Comparison(recipe, arguments.folder, work)
    comparison.look(comparison.teacher(), "teacher", {"steps": 0, "seconds": 0.0})
    comparison.regress(comparison.teacher(), "regression", whole)
    comparison.regress(comparison.teacher(), "regression-half", half)
    student = comparison.teacher()
    comparison.force(student, "forced", forcing)
    comparison.regress(student, "forced-then-regression", half)
    result = {
        "benchmark": "causal start",
        "preset": recipe.model.name,
        "batch": recipe.batch,
        "trajectories": len(comparison.store),
        "clips": {name: list(clips.latents.shape) for name, clips in comparison.held_out.items()},
        "learning_rates": {"regression": half.lr, "forcing": forcing.lr},
        "bf16": recipe.causal.bf16,
        "students": comparison.results,
        "load_average_before": round(load, 2),
        **environment(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(arguments.output, (".json",)) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    print(table(comparison.results))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
