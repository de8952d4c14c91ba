"""Ablations of the embedded model's teacher: one change at a time, trained from scratch on equal numbers of clips.

    motionstream train autoencoder --recipe nano-ids --folder work/ablations
    python benchmarks/ablations.py --clips 100000 --folder work/ablations
    python benchmarks/ablations.py --clips 40000 --variant velocity --threads 1

Each variant trains the recipe's first phase (``nano-ids``: only the paper's conditioning, on short clips) with one
change (``VARIANTS``), validated regularly (``curve``). Finally all variants are evaluated on the same held-out clips
with the same noise at the same levels: the error of the denoised latents with and without tracks, with a paired 95 %
interval over clips against the base; and how far the points of the model's mean (denoised from noise alone in one step,
since samples are too noisy to be followed) are from their tracks. The number of clips is equal, the time is not;
minutes are in the curves.

Runs are kept in ``--work`` and resumed when called again; use another folder for other settings. The result is
rewritten after every variant, so that an interrupted run keeps what was measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motionstream.conditioning.drawn_tracks import DrawnTracks
from motionstream.data.procedural import SceneConfig
from motionstream.environment import environment
from motionstream.evaluation.report import finish
from motionstream.media.files import atomic_path
from motionstream.metrics import paired_bootstrap
from motionstream.model.flow import add_noise, hold_picture, keyed_noise, velocity_to_x0
from motionstream.training.clips.prepared import ClipSource, PreparedClips
from motionstream.training.diffusion.flow_matching import make_conditions
from motionstream.training.diffusion.teacher import TeacherStage
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.validation import ClipView
from motionstream.training.loop.run import train
from motionstream.training.recipes.named import recipe_named
from motionstream.training.recipes.recipe import Recipe, Rendered
from motionstream.training.sources import begin, clip_source, clip_view, load_autoencoder, validation_clips

RESULTS = Path(__file__).parent / "results" / "nano-ablations.json"
LEVELS = (0.3, 0.6, 0.9)
LOOKS = 8
"""Number of validations per run."""


def _scene(recipe: Recipe, **changes: Any) -> Recipe:
    assert isinstance(recipe.data, Rendered)
    return replace(recipe, data=replace(recipe.data, scene=replace(recipe.data.scene, **changes)))


def _transformer(recipe: Recipe, width: int, layers: int) -> Recipe:
    heads = width // recipe.model.transformer.attention_head_dim
    changed = replace(recipe.model.transformer, num_attention_heads=heads, ffn_dim=4 * width, num_layers=layers)
    return replace(recipe, model=replace(recipe.model, transformer=changed))


def _shape(recipe: Recipe, heads: int) -> Recipe:
    """Add ``heads`` attention heads (or remove, if negative) and adapt the layers to keep the number of weights."""
    old = recipe.model.transformer
    width = old.width + heads * old.attention_head_dim
    return _transformer(recipe, width, round(old.num_layers * old.width**2 / width**2))


def _model(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, model=replace(recipe.model, **changes))


def _first_phase(recipe: Recipe, **changes: Any) -> Recipe:
    first, *others = recipe.teacher
    return replace(recipe, teacher=(replace(first, **changes), *others))


def _tracks(recipe: Recipe, **changes: Any) -> Recipe:
    return _first_phase(recipe, tracks=replace(recipe.teacher[0].tracks, **changes))


def _head(recipe: Recipe, **changes: Any) -> Recipe:
    return _model(recipe, track_head=replace(recipe.model.track_head, **changes))


def _pairs(recipe: Recipe) -> Recipe:
    return _model(recipe, transformer=replace(recipe.model.transformer, patch_size=(1, 2, 2)))


_RICH = {"pull_probability": 0.35, "bend_probability": 0.35, "parallax_probability": 0.2}

Part = tuple[float, Recipe]
"""A share of the training clips, and their recipe. Parts of a variant differ only in their clips."""
VARIANTS: dict[str, tuple[str, Callable[[Recipe], list[Part]]]] = {
    "base": ("as the recipe is", lambda r: [(1, r)]),
    "velocity": ("predicts the plain velocity, not around the picture", lambda r: [(1, _model(r, still_std=None))]),
    "pairs": ("tokens of 2×2 cells", lambda r: [(1, _pairs(r))]),
    "wide": ("a head more, fewer layers: about as many weights", lambda r: [(1, _shape(r, 1))]),
    "deep": ("a head less, more layers: about as many weights", lambda r: [(1, _shape(r, -1))]),
    "offsets": ("told where in its cell a track is", lambda r: [(1, _head(r, offsets=True))]),
    "along": (
        "offsets, and the latents from where a track began",
        lambda r: [(1, _model(_head(r, offsets=True), latents_along_tracks=True))],
    ),
    "rgb": (
        "tracks drawn as colours and encoded like a picture, instead of ids (the paper's table 3)",
        lambda r: [(1, r)],
    ),
    "muon": ("Muon for the transformer's matrices", lambda r: [(1, _first_phase(r, train=_muon(r)))]),
    "bell": (
        "w_t a bell instead of 1",
        lambda r: [(1, _first_phase(r, loss=replace(r.teacher[0].loss, weighting="bell")))],
    ),
    "shift-3": ("timestep shift 3", lambda r: [(1, _first_phase(r, loss=replace(r.teacher[0].loss, shift=3.0)))]),
    "ids-16": ("ids of 16 instead of 64 numbers", lambda r: [(1, _head(r, id_dim=16))]),
    "drags": ("half of the clips dragged as people do", lambda r: [(1, _tracks(r, dense=0.2, random=0.2, drags=0.52))]),
    "crowded": ("up to 160 tracks, more than cells", lambda r: [(1, _tracks(r, max_tracks=160))]),
    "long": ("clips of 21 frames", lambda r: [(1, _scene(r, frames=21))]),
    "slow-first": (
        "half of the clips at half the speed, then as the base",
        lambda r: [(0.5, _scene(r, speed=_of(r).speed / 2)), (0.5, r)],
    ),
    "fast": ("twice as fast", lambda r: [(1, _scene(r, speed=2 * _of(r).speed))]),
    "rich": ("things bend, are pulled, or lie behind a nearer plane", lambda r: [(1, _scene(r, **_RICH))]),
    "photographs": ("textures from photographs alone", lambda r: [(1, _scene(r, photograph_probability=1.0))]),
    "generated": ("generated textures alone", lambda r: [(1, _scene(r, photograph_probability=0.0))]),
    "still": ("the camera stands still", lambda r: [(1, _scene(r, static_camera_probability=1.0))]),
    "lr-3": ("three times the learning rate", lambda r: [(1, _first_phase(r, train=_rate(r, 3)))]),
}


DRAWN = {"rgb"}
"""Variants with ``DrawnTracks`` instead of the track head."""


def _of(recipe: Recipe) -> SceneConfig:
    assert isinstance(recipe.data, Rendered)
    return recipe.data.scene


def _rate(recipe: Recipe, times: float) -> Any:
    return replace(recipe.teacher[0].train, lr=times * recipe.teacher[0].train.lr)


def _muon(recipe: Recipe) -> Any:
    return replace(recipe.teacher[0].train, optimiser="muon")


class InTurn:
    """Clips of several sources one after the other, given as (first step, source) in ascending order."""

    def __init__(self, sources: list[tuple[int, ClipSource]]) -> None:
        self.sources, self.batch = sources, sources[0][1].batch

    def at(self, step: int, samples: range | None = None) -> PreparedClips:
        """See ``ClipSource``."""
        return [source for first, source in self.sources if first <= step][-1].at(step, samples)


def in_turn(parts: list[Part], folder: Path, steps: int) -> InTurn:
    """The clips of all parts, each for its share of the steps."""
    sources, share = list[tuple[int, ClipSource]](), 0.0
    for number, (own, recipe) in enumerate(parts):
        seed = recipe.seed + 1_000_000 * (number + 1)
        sources.append((round(share * steps), clip_source(recipe, folder, recipe.teacher[0].tracks, seed=seed)))
        share += own
    return InTurn(sources)


def train_variant(
    parts: list[Part], held_out: PreparedClips, folder: Path, work: Path, clips: int, *, drawn: bool = False
) -> tuple[Trainee, list[dict[str, Any]]]:
    """Train one variant from scratch, all parts in one run, since separate runs would restart the schedule. Returns the
    trainee with averaged weights, and the curve of validations. ``drawn``: use ``DrawnTracks`` as the head."""
    recipe = parts[0][1]
    torch.manual_seed(recipe.seed)
    trainee, phase, steps = begin(recipe, folder, None), recipe.teacher[0], max(1, round(clips / recipe.batch))
    if drawn:
        autoencoder = load_autoencoder(recipe, folder)
        assert autoencoder is not None
        trainee.model.track_head = DrawnTracks(trainee.model.track_head, autoencoder).to(trainee.model.device)
    view = clip_view(recipe, folder, held_out)
    stage = TeacherStage(trainee, in_turn(parts, folder, steps), held_out, phase.loss, seed=recipe.seed, view=view)
    often = max(1, round(steps / LOOKS))
    settings = replace(phase.train, steps=steps, minutes=None, validate_every=often, checkpoint_every=often)
    run = train(stage, settings, work)
    # by step, since a run that is resumed looks again at where it was
    curve = {
        line["step"]: {"clips": line["step"] * recipe.batch, **{k: line[k] for k in line if k not in ("kind", "step")}}
        for line in map(json.loads, (work / "log.jsonl").read_text().splitlines())
        if line["kind"] == "validate"
    }
    run.use_average()
    return trainee, list(curve.values())


@torch.no_grad()
def denoised(trainee: Trainee, clips: PreparedClips, levels: Sequence[float], *, bf16: bool) -> Tensor:
    """The clips' latents (L, B, C, F, h, w), denoised in one step from each of the noise ``levels``."""
    model = trainee.model.eval()
    clean = model.config.image_conditioning == "first_latent"
    found = []
    for row in range(len(clips)):
        clip = clips.take([row]).to(model.device)
        x0, each = clip.latents, list[Tensor]()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            conditions = make_conditions(model, trainee.text, clip, [torch.Generator().manual_seed(row)])
            for step, level in enumerate(levels):
                noise = keyed_noise(tuple(x0.shape), seed=row, chunk=0, step=step, device=x0.device)
                t = torch.full((1, x0.shape[2]), level).to(x0)
                noisy, t = hold_picture(add_noise(x0, noise, t), t, x0[:, :, :1], noise, clean=clean)
                each.append(velocity_to_x0(noisy, model(noisy, t, conditions), t))
        found.append(torch.stack(each))
    trainee.train()
    return torch.cat(found, dim=1)


def untold(clips: PreparedClips) -> PreparedClips:
    """The clips without their tracks."""
    return clips.without_tracks(torch.ones(len(clips), dtype=torch.bool))


def errors(trainee: Trainee, clips: PreparedClips, *, bf16: bool) -> np.ndarray:
    """Mean squared error (B,) of every clip's denoised latents, without the given frame, averaged over ``LEVELS``.
    Unlike the loss, it does not depend on the model's parametrisation."""
    wrong = denoised(trainee, clips, LEVELS, bf16=bf16) - clips.latents.to(trainee.model.device)
    return wrong[:, :, :, 1:].square().mean(dim=(0, 2, 3, 4, 5)).cpu().numpy()


def following(trainee: Trainee, clips: PreparedClips, view: ClipView, *, bf16: bool) -> dict[str, float]:
    """The figures of ``ClipView.look`` of the model's mean, which is what it makes of pure noise in one step."""
    return view.look(denoised(trainee, clips, [1.0], bf16=bf16)[0])[0]


def compare(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """The paired difference, ``one`` minus ``other``, with its interval."""
    return {name: round(value, 5) for name, value in paired_bootstrap(list(one), list(other)).to_dict().items()}


def first_phase(recipe: Recipe) -> Recipe:
    """The recipe with only its first phase, with that phase's clips and batch."""
    return replace(recipe.in_phase(0), teacher=(replace(recipe.teacher[0], scene=None, batch=None),))


def _sized(recipe: Recipe, width: int | None, layers: int | None, head: int | None) -> Recipe:
    old = recipe.model.transformer
    recipe = _model(recipe, transformer=replace(old, attention_head_dim=head or old.attention_head_dim))
    width = width or old.width
    if width % (head or old.attention_head_dim):
        raise ValueError(f"--width {width}: give a multiple of a head's {head or old.attention_head_dim}")
    return _transformer(recipe, width, layers or old.num_layers)


def main(options: Sequence[str] | None = None) -> None:
    """Train, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--variant", action="append", choices=VARIANTS, help="repeatable; all by default, and the base always"
    )
    parser.add_argument("--without-base", action="store_true", help="no base and no comparison, for a long curve")
    parser.add_argument("--recipe", default="nano-ids", help="a recipe of rendered clips whose autoencoder exists")
    parser.add_argument("--clips", type=int, default=100_000, help="training clips per variant")
    parser.add_argument("--batch", type=int, help="clips per step; the recipe's by default")
    parser.add_argument("--frames", type=int, help="frames per clip; the recipe's by default")
    parser.add_argument("--width", type=int, help="transformer's width, whole heads; the recipe's by default")
    parser.add_argument("--layers", type=int, help="transformer's layers; the recipe's by default")
    parser.add_argument("--head", type=int, help="width of a head; the recipe's by default")
    parser.add_argument("--held-out", type=int, default=32, help="held-out clips, at least 2")
    parser.add_argument("--workers", type=int, default=1, help="rendering processes")
    parser.add_argument("--folder", type=Path, default=Path("work/ablations"), help="folder of a recipe's autoencoder")
    parser.add_argument("--work", type=Path, default=Path("work/ablations"), help="folder of the runs")
    parser.add_argument("--threads", type=int, help="threads of torch; torch's own choice by default")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    arguments = parser.parse_args(options)
    first = [] if arguments.without_base else ["base"]
    names = list(dict.fromkeys([*first, *(arguments.variant or VARIANTS)]))
    if arguments.clips < 1 or arguments.held_out < 2:
        raise ValueError(f"--clips {arguments.clips}, --held-out {arguments.held_out}: at least 1 and 2")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    recipe = recipe_named(arguments.recipe)
    if not isinstance(recipe.data, Rendered):
        raise ValueError(f"--recipe {arguments.recipe!r} is not of rendered clips; give nano-ids")
    recipe = _sized(first_phase(recipe), arguments.width, arguments.layers, arguments.head)
    data = replace(recipe.data, workers=arguments.workers)
    recipe = replace(recipe, data=data, validation_clips=arguments.held_out, batch=arguments.batch or recipe.batch)
    if arguments.frames is not None:
        recipe = _scene(recipe, frames=arguments.frames)
    held_out = validation_clips(recipe, arguments.folder)
    view = clip_view(recipe, arguments.folder, held_out)
    result: dict[str, Any] = {
        "benchmark": "ablations",
        "recipe": arguments.recipe,
        "clips": arguments.clips,
        "batch": recipe.batch,
        "frames": _of(recipe).frames,
        "size": list(_of(recipe).size),
        "width": recipe.model.transformer.width,
        "layers": recipe.model.transformer.num_layers,
        "held_out": arguments.held_out,
        "variants": {},
        "environment": environment(),
    }
    seen: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        what, parts = VARIANTS[name][0], VARIANTS[name][1](recipe)
        work, drawn = arguments.work / name, name in DRAWN
        trainee, curve = train_variant(parts, held_out, arguments.folder, work, arguments.clips, drawn=drawn)
        bf16 = recipe.teacher[0].train.bf16
        told, none = errors(trainee, held_out, bf16=bf16), errors(trainee, untold(held_out), bf16=bf16)
        seen[name] = {"tracks": told, "none": none}
        result["variants"][name] = {
            "what": what,
            "weights": sum(p.numel() for p in trainee.model.transformer.parameters()),
            "error": round(float(told.mean()), 5),
            "tracks_are_worth": compare(none, told),
            "mean": following(trainee, held_out, view, bf16=bf16),
            "curve": curve,
        }
        if not arguments.without_base:
            base = seen["base"]
            result["variants"][name] |= {
                "minus_base": compare(told, base["tracks"]),
                "worth_minus_base": compare(none - told, base["none"] - base["tracks"]),
            }
        print(name, json.dumps({k: v for k, v in result["variants"][name].items() if k != "curve"}), flush=True)
        with atomic_path(arguments.output, [".json"]) as path:
            path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    finish(result, None)


if __name__ == "__main__":
    main()
