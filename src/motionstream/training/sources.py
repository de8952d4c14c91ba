"""The inputs of a recipe's stages: weights, parts of the base model, clips."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from motionstream.autoencoder.base import StreamingAutoencoder
from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.checkpoint_files import read_state
from motionstream.component_config import LinearAutoencoderConfig, TextConfig
from motionstream.components import Components, Placement, load_components
from motionstream.config import ModelConfig
from motionstream.data.photographs import HELD_OUT, TRAIN
from motionstream.data.procedural import clear_scene, render
from motionstream.data.textures import TextureBank
from motionstream.loading import Found, load_model, locate
from motionstream.model.checkpoints import load_transformer
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips.light import LitClips, lit
from motionstream.training.clips.prepared import ClipSource, PreparedClips, carrying_model
from motionstream.training.clips.rendered import ClipPool, prepare
from motionstream.training.clips.shards import ShardClips
from motionstream.training.diffusion.trainee import StoredText, Trainee
from motionstream.training.diffusion.validation import ClipView
from motionstream.training.loop.distributed import device
from motionstream.training.recipes.recipe import Recipe, Rendered, Shards

# --------------------------------------------------------------------------------------------------------- weights


def weights_path(folder: Path, stage: str) -> Path:
    """The file in which a stage saves its weights."""
    return folder / f"{stage}.safetensors"


def finished(folder: Path, stage: str) -> Path:
    """The weights file of a finished stage. Raises ValueError if it is not finished."""
    path = weights_path(folder, stage)
    if not path.exists():
        raise ValueError(f"{path} is missing: train the {stage} stage first")
    return path


def load_into(module: nn.Module, path: Path) -> None:
    """Load weights into a module. Raises ValueError if they belong to another model."""
    try:
        module.load_state_dict(read_state(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is of another recipe: train into another folder ({reason})") from error


def base(recipe: Recipe) -> Found:
    """The base model's files. Raises ValueError if the recipe names no base, or it does not exist."""
    if recipe.base is None:
        raise ValueError(f"{recipe.model.name} is trained from a base model: name it (--base), see docs/training.md")
    found = locate(recipe.base)
    if found is None:
        raise ValueError(f"--base {recipe.base!r}: there is no model of this name or in this folder")
    return found


def begin(recipe: Recipe, folder: Path, stage: str | None) -> Trainee:
    """A model for training or inference, float32, on this rank's device.

    With the weights of a finished ``stage``; if None, with those of a base model of the same sizes, else random ones.
    """
    source = None if stage is None else finished(folder, stage)
    text = None if isinstance(recipe.model.text, TextConfig) else _stored_text(recipe)
    if source is None and recipe.base is not None:
        found = base(recipe)
        if _same_sizes(found.config, recipe.model):
            return _of_base(recipe, folder, found, text).to(device())
        if text is not None:
            raise ValueError(f"--base {recipe.base!r} is {found.config.name}, of other sizes than {recipe.model.name}")
    if source is None:
        trainee = Trainee(recipe.model, text=text)
        trainee.model.pixel_mixer = load_mixer(recipe, folder)
        return trainee.to(device())
    with torch.device("meta"):  # no initialisation, since the weights are loaded next
        trainee = Trainee(recipe.model, text=text)
    load_into(trainee.to_empty(device=device()), source)
    return trainee


def _of_base(recipe: Recipe, folder: Path, found: Found, text: StoredText | None) -> Trainee:
    """The base's weights, including a small text encoder's, with the pixel mixer that the recipe has trained, or the
    base's."""
    carry = found.config.carry
    model = load_model(found, replace(recipe.model, carry=carry), Placement(device="cpu", dtype="float32"))
    model.config = recipe.model
    trainee = Trainee(recipe.model, model.train().requires_grad_(True), text)
    if isinstance(recipe.model.text, TextConfig):
        stored = parts(recipe).text_encoder
        assert isinstance(trainee.text, nn.Module) and isinstance(stored, nn.Module)
        trainee.text.load_state_dict(stored.state_dict())
    model.pixel_mixer = load_mixer(recipe, folder)
    if model.pixel_mixer is not None:  # trained only in its own stage
        model.pixel_mixer.requires_grad_(False)
    return trainee


def begin_student(recipe: Recipe, folder: Path, stage: str) -> Trainee:
    """The model from which the student starts: a finished stage's weights; after the teacher, with the transformer of
    ``recipe.student`` if given.

    Raises ValueError for a checkpoint that does not fit.
    """
    trainee = begin(recipe, folder, stage)
    if recipe.student is not None and stage == "teacher":
        transformer, report = load_transformer(recipe.student, recipe.model, dtype=torch.float32, allow_pickle=True)
        warnings.warn(str(report), stacklevel=2)
        trainee.model.transformer = transformer.train().to(device())
    return trainee


def _same_sizes(one: ModelConfig, other: ModelConfig) -> bool:
    return (one.transformer, one.inputs, one.track_head) == (other.transformer, other.inputs, other.track_head)


def _stored_text(recipe: Recipe) -> StoredText:
    if not isinstance(recipe.data, Shards):
        raise ValueError(f"{recipe.model.name} is trained on prepared clips: name their folder (--shards)")
    return StoredText.of_shards(recipe.model, recipe.data.folder(-1))


def load_autoencoder(recipe: Recipe, folder: Path) -> LinearAutoencoder | None:
    """The autoencoder that carries content and encodes rendered clips, trained by the recipe or the base's. None if the
    recipe does neither."""
    if recipe.model.carry is None and not isinstance(recipe.data, Rendered):
        return None
    if recipe.autoencoder is None:
        autoencoder = parts(recipe).autoencoder
        assert isinstance(autoencoder, LinearAutoencoder)
        return autoencoder
    assert isinstance(recipe.model.autoencoder, LinearAutoencoderConfig)
    autoencoder = LinearAutoencoder(recipe.model.autoencoder)
    load_into(autoencoder, finished(folder, "autoencoder"))
    return autoencoder.eval().requires_grad_(False)


def load_mixer(recipe: Recipe, folder: Path) -> PixelMixer | None:
    """The pixel mixer, trained by the recipe or the base's; None for models without one."""
    carry = recipe.model.carry
    if carry is None or carry.mixer is None:
        return None
    if recipe.mixer is None:
        found = base(recipe)
        mixer = load_model(found, found.config, Placement(device="cpu", dtype="float32")).pixel_mixer
        if mixer is None or mixer.config != carry.mixer:
            raise ValueError(f"--base {recipe.base!r} has not {recipe.model.name}'s pixel mixer: name another base")
        return mixer
    mixer = PixelMixer(carry.mixer, grid=carry.grid)
    load_into(mixer, finished(folder, "mixer"))
    return mixer.eval().requires_grad_(False)


def parts(recipe: Recipe, placement: Placement | None = None) -> Components:
    """The base model's autoencoder and encoders, by default on the CPU. Raises ValueError if its autoencoder differs
    from the recipe's."""
    found = base(recipe)
    if found.config.autoencoder != recipe.model.autoencoder:
        raise ValueError(f"--base {recipe.base!r} has another autoencoder than {recipe.model.name}: name another base")
    return load_components(found.folder, found.config, placement or Placement(device="cpu"))


# ----------------------------------------------------------------------------------------------------------- clips


def clip_source(
    recipe: Recipe,
    folder: Path,
    mix: TrackMix,
    *,
    seed: int,
    phase: int = -1,
    batch: int | None = None,
    light: bool = False,
) -> ClipSource:
    """Training clips with tracks drawn by ``mix``. ``phase``: of the teacher; −1 for distillation. ``light``: with
    targets in another light (``clips/light.py``), for rendered clips."""
    data, autoencoder = recipe.data, load_autoencoder(recipe, folder)
    batch = batch or recipe.batch
    if isinstance(data, Shards):
        return ShardClips(
            recipe.model,
            data.folder(phase),
            mix,
            autoencoder,
            batch=batch,
            seed=seed,
            frames=data.frames,
            workers=data.workers,
            damaged=data.damaged,
            mixer=load_mixer(recipe, folder),
        )
    rendered = _rendered(recipe)
    assert autoencoder is not None
    pool = ClipPool(
        recipe.model,
        clear_scene(rendered.scene) if light else rendered.scene,
        mix,
        autoencoder,
        TRAIN,
        size=rendered.pool,
        batch=batch,
        reuse=rendered.reuse,
        seed=seed,
        workers=rendered.workers,
        turns=rendered.turns if phase == -1 else 0.0,
        mixer=load_mixer(recipe, folder),
    )
    return LitClips(pool, recipe.model, autoencoder, seed) if light else pool


def clip_view(recipe: Recipe, folder: Path, clips: PreparedClips) -> ClipView:
    """Decodes validation clips for figures and pictures, with the linear autoencoder if there is one, else the base's
    decoder, preferably its tiny one."""
    decoder: StreamingAutoencoder | None = load_autoencoder(recipe, folder)
    if decoder is None:
        tiny = (base(recipe).folder / "tiny_decoder.safetensors").is_file()
        decoder = parts(recipe, Placement(device=str(device()), decoder="tiny" if tiny else "full")).decoder
    return ClipView(clips, decoder)


def _rendered(recipe: Recipe) -> Rendered:
    if not isinstance(recipe.data, Rendered):
        raise ValueError(f"{recipe.model.name} is trained on prepared clips: name their folder (--shards)")
    return recipe.data


def validation_clips(recipe: Recipe, folder: Path, *, long: bool = False, light: bool = False) -> PreparedClips:
    """Validation clips, the same in every stage, so that figures are comparable.

    Prepared clips come from the held-out folder, or with a warning from the training clips. ``long``: render clips of
    ``long_frames``; no effect on prepared ones. ``light``: see ``clip_source``.
    """
    autoencoder, count = load_autoencoder(recipe, folder), recipe.validation_clips
    mix = replace(recipe.tracks, mask_probability=0.0)
    if isinstance(recipe.data, Shards):
        held_out = recipe.data.held_out or recipe.data.folder(-1)
        if recipe.data.held_out is None:
            warnings.warn(
                f"validation is on clips of {held_out}, which are trained on, too: prepare others (--held-out DIR)",
                stacklevel=1,  # attributed to this line, so that it is shown once and not for every stage
            )
        frames = recipe.data.frames
        mixer = load_mixer(recipe, folder)
        settings: dict[str, Any] = {"batch": count, "seed": 0, "frames": frames, "workers": 0, "mixer": mixer}
        return ShardClips(recipe.model, held_out, mix, autoencoder, **settings).at(0)
    rendered = _rendered(recipe)
    assert autoencoder is not None
    scene = replace(rendered.scene, frames=rendered.long_frames) if long else rendered.scene
    video = render(clear_scene(scene) if light else scene, count, 77_000_000, _held_out())
    model = carrying_model(recipe.model, load_mixer(recipe, folder))
    clips = prepare(video, model, autoencoder, mix, torch.Generator().manual_seed(0))
    if light:
        clips = lit(clips, recipe.model, autoencoder, [f"held out {row}" for row in range(count)])
    return clips


@lru_cache(maxsize=1)
def _held_out() -> TextureBank:
    return TextureBank(HELD_OUT)
