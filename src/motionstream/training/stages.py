"""The stages of a recipe, one function each, from config to finished weights. ``runs/nano.sh`` calls them in order.

A stage writes ``FOLDER/<stage>/`` (checkpoint, log; the teacher one such folder for each phase, the mixer for each of
its trainings) and, when it ends, ``FOLDER/<stage>.safetensors``, the averaged weights from which the next stage starts.
Calling a stage again resumes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.checkpoint_files import write_tensors
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.data.photographs import HELD_OUT, TRAIN
from motionstream.data.procedural import clear_scene
from motionstream.data.textures import TextureBank
from motionstream.training.clips.prepared import PreparedClips, chunk_frames
from motionstream.training.diffusion.causal_init import CausalStage
from motionstream.training.diffusion.lora import LoraSettings, add_lora, merged
from motionstream.training.diffusion.self_forcing import SelfForcingStage
from motionstream.training.diffusion.teacher import TeacherStage
from motionstream.training.diffusion.teacher_forcing import TeacherForcingStage
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.trajectories import TrajectoryStore, make_trajectories
from motionstream.training.loop.distributed import agree, device
from motionstream.training.loop.run import Run, train
from motionstream.training.parts.autoencoder import DecoderStage, GeneratedDecoderStage, fit_basis
from motionstream.training.parts.looking import LookStage
from motionstream.training.parts.mixer import MixerStage
from motionstream.training.parts.outlining import OutlineStage
from motionstream.training.planning.throughput import stage_flops
from motionstream.training.recipes.recipe import Recipe, Rendered
from motionstream.training.sources import (
    begin,
    begin_student,
    clip_source,
    clip_view,
    load_autoencoder,
    validation_clips,
    weights_path,
)
from motionstream.training.tiny_stage import train_tiny_decoder

Say = Callable[[str], None]
StageKind = Literal["teacher", "causal", "self-forcing"]


def save_average(run: Run, folder: Path, stage: str, lora: LoraSettings | None = None) -> None:
    """Write a finished run's averaged weights on the first rank. All ranks call this and wait until the file exists."""
    average = run.average if lora is None else merged(run.average, lora)
    agree(lambda: write_tensors(weights_path(folder, stage), average))


def with_lora(trainee: Trainee, lora: LoraSettings | None) -> Trainee:
    """Add LoRA to the model if given."""
    if lora is not None:
        add_lora(trainee.model, lora)
    return trainee


def train_autoencoder(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Fit the autoencoder's principal components, then train the residual decoder."""
    own, data = recipe.own_autoencoder, recipe.data
    if not isinstance(data, Rendered):
        raise ValueError("the autoencoder is trained on rendered clips; for prepared ones it must be there already")
    assert isinstance(recipe.model.autoencoder, LinearAutoencoderConfig)
    torch.manual_seed(recipe.seed)
    autoencoder = LinearAutoencoder(recipe.model.autoencoder)
    scene = replace(data.scene, frames=own.scene_frames)
    kept = fit_basis(autoencoder, scene, TextureBank(TRAIN), batches=own.basis_batches, seed=recipe.seed)
    say(f"{autoencoder.latent_channels} components keep {kept:.4f} of the energy")
    autoencoder.to(device())
    stage = DecoderStage(autoencoder, scene, TRAIN, HELD_OUT, batch=own.batch, seed=recipe.seed)
    save_average(train(stage, own.train, folder / "autoencoder", say=say), folder, "autoencoder")


def train_mixer(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Train the pixel mixer, which chooses between carried pictures at every pixel; it is frozen afterwards."""
    own, data, carry = recipe.mixer, recipe.data, recipe.model.carry
    if carry is None or carry.mixer is None:
        raise ValueError(f"{recipe.model.name} has no pixel mixer to train")
    if own is None:
        raise ValueError(f"the pixel mixer of {recipe.model.name!r} is not trained: it comes from the base model")
    if not isinstance(data, Rendered):
        raise ValueError("the pixel mixer is trained on rendered clips; for prepared ones it must be there already")
    torch.manual_seed(recipe.seed)
    mixer = PixelMixer(carry.mixer, grid=carry.grid).to(device())
    if own.outline is not None and mixer.outliner is not None:
        pictures = {"batch": own.outline_batch, "seed": recipe.seed, "workers": data.workers}
        outline = OutlineStage(mixer.outliner, clear_scene(data.scene), TRAIN, HELD_OUT, **pictures)
        train(outline, own.outline, folder / "mixer_outline", say=say).use_average()
        mixer.outliner.requires_grad_(False)
    if own.look is not None:
        shared = {"batch": own.batch, "seed": recipe.seed, "workers": data.workers}
        look = LookStage(mixer, clear_scene(data.scene), own.tracks, TRAIN, HELD_OUT, **shared)
        train(look, own.look, folder / "mixer_look", say=say).use_average()
        look.module.requires_grad_(False)  # clips are far fewer than pictures: training on them would undo it
    stage = MixerStage(
        mixer,
        data.scene,
        own.tracks,
        TRAIN,
        HELD_OUT,
        chunks=chunk_frames(recipe.model, data.scene.frames),
        batch=own.batch,
        frames=own.frames,
        seed=recipe.seed,
        workers=data.workers,
    )
    save_average(train(stage, own.train, folder / "mixer", say=say), folder, "mixer")


def _flops(kind: StageKind, recipe: Recipe, batch: int, clips: PreparedClips) -> dict[str, float]:
    """Operations per update of each player on ``batch`` clips of this size."""
    frames, *cells = clips.latents.shape[2:]
    size = (cells[0] * recipe.model.spatial_compression, cells[1] * recipe.model.spatial_compression)
    return stage_flops(kind, recipe.model, frames, recipe.rollouts, batch=batch, size=size)


def train_teacher(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Train the teacher by flow matching in phases (paper: two; the track head is frozen in the second)."""
    torch.manual_seed(recipe.seed)
    trainee = with_lora(begin(recipe, folder, None), recipe.lora)
    for number, phase in enumerate(recipe.teacher):
        now = recipe.in_phase(number)
        validation = validation_clips(now, folder)
        view = clip_view(now, folder, validation)
        trainee.model.track_head.requires_grad_(phase.track_head)
        seed = recipe.seed + 1_000_000 * (number + 1)
        source = clip_source(now, folder, phase.tracks, seed=seed, phase=number)
        stage = TeacherStage(trainee, source, validation, phase.loss, seed=recipe.seed + number, view=view)
        flops = _flops("teacher", now, now.batch, validation)
        run = train(stage, phase.train, folder / f"teacher_phase{number + 1}", flops=flops, say=say)
        run.use_average()
    save_average(run, folder, "teacher", recipe.lora)


def train_teacher_forcing(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """The optional stage before the causal one: denoising chunks that attend to a clean past."""
    phase = recipe.forcing
    if phase is None:
        raise ValueError("the recipe has no teacher-forcing stage")
    torch.manual_seed(recipe.seed)
    lora = recipe.student_lora or recipe.lora
    trainee = with_lora(begin_student(recipe, folder, "teacher"), lora)
    trainee.model.track_head.requires_grad_(False)
    source = clip_source(recipe, folder, phase.tracks, seed=recipe.seed + 3_000_000)
    stage = TeacherForcingStage(trainee, source, validation_clips(recipe, folder), phase.loss, seed=recipe.seed)
    save_average(train(stage, phase.train, folder / "teacher-forcing", say=say), folder, "teacher-forcing", lora)


def train_causal(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Train the student by regression on the teacher's trajectories, under sinks and windows of many sizes."""
    torch.manual_seed(recipe.seed)
    shards = make_trajectories(
        begin(recipe, folder, "teacher"),
        clip_source(recipe, folder, recipe.tracks, seed=recipe.seed + 5_000_000),
        folder / "trajectories",
        count=recipe.trajectories,
        seed=recipe.seed,
        bf16=recipe.causal.bf16,
        guided=recipe.guided_trajectories,
        say=say,
    )
    lora = recipe.student_lora or recipe.lora
    forced = weights_path(folder, "teacher-forcing").exists()
    trainee = with_lora(begin_student(recipe, folder, "teacher-forcing" if forced else "teacher"), lora)
    trainee.model.track_head.requires_grad_(False)
    store, validation = TrajectoryStore(shards), validation_clips(recipe, folder)
    view = clip_view(recipe, folder, validation)
    stage = CausalStage(trainee, store, validation, batch=recipe.batch, seed=recipe.seed, view=view)
    flops = _flops("causal", recipe, recipe.batch, validation)
    save_average(train(stage, recipe.causal, folder / "causal", flops=flops, say=say), folder, "causal", lora)


def train_self_forcing(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Distil the student by distribution matching on its own rollouts, from the causal stage's weights."""
    torch.manual_seed(recipe.seed)
    lora = recipe.student_lora or recipe.lora
    student = with_lora(begin(recipe, folder, "causal"), lora)
    teacher, critic = begin(recipe, folder, "teacher"), with_lora(begin(recipe, folder, "teacher"), recipe.lora)
    batch, light = recipe.self_forcing_batch, recipe.light
    validation = validation_clips(recipe, folder, light=light)
    long = validation_clips(recipe, folder, long=True, light=light) if isinstance(recipe.data, Rendered) else None
    stage = SelfForcingStage(
        student,
        teacher,
        critic,
        clip_source(recipe, folder, recipe.tracks, seed=recipe.seed + 7_000_000, batch=batch, light=light),
        validation,
        long,
        recipe.rollouts,
        seed=recipe.seed,
        autoencoder=load_autoencoder(recipe, folder),
        view=clip_view(recipe, folder, validation),
    )
    flops = _flops("self-forcing", recipe, batch or recipe.batch, validation)
    run = train(stage, recipe.self_forcing, folder / "self-forcing", flops=flops, say=say)
    save_average(run, folder, "self-forcing", lora)


def train_decoder(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Fine-tune the residual decoder on the causal stage's trajectories; encoder and latents do not change."""
    own, autoencoder = recipe.own_autoencoder, load_autoencoder(recipe, folder)
    assert autoencoder is not None
    store = TrajectoryStore(sorted((folder / "trajectories").glob("*.safetensors")))
    autoencoder.requires_grad_(True).to(device())
    stage = GeneratedDecoderStage(autoencoder, store, batch=own.batch, seed=recipe.seed)
    save_average(train(stage, own.decoder, folder / "decoder", say=say), folder, "decoder")


TRAINERS: dict[str, Callable[[Recipe, Path, Say], None]] = {
    "autoencoder": train_autoencoder,
    "mixer": train_mixer,
    "teacher": train_teacher,
    "teacher-forcing": train_teacher_forcing,
    "causal": train_causal,
    "self-forcing": train_self_forcing,
    "decoder": train_decoder,
    "tiny-decoder": train_tiny_decoder,
}
