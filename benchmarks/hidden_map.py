"""Does it help to distinguish hidden tracks from unspecified ones? One map for both, or one for each.

    python benchmarks/hidden_map.py --folder work/nano --steps 200 --batch 2 --threads 1

The paper mentions as a limitation that both are zeros (section 3.1). ``TrackHeadConfig.hidden_map`` gives hidden tracks
a separate map. Here training of a teacher is continued twice, on the same clips with the same noise: unchanged ("one
map"), and with the second map ("two maps"), whose weights start at zero, so that both start as the same function.

Clips are crowded: two or three sprites hide one another and the background, drags are released, and all tracks vanish
for a while in one clip of five. Errors on held-out clips are separated by cell of the latent video:

- ``all``: every cell except those of the given frame,
- ``hidden``: cells in which a specified track is hidden behind something,
- ``released``: cells in which a visible track became unspecified at most 12 frames ago.

Two errors are measured: of few-step samples, in dB relative to the same cells' energy, and the training loss at one
noise level per clip. Every difference has a paired 95 % interval, from resampled clips. Students are also evaluated
with parts of their inputs, to find which ones they use (``GIVEN``). FOLDER contains a recipe's
``autoencoder.safetensors`` and ``teacher.safetensors``; runs are kept in ``--work`` and resumed by another call.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motionstream.conditioning.track_head import group_frames, track_cells
from motionstream.config import ModelConfig
from motionstream.data.photographs import HELD_OUT
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.environment import environment
from motionstream.evaluation.report import finish
from motionstream.metrics import paired_bootstrap
from motionstream.model.flow import add_noise, hold_picture, keyed_noise, velocity_to_x0
from motionstream.sampler.bidirectional import sample
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips.prepared import ClipSource, PreparedClips
from motionstream.training.clips.rendered import prepare
from motionstream.training.diffusion.flow_matching import make_conditions, x0_loss
from motionstream.training.diffusion.teacher import TeacherStage
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.loop.run import train
from motionstream.training.recipes.named import recipe_named
from motionstream.training.recipes.recipe import Recipe, Rendered
from motionstream.training.sources import begin, clip_source, load_autoencoder

RESULTS = Path(__file__).parent / "results" / "nano-hidden-map.json"
TRACKS = TrackMix(dense=0.3, random=0.2, drags=0.5, release=0.5, mask_probability=0.2)
JUST = 12
"""Frames for which a track counts as just released, the length of a chunk."""
REUSE = 2
"""How often a clip is trained on, on average."""
EVALUATED = 8
"""Held-out clips that are rendered and evaluated together."""

Errors = dict[str, Tensor]
"""``sample`` and ``loss`` of every cell (B, F, h, w)."""


# ---------------------------------------------------------------------------------------------------------- students


def widen(trainee: Trainee) -> Trainee:
    """The same model with a second map for hidden tracks, whose weights are zero, so that its outputs are unchanged.

    Raises ValueError if the model already has one.
    """
    config = trainee.model.config
    if config.track_head.hidden_map:
        raise ValueError(f"{config.name} has a map of hidden tracks already; give a teacher without one")
    wide = Trainee(replace(config, track_head=replace(config.track_head, hidden_map=True)))
    state, name = trainee.state_dict(), "model.track_head.compress.weight"
    state[name] = torch.cat([state[name], torch.zeros_like(state[name])], dim=1)
    wide.load_state_dict(state)
    return wide.to(trainee.model.device)


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    """The named recipe with the settings of this comparison."""
    recipe = recipe_named(arguments.recipe)
    if not isinstance(recipe.data, Rendered):
        raise ValueError(f"--recipe {arguments.recipe!r} is not of rendered clips; give nano")
    # large enough that no clip is replaced, so that the second run reuses the first one's clips
    pool = arguments.batch * (2 + arguments.steps // REUSE)
    scene = replace(recipe.data.scene, sprites=(2, 3))
    data = replace(recipe.data, scene=scene, workers=0, pool=pool, reuse=REUSE)
    return replace(recipe, data=data, batch=arguments.batch)


def train_on(
    trainee: Trainee, source: ClipSource, held_out: PreparedClips, recipe: Recipe, steps: int, work: Path
) -> dict[str, float]:
    """Train the whole model, including the track head, and load the averaged weights."""
    phase = recipe.teacher[-1]
    settings = replace(phase.train, steps=steps, minutes=None, warmup=10, checkpoint_every=steps, validate_every=steps)
    stage = TeacherStage(trainee, source, held_out.take([0, 1]), phase.loss, seed=recipe.seed)
    run = train(stage, settings, work)
    run.use_average()
    return {"steps": run.step, "seconds": round(run.seconds, 1)}


# ------------------------------------------------------------------------------------------------------------- cells


def make_held_out(recipe: Recipe, folder: Path, count: int) -> PreparedClips:
    """Clips with photographs that were not used in training."""
    assert isinstance(recipe.data, Rendered)
    autoencoder, bank, model = load_autoencoder(recipe, folder), TextureBank(HELD_OUT), begin(recipe, folder, "teacher")
    assert autoencoder is not None
    generator = torch.Generator().manual_seed(0)
    parts = []
    for start in range(0, count, EVALUATED):
        video = render(recipe.data.scene, min(EVALUATED, count - start), 88_000_000 + start, bank)
        parts.append(prepare(video, model.model, autoencoder, TRACKS, generator))
    return PreparedClips.join(parts)


def regions(clips: PreparedClips, config: ModelConfig) -> dict[str, Tensor]:
    """The regions of cells, bool (B, F, h, w) by name, see the module's docstring."""
    positions, visible = clips.positions, clips.visible
    given = positions.isfinite().all(dim=-1)
    frame = torch.arange(positions.shape[1], device=positions.device)[:, None]
    last = torch.where(given, frame, -1).cummax(dim=1).values  # the frame in which each was last specified
    known = last.clamp(min=0)
    there = positions.gather(1, known[..., None].expand_as(positions))
    released = ~given & (last >= 0) & (frame - last <= JUST) & visible.gather(1, known)
    found = {
        "all": torch.ones_like(clips.latents[:, 0], dtype=torch.bool),
        "hidden": _cells(positions, given & ~visible, clips, config),
        "released": _cells(there, released, clips, config),
    }
    for cells in found.values():
        cells[:, 0] = False
    return found


def _cells(positions: Tensor, counted: Tensor, clips: PreparedClips, config: ModelConfig) -> Tensor:
    """Cells (B, F, h, w) that contain a counted track in any of the latent frame's video frames."""
    rows, columns = clips.latents.shape[-2:]
    cell = config.spatial_compression
    index = track_cells(positions, counted, (rows * cell, columns * cell), cell)
    hit = torch.zeros(*index.shape[:2], rows * columns + 1, device=index.device)
    hit.scatter_(2, torch.where(index < 0, rows * columns, index), 1.0)
    frames = hit[..., :-1].unflatten(2, (rows, columns))[:, None]
    return group_frames(frames, config.temporal_compression, first=True).amax(dim=3)[:, 0] > 0


# ------------------------------------------------------------------------------------------------------------ errors


def _carried_alone(clips: PreparedClips) -> PreparedClips:
    nowhere = torch.full_like(clips.positions, torch.nan)
    return replace(clips, positions=nowhere, visible=torch.zeros_like(clips.visible))


def _head_alone(clips: PreparedClips) -> PreparedClips:
    nothing = clips.without_tracks(torch.ones(len(clips), dtype=torch.bool))
    return replace(nothing, positions=clips.positions, visible=clips.visible)


def _hidden_untold(clips: PreparedClips) -> PreparedClips:
    return replace(clips, positions=clips.positions.masked_fill(~clips.visible[..., None], torch.nan))


GIVEN: dict[str, Callable[[PreparedClips], PreparedClips]] = {
    "everything": lambda clips: clips,
    "hidden as unspecified": _hidden_untold,
    "carried content alone": _carried_alone,
    "track head alone": _head_alone,
}
"""The parts of the tracks that a student receives. It was not trained with the last two: content is carried along
tracks that the track head does not see; or the head sees them, but all candidates are the unmoved picture."""


@torch.no_grad()
def measure(trainee: Trainee, clips: PreparedClips, recipe: Recipe) -> Errors:
    """Squared error of samples and training loss of every cell, averaged over channels, with equal noise for all
    models."""
    model, loss = trainee.model.eval(), recipe.teacher[-1].loss
    levels = torch.linspace(0.1, 1, len(clips))
    parts = []
    for start in range(0, len(clips), EVALUATED):
        index = list(range(start, min(start + EVALUATED, len(clips))))
        part = clips.take(index).to(model.device)
        x0 = part.latents
        shape = tuple(x0.shape)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.teacher[-1].train.bf16):
            conditions = make_conditions(model, trainee.text, part, torch.Generator().manual_seed(start))
            noise = keyed_noise(shape, seed=start, chunk=0, step=0, device=model.device)
            made = sample(
                model,
                model.config.sampler.temperature * noise,
                conditions,
                steps=loss.sample_steps,
                shift=loss.shift,
                first_latent=x0[:, :, :1],
            )
            t = levels[index][:, None].expand(-1, x0.shape[2]).to(x0)
            noise = keyed_noise(shape, seed=start, chunk=0, step=1, device=model.device)
            clean = model.config.image_conditioning == "first_latent"
            noisy, t = hold_picture(add_noise(x0, noise, t), t, x0[:, :, :1], noise, clean=clean)
            prediction = velocity_to_x0(noisy, model(noisy, t, conditions), t)
        errors = {"sample": (made - x0).square(), "loss": x0_loss(prediction, x0, noisy, t, conditions)}
        parts.append({name: error.float().mean(dim=1).cpu() for name, error in errors.items()})
    trainee.train()
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def figures(errors: Errors, energy: Tensor, places: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """By region: signal-to-error ratio of samples in dB, and the loss."""
    return {
        name: {
            "db": round(float(10 * (energy[cells].mean() / errors["sample"][cells].mean()).log10()), 3),
            "loss": round(errors["loss"][cells].mean().item(), 4),
        }
        for name, cells in places.items()
        if cells.any()
    }


def compare(first: Errors, second: Errors, places: dict[str, Tensor]) -> dict[str, Any]:
    """By region: the gain of ``first``'s samples over ``second``'s in dB (above 0 is better), and the ratio of their
    losses (below 1 is better)."""
    found = {}
    for name, cells in places.items():
        if not cells.any():
            continue
        ratios = {}
        for key in ("sample", "loss"):
            sides = ([e[c].numpy() for e, c in zip(side[key], cells, strict=True)] for side in (first, second))
            ratios[key] = paired_bootstrap(*sides, compare="ratio").to_dict()
        gain = {k: -10 * math.log10(v) for k, v in ratios["sample"].items()}
        gain["low"], gain["high"] = gain["high"], gain["low"]
        found[name] = {"db": _rounded(gain), "loss_ratio": _rounded(ratios["loss"])}
    return found


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in numbers.items()}


# -------------------------------------------------------------------------------------------------------------- main


def look(trainee: Trainee, held_out: PreparedClips, recipe: Recipe, given: Sequence[str]) -> dict[str, Errors]:
    """Errors by the parts of the tracks that the model receives, names in ``GIVEN``."""
    return {name: measure(trainee, GIVEN[name](held_out), recipe) for name in given}


def comparisons(seen: dict[str, dict[str, Errors]], places: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Two maps against one; then each student with everything against itself with less."""
    one, two = seen["one map"], seen["two maps"]
    pairs = [(f"two maps, {name}", f"one map, {name}", two[name], one[name]) for name in one]
    for student in ("one map", "two maps"):
        whole, *parts = seen[student]
        pairs += [
            (f"{student}, {whole}", f"{student}, {part}", seen[student][whole], seen[student][part]) for part in parts
        ]
    return [{"first": a, "second": b, **compare(x, y, places)} for a, b, x, y in pairs]


def table(result: dict[str, Any]) -> str:
    """A Markdown table of figures, then of differences."""
    names = list(result["cells"])
    lines = [["student, given", *(f"{name} dB" for name in names), *(f"{name} loss" for name in names)]]
    for label, row in result["students"].items():
        lines.append([label, *(f"{row[n]['db']:.2f}" for n in names), *(f"{row[n]['loss']:.3f}" for n in names)])
    lines.append(["first − second", *(f"{name} dB" for name in names), *(f"{name} loss ratio" for name in names)])
    for row in result["comparisons"]:
        cells = [row[n][key] for key in ("db", "loss_ratio") for n in names]
        text = [f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells]
        lines.append([f"{row['first']} − {row['second']}", *text])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(options: Sequence[str] | None = None) -> None:
    """Train both, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("work/nano"), help="folder in which the teacher was trained"
    )
    parser.add_argument("--work", type=Path, help="folder of the runs; FOLDER/hidden-map by default")
    parser.add_argument("--recipe", default="nano", help="the teacher's recipe, of rendered clips")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each student")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--clips", type=int, default=48, help="held-out clips, at least 2")
    parser.add_argument("--threads", type=int, help="threads of torch; torch's own choice by default")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    arguments = parser.parse_args(options)
    if arguments.clips < 2 or arguments.steps < 1 or arguments.batch < 1:
        raise ValueError("--clips must be at least 2, --steps and --batch at least 1")
    load = os.getloadavg()[0]  # of other processes, so read it before adding our own
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    recipe, folder = make_recipe(arguments), arguments.folder
    torch.manual_seed(recipe.seed)
    held_out = make_held_out(recipe, folder, arguments.clips)
    places = regions(held_out, recipe.model)
    source = clip_source(recipe, folder, TRACKS, seed=recipe.seed + 8_000_000)
    teacher = begin(recipe, folder, "teacher")
    students = {"one map": begin(recipe, folder, "teacher"), "two maps": widen(teacher)}
    seen = {"teacher": look(teacher, held_out, recipe, ["everything"])}
    trained = {}
    for name, student in students.items():
        work = (arguments.work or folder / "hidden-map") / name.replace(" ", "-")
        trained[name] = train_on(student, source, held_out, recipe, arguments.steps, work)
        # with one map, hidden and unspecified are the same: no need to measure
        given = [g for g in GIVEN if g != "hidden as unspecified" or name == "two maps"]
        seen[name] = look(student, held_out, recipe, given)
    energy = held_out.latents.square().mean(dim=1)
    weights = students["two maps"].model.track_head.compress.weight.detach().chunk(2, dim=1)
    result = {
        "benchmark": "hidden map",
        "preset": recipe.model.name,
        "batch": recipe.batch,
        "learning_rate": recipe.teacher[-1].train.lr,
        "bf16": recipe.teacher[-1].train.bf16,
        "trained": trained,
        "clips": list(held_out.latents.shape),
        "cells": {
            name: {"share": round(cells[:, 1:].float().mean().item(), 4), "clips": int(cells.flatten(1).any(1).sum())}
            for name, cells in places.items()
        },
        "map_weights_rms": {
            name: round(w.square().mean().sqrt().item(), 5)
            for name, w in zip(("visible", "hidden"), weights, strict=True)
        },
        "students": {
            f"{student}, {given}": figures(errors, energy, places)
            for student, rows in seen.items()
            for given, errors in rows.items()
        },
        "comparisons": comparisons(seen, places),
        "load_average_before": round(load, 2),
        **environment(),
    }
    print(table(result))
    finish(result, arguments.output)


if __name__ == "__main__":
    main()
