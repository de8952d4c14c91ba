"""Rendered clips for a stage: encoded, with tracks and carried content, in a pool that is continually refreshed.

Rendering and encoding cost about as much as a training step, so each clip is used several times, with different ids,
noise and dropout.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.config import ModelConfig
from motionstream.data.procedural import Clips, SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.model.motion_model import MotionModel
from motionstream.pixels import to_float
from motionstream.tracks.sampling import TrackMix, sample_tracks
from motionstream.training.clips.keyed_loader import KeyedLoader
from motionstream.training.clips.prepared import PreparedClips, assemble, carrying_model, chunk_frames
from motionstream.training.clips.turns import draw_turns, reorder, sample_turns, still_scene
from motionstream.training.loop.distributed import keyed_generator, rank, world_size


@torch.no_grad()
def prepare(
    clips: Clips,
    model: MotionModel,
    autoencoder: LinearAutoencoder,
    mix: TrackMix,
    generator: torch.Generator,
) -> PreparedClips:
    """Encode a rendered batch, sample its tracks and carry its content along them."""
    video = to_float(clips.video)
    latents, _ = autoencoder.encode(video)
    starts = chunk_frames(model.config, video.shape[2])
    tracks = sample_tracks(clips.positions, clips.visible, clips.layer, mix, generator, chunks=starts)
    return assemble(latents, frames_before(video, starts), tracks, clips.captions, model, autoencoder)


def frames_before(video: Tensor, starts: list[int]) -> Tensor:
    """The first frame of a video (B, 3, T, H, W) and the last frame before each later chunk, (B, K, 3, H, W)."""
    return video[:, :, [0, *(start - 1 for start in starts[1:])]].transpose(1, 2)


@torch.no_grad()
def prepare_turns(
    clips: Clips,
    model: MotionModel,
    autoencoder: LinearAutoencoder,
    mix: TrackMix,
    generator: torch.Generator,
) -> PreparedClips:
    """Prepare one rendered clip with its frames reordered, whose drags are released and resumed: see ``turns``."""
    frames = clips.video.shape[2]
    starts = chunk_frames(model.config, frames)
    turns = draw_turns(frames, generator, chunks=starts)
    clips = reorder(clips, turns)
    video = to_float(clips.video)
    latents, _ = autoencoder.encode(video)
    tracks = sample_turns(clips, turns, mix, generator, chunks=starts)
    return assemble(latents, frames_before(video, starts), tracks, clips.captions, model, autoencoder)


class _Rendered(Dataset):
    """Prepared clips by (lane, number), each determined by its key and the seed. Runs in worker processes."""

    def __init__(
        self,
        config: ModelConfig,
        scene: SceneConfig,
        mix: TrackMix,
        autoencoder: LinearAutoencoder,
        textures: tuple[str, ...],
        seed: int,
        turns: float,
        mixer: PixelMixer | None,
    ) -> None:
        self.config, self.scene, self.mix, self.autoencoder = config, scene, mix, autoencoder
        self.textures, self.seed, self.turns, self.mixer = textures, seed, turns, mixer
        self._made: tuple[MotionModel, TextureBank] | None = None

    def __getitem__(self, key: Key) -> PreparedClips:
        if self._made is None:
            self._made = carrying_model(self.config, self.mixer), TextureBank(self.textures)
        model, bank = self._made
        generator = keyed_generator("clip", self.seed, *key)
        seed = int(torch.randint(2**62, (), generator=generator))
        turned = self.turns > 0 and torch.rand((), generator=generator).item() < self.turns
        scene, make = (still_scene(self.scene), prepare_turns) if turned else (self.scene, prepare)
        return make(render(scene, 1, seed, bank), model, self.autoencoder, self.mix, generator).half()


Key = tuple[int, int]
"""lane, number of the clip in it"""


class ClipPool:
    """Prepared clips, each used several times before it is replaced.

    Every sample of the batch has its own pool, a lane. Each step takes a random clip of the lane; every ``reuse`` steps
    a new clip replaces the oldest. The choice depends only on (seed, step, sample), so resumed and multi-rank runs see
    the same data as an uninterrupted run on one rank. Workers render clips in the order in which they are needed.

    Args:
        size: clips in all lanes together. batch: number of lanes, i.e. samples of a global batch.
        reuse: how often a clip is used on average before it is replaced.
        workers: rendering processes; 0 renders in this process.
        turns: share of the clips in which drags are released and resumed (``turns``).
        mixer: the model's pixel mixer, if it has one.
    """

    def __init__(
        self,
        config: ModelConfig,
        scene: SceneConfig,
        mix: TrackMix,
        autoencoder: LinearAutoencoder,
        textures: tuple[str, ...],
        *,
        size: int,
        batch: int,
        reuse: int,
        seed: int,
        workers: int = 1,
        turns: float = 0.0,
        mixer: PixelMixer | None = None,
    ) -> None:
        self.batch, self.reuse, self.seed = batch, reuse, seed
        self._depth = max(1, size // batch)
        source = _Rendered(config, scene, mix, autoencoder, textures, seed, turns, mixer)
        self._loader: KeyedLoader[Key, PreparedClips] = KeyedLoader(source, workers=workers, ahead=4 * batch)
        self._kept: dict[Key, PreparedClips] = {}

    def at(self, step: int, samples: range | None = None) -> PreparedClips:
        """The clips of ``samples`` (None: the whole batch) at a step, float32.

        Steps may come in any order; clips are rendered ahead only for consecutive ones. Raises ValueError for samples
        outside the batch.
        """
        samples = range(self.batch) if samples is None else samples
        if not 0 <= samples.start < samples.stop <= self.batch:
            raise ValueError(f"samples {samples.start}:{samples.stop} are not among the pool's {self.batch}")
        keys = [self._key(step, sample) for sample in samples]
        for key in keys:
            if key not in self._kept:
                waiting = range(key[0], samples.stop)
                self._kept[key] = self._loader.get(key, partial(ClipPool._needs, weakref.proxy(self), step, waiting))
        # to float32 before concatenation: autocast does not support half precision on the CPU
        clips = PreparedClips.join([self._kept[key].float() for key in keys])
        self._kept = {key: clip for key, clip in self._kept.items() if key[1] >= self._oldest(step)}
        return clips

    def _newest(self, step: int) -> int:
        return 1 + step // self.reuse

    def _oldest(self, step: int) -> int:
        return max(0, self._newest(step) - self._depth + 1)

    def _key(self, step: int, sample: int) -> Key:
        generator = keyed_generator("draw", self.seed, step, sample)
        number = torch.randint(self._oldest(step), self._newest(step) + 1, (), generator=generator)
        return sample, int(number)

    def _needs(self, step: int, samples: range) -> Iterator[Key]:
        """Keys of the clips to render in the order in which they are needed: those of ``samples`` at this step, then
        this rank's at all later steps."""
        size = self.batch // world_size()
        lanes = range(rank() * size, (rank() + 1) * size)
        if samples.start not in lanes or samples[-1] not in lanes:
            lanes = samples
        seen = set(self._kept)
        waiting = range(samples.start, lanes.stop)
        while True:
            for key in (self._key(step, sample) for sample in waiting):
                if key not in seen:
                    seen.add(key)
                    yield key
            step, waiting = step + 1, lanes
            seen = {key for key in seen if key[1] >= self._oldest(step)}
