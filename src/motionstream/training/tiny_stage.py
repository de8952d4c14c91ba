"""The tiny decoder as a recipe's last stage: chooses latents, clips and perceptual distance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from motionstream.autoencoder.base import StreamingAutoencoder
from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.components import Placement
from motionstream.data.photographs import HELD_OUT, TRAIN
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.pixels import to_float
from motionstream.training.clips.videos import DrawClip, VideoFolder, rendered_clips
from motionstream.training.loop.distributed import device, keyed_generator, rank
from motionstream.training.loop.logs import Say
from motionstream.training.parts.perceptual import perceptual_distance
from motionstream.training.parts.tiny_autoencoder import train_tiny
from motionstream.training.recipes.recipe import Recipe, Rendered
from motionstream.training.sources import load_autoencoder, load_into, parts, weights_path

HELD_OUT_SEED = 78_000_000
"""Seed of the validation clips."""


def train_tiny_decoder(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Train the tiny decoder from scratch, on latents of the recipe's own autoencoder or of the base's.

    Raises ValueError if an earlier stage, the clips or LPIPS are missing, or the clips do not fit.
    """
    own = recipe.own_tiny
    assert recipe.model.tiny_decoder is not None
    perceptual, autoencoder = perceptual_distance(own.lpips), _full_autoencoder(recipe, folder)
    draw, held_out, source = _clips(recipe)
    if rank() == 0:
        kind = "our stand-in; --lpips takes LPIPS" if own.lpips is None else f"of {own.lpips}"
        say(f"clips: {source}; perceptual distance: {perceptual.name} ({kind})")
    torch.manual_seed(recipe.seed)
    train_tiny(
        TinyAutoencoder(recipe.model.tiny_decoder).to(device()),
        autoencoder,
        draw,
        held_out,
        folder,
        own.train,
        replace(own.loss, seed=recipe.seed),
        perceptual=perceptual,
        say=say,
    )


def _full_autoencoder(recipe: Recipe, folder: Path) -> StreamingAutoencoder:
    """The frozen full autoencoder, float32, on this rank's device; with the ``decoder`` stage's weights if it is
    finished."""
    if recipe.autoencoder is None:
        return parts(recipe, Placement(device=str(device()), dtype="float32")).autoencoder
    autoencoder = load_autoencoder(recipe, folder)
    assert isinstance(autoencoder, nn.Module)
    decoder = weights_path(folder, "decoder")
    if decoder.exists():
        load_into(autoencoder, decoder)
    return autoencoder.to(device())


def _clips(recipe: Recipe) -> tuple[DrawClip, Tensor, str]:
    """Training clips, held-out clips (B, 3, T, H, W) in [−1, 1], and a description for the log."""
    own, frames = recipe.own_tiny, recipe.own_tiny.drawn_frames
    if own.videos is None:
        assert isinstance(recipe.data, Rendered)
        scene = replace(recipe.data.scene, frames=frames, height=own.side, width=own.side)
        videos = render(scene, own.held_out, HELD_OUT_SEED, TextureBank(HELD_OUT)).video
        return rendered_clips(scene, TextureBank(TRAIN)), to_float(videos), "rendered, validation on held-out pictures"
    folder = VideoFolder(own.videos, frames=frames, side=own.side, reach=max(81, frames))
    train, held_out = folder.split(own.held_out)
    clips = [held_out(keyed_generator(HELD_OUT_SEED, index)) for index in range(own.held_out)]
    count, kept = len(folder.paths), len(held_out.paths)
    last = "the last one is" if kept == 1 else f"the last {kept} are"
    return train, to_float(torch.stack(clips)), f"of {count} videos in {own.videos}, of which {last} held out"
