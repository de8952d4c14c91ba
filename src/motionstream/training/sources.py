"""What a recipe's stages start from: weights, parts of the base model, clips."""

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
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.loading import Found, load_model, locate
from motionstream.model.checkpoints import load_transformer
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips import ClipSource, PreparedClips, carrying_model
from motionstream.training.distributed import device
from motionstream.training.recipes import Recipe, Rendered, Shards
from motionstream.training.rendered_clips import ClipPool, prepare
from motionstream.training.shard_clips import ShardClips
from motionstream.training.trainee import StoredText, Trainee
from motionstream.training.validation import ClipView

# --------------------------------------------------------------------------------------------------------- weights


def weights_path(folder: Path, stage: str) -> Path:
    """Where a stage leaves its weights."""
    return folder / f"{stage}.safetensors"


def finished(folder: Path, stage: str) -> Path:
    """A finished stage's weights. ValueError where it is not finished."""
    path = weights_path(folder, stage)
    if not path.exists():
        raise ValueError(f"{path} is missing: train the {stage} stage first")
    return path


def load_into(module: nn.Module, path: Path) -> None:
    """ValueError where the file is of another model."""
    try:
        module.load_state_dict(read_state(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is of another recipe: train into another folder ({reason})") from error


def base(recipe: Recipe) -> Found:
    """The base model's files. ValueError where the recipe names none, or there are none of the name."""
    if recipe.base is None:
        raise ValueError(f"{recipe.model.name} is trained from a base model: name it (--base), see docs/training.md")
    found = locate(recipe.base)
    if found is None:
        raise ValueError(f"--base {recipe.base!r}: there is no model of this name or in this folder")
    return found


def begin(recipe: Recipe, folder: Path, stage: str | None) -> Trainee:
    """A model to train or to ask, float32, on this rank's device.

    With the weights of a finished ``stage``; with None, those of the base model where it has the same sizes, else
    random ones.
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
    with torch.device("meta"):  # no random numbers for what is read in a moment
        trainee = Trainee(recipe.model, text=text)
    load_into(trainee.to_empty(device=device()), source)
    return trainee


def _of_base(recipe: Recipe, folder: Path, found: Found, text: StoredText | None) -> Trainee:
    """The base's weights, those of a small text encoder included, around the mixer that the recipe trains itself or the
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
    if model.pixel_mixer is not None:  # trained in its own stage alone
        model.pixel_mixer.requires_grad_(False)
    return trainee


def begin_student(recipe: Recipe, folder: Path, stage: str) -> Trainee:
    """What the student starts from: a finished stage's weights, and the recipe's own transformer where it names one
    and has not trained it yet.

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
    """The autoencoder that carries content and encodes rendered clips, trained here or the base's; None where there is
    neither."""
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
    """The pixel mixer, trained here or the base's; None for models that have none."""
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
    """The base model's autoencoder and encoders, on the CPU unless placed. ValueError for another autoencoder."""
    found = base(recipe)
    if found.config.autoencoder != recipe.model.autoencoder:
        raise ValueError(f"--base {recipe.base!r} has another autoencoder than {recipe.model.name}: name another base")
    return load_components(found.folder, found.config, placement or Placement(device="cpu"))


# ----------------------------------------------------------------------------------------------------------- clips


def clip_source(
    recipe: Recipe, folder: Path, mix: TrackMix, *, seed: int, phase: int = -1, batch: int | None = None
) -> ClipSource:
    """Training clips with tracks by ``mix``. ``phase``: of the teacher; −1 is distillation's."""
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
    return ClipPool(
        recipe.model,
        rendered.scene,
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


def clip_view(recipe: Recipe, folder: Path, clips: PreparedClips) -> ClipView:
    """To look at validation clips: by the autoencoder that is trained here, or by the base's decoders, the tiny one if
    it has one."""
    decoder: StreamingAutoencoder | None = load_autoencoder(recipe, folder)
    if decoder is None:
        tiny = (base(recipe).folder / "tiny_decoder.safetensors").is_file()
        decoder = parts(recipe, Placement(device=str(device()), decoder="tiny" if tiny else "full")).decoder
    return ClipView(clips, decoder)


def _rendered(recipe: Recipe) -> Rendered:
    if not isinstance(recipe.data, Rendered):
        raise ValueError(f"{recipe.model.name} is trained on prepared clips: name their folder (--shards)")
    return recipe.data


def validation_clips(recipe: Recipe, folder: Path, *, long: bool = False) -> PreparedClips:
    """The same held-out clips in every stage, so that their figures can be compared.

    ``long``: of many times the length, where clips are rendered; prepared ones are as long as they are, and not held
    out where the recipe names no folder for it, of which it warns.
    """
    autoencoder, count = load_autoencoder(recipe, folder), recipe.validation_clips
    if isinstance(recipe.data, Shards):
        held_out = recipe.data.held_out or recipe.data.folder(-1)
        if recipe.data.held_out is None:
            warnings.warn(
                f"validation is on clips of {held_out}, which are trained on, too: prepare others (--held-out DIR)",
                stacklevel=1,  # of this line, so that it is shown once and not for every stage
            )
        mix = replace(recipe.tracks, mask_probability=0.0)
        frames = recipe.data.frames
        mixer = load_mixer(recipe, folder)
        settings: dict[str, Any] = {"batch": count, "seed": 0, "frames": frames, "workers": 0, "mixer": mixer}
        return ShardClips(recipe.model, held_out, mix, autoencoder, **settings).at(0)
    rendered = _rendered(recipe)
    assert autoencoder is not None
    scene = replace(rendered.scene, frames=rendered.long_frames) if long else rendered.scene
    video = render(scene, count, 77_000_000, _held_out())
    model = carrying_model(recipe.model, load_mixer(recipe, folder))
    return prepare(video, model, autoencoder, TrackMix(drags=0.6), torch.Generator().manual_seed(0))


@lru_cache(maxsize=1)
def _held_out() -> TextureBank:
    return TextureBank(HELD_OUT)
