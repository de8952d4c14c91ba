"""Training clips from the shards written by ``motionstream prepare``."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.component_config import UMT5Config
from motionstream.config import ModelConfig
from motionstream.data.samples import Sample, pad_text
from motionstream.data.shards import SampleStream, ShardFolder
from motionstream.model.motion_model import MotionModel
from motionstream.pixels import to_float
from motionstream.tracks.sampling import SampledTracks, TrackMix, layers_of, sample_tracks
from motionstream.training.clips.keyed_loader import KeyedLoader
from motionstream.training.clips.prepared import (
    PreparedClips,
    assemble,
    carrying_model,
    chunk_frames,
    source_pictures,
)
from motionstream.training.loop.distributed import keyed_generator, rank, world_size


class ShardClips:
    """The samples of a prepared folder in an order that depends on (seed, epoch), with different tracks each time.

    Sample ``i`` of step ``s`` is number ``s × batch + i`` of the whole run, on any number of ranks.

    Args:
        config: the trained model. Text and image tokens come from the shards if the model's encoders are frozen; a
            trainable text encoder (``nano``) receives the captions.
        autoencoder: needed by models that carry content.
        frames: latent frames to train on, whole chunks; the whole clip when None. Longer clips are cut at the end.
        workers: reading processes; 0 reads in this process.
        damaged: an unreadable sample raises an error (``refuse``) or is replaced by the next one (``skip``).
        mixer: the model's pixel mixer, if it has one.

    Raises:
        ValueError: the data set is unfinished or made for another model, or its clips are too short.
    """

    def __init__(
        self,
        config: ModelConfig,
        folder: str | Path,
        mix: TrackMix,
        autoencoder: LinearAutoencoder | None = None,
        *,
        batch: int,
        seed: int,
        frames: int | None = None,
        workers: int = 1,
        damaged: str = "refuse",
        mixer: PixelMixer | None = None,
    ) -> None:
        if damaged not in ("refuse", "skip"):
            raise ValueError(f"damaged = {damaged!r}: 'refuse' or 'skip'")
        shards = ShardFolder(folder, damaged="skip" if damaged == "skip" else "refuse")
        check_made_for(shards, config)
        self.batch = batch
        samples = _Samples(config, shards, mix, autoencoder, seed, frames, mixer)
        samples[0]  # to report errors common to all samples early
        # a large model's sample has ten megabytes: a few steps ahead at a batch of 128 would take gigabytes
        ahead = min(4 * batch, 64)
        self._loader: KeyedLoader[int, PreparedClips] = KeyedLoader(samples, workers=workers, ahead=ahead)

    def at(self, step: int, samples: range | None = None) -> PreparedClips:
        """See ``ClipSource``. Raises ValueError for an unreadable sample."""
        samples = range(self.batch) if samples is None else samples
        if not 0 <= samples.start < samples.stop <= self.batch:
            raise ValueError(f"samples {samples.start}:{samples.stop} are not among the batch's {self.batch}")
        clips = []
        for sample in samples:
            needs = partial(ShardClips._needs, weakref.proxy(self), step, range(sample, samples.stop))
            clips.append(self._loader.get(step * self.batch + sample, needs).float())
        return PreparedClips.join(clips)

    def _needs(self, step: int, samples: range) -> Iterator[int]:
        """Numbers of the samples to read: the rest of this step's, then this rank's of all later steps."""
        size = self.batch // world_size()
        lanes = range(rank() * size, (rank() + 1) * size)
        if samples.start not in lanes or samples[-1] not in lanes:
            lanes = samples
        waiting = range(samples.start, lanes.stop)
        while True:
            yield from (step * self.batch + sample for sample in waiting)
            step, waiting = step + 1, lanes


def check_made_for(shards: ShardFolder, config: ModelConfig) -> None:
    """Raise ValueError if the latents in ``shards`` do not fit the model."""
    made = ModelConfig.from_dict(shards.manifest["settings"]["model"])
    for name in ("latent_channels", "spatial_compression", "temporal_compression", "autoencoder", "fps"):
        theirs, ours = getattr(made, name), getattr(config, name)
        if theirs != ours:
            raise ValueError(
                f"{shards.folder} was prepared for {made.name!r}, whose {name} is {json.dumps(theirs, default=str)}; "
                f"{config.name!r} has {json.dumps(ours, default=str)}: prepare the videos for this model"
            )


class _Samples(Dataset):
    """Prepared clips by their number in the run. Runs in worker processes."""

    def __init__(
        self,
        config: ModelConfig,
        shards: ShardFolder,
        mix: TrackMix,
        autoencoder: LinearAutoencoder | None,
        seed: int,
        frames: int | None,
        mixer: PixelMixer | None,
    ) -> None:
        self.config, self.mix, self.autoencoder, self.seed, self.frames = config, mix, autoencoder, seed, frames
        self.mixer = mixer
        self.stream = SampleStream(shards, seed=seed)
        self._model: MotionModel | None = None

    def __getitem__(self, number: int) -> PreparedClips:
        sample = self.stream.at(number)
        frames = self._latent_frames(sample)
        generator = keyed_generator("tracks", self.seed, number)
        latents = sample.latents[None, :, :frames].float()
        first_frame = to_float(sample.first_frame)[None]
        tracks = self._tracks(sample, self.config.frames_of(frames), generator)
        pictures = first_frame[:, None]
        if self.autoencoder is not None:
            pictures = source_pictures(first_frame, latents, self.autoencoder, self.config.causal.chunk_frames)
        clips = assemble(latents, pictures, tracks, [sample.caption], self._shell(), self.autoencoder)
        return self._with_tokens(clips, sample).half()

    def _latent_frames(self, sample: Sample) -> int:
        there = sample.latents.shape[1]
        wanted = there if self.frames is None else self.frames
        chunk = self.config.causal.chunk_frames
        if wanted > there or wanted % chunk:
            raise ValueError(
                f"sample {sample.key} has {there} latent frames: {wanted} of them cannot be trained on (give whole "
                f"chunks of {chunk}, no more than there are)"
            )
        return wanted

    def _tracks(self, sample: Sample, frames: int, generator: torch.Generator) -> SampledTracks:
        visible, positions = sample.visible[:frames], sample.positions[:frames]
        # the file has zeros for unknown positions; a hidden point keeps its last position, which is never exactly zero
        unknown = ~visible & (positions == 0).all(dim=-1)
        positions = positions.masked_fill(unknown[..., None], torch.nan)
        layer = layers_of(positions, visible, sample.size)
        starts = chunk_frames(self.config, frames)
        return sample_tracks(positions[None], visible[None], layer[None], self.mix, generator, chunks=starts)

    def _shell(self) -> MotionModel:
        """The model without weights, which carries content."""
        if self._model is None:
            self._model = carrying_model(self.config, self.mixer)
        return self._model

    def _with_tokens(self, clips: PreparedClips, sample: Sample) -> PreparedClips:
        text: Tensor | None = None
        if isinstance(self.config.text, UMT5Config):  # frozen; a trainable encoder receives the captions
            text = pad_text(sample.text, self.config.text.tokens)[None]
        if (self.config.image_encoder is None) != (sample.image is None):
            raise ValueError(f"sample {sample.key} has image tokens for another model: prepare the videos for this one")
        return replace(clips, text=text, image=None if sample.image is None else sample.image[None])
