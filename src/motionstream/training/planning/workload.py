"""The workload of a training benchmark: a stage with random weights, and clips for it.

For models that train on rendered video, clips are rendered as in training, so that waiting for data is measured too;
for others they are random numbers of the right shapes, made once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from motionstream.autoencoder.linear import GROUP, LinearAutoencoder
from motionstream.checkpoint_files import write_tensors
from motionstream.component_config import LinearAutoencoderConfig, UMT5Config
from motionstream.config import ModelConfig
from motionstream.data.photographs import TRAIN
from motionstream.presets import preset as named
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips.prepared import ClipSource, PreparedClips
from motionstream.training.clips.rendered import ClipPool
from motionstream.training.diffusion.causal_init import CausalStage
from motionstream.training.diffusion.lora import LoraSettings, add_lora
from motionstream.training.diffusion.self_forcing import SelfForcingConfig, SelfForcingStage
from motionstream.training.diffusion.teacher import TeacherStage
from motionstream.training.diffusion.trainee import StoredText, Trainee
from motionstream.training.diffusion.trajectories import TrajectoryStore
from motionstream.training.loop import distributed
from motionstream.training.loop.stage import Stage, TrainConfig
from motionstream.training.planning.throughput import stage_flops
from motionstream.training.recipes.named import RECIPES
from motionstream.training.recipes.recipe import Rendered

StageKind = Literal["teacher", "causal", "self-forcing"]
STAGES: tuple[StageKind, ...] = ("teacher", "causal", "self-forcing")
Data = Literal["auto", "rendered", "synthetic"]

TRACKS = 160
"""Tracks per synthetic clip, as many as in rendered ones."""


@dataclass(frozen=True)
class Workload:
    """The benchmark's settings, except the machine. ``config`` has the size and length of the clips."""

    config: ModelConfig
    stage: StageKind = "teacher"
    batch: int = 1
    """Clips of all ranks together."""
    data: Data = "auto"
    """``auto``: rendered if the model has nano's linear autoencoder, else synthetic."""
    bf16: bool = True
    """Mixed precision by autocast; otherwise float32."""
    recompute: bool = False
    compile: bool = False
    shard: bool = False
    lora: int | None = None
    """Rank of LoRA; None trains the whole transformers."""
    rollouts: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    """Settings of Self-Forcing."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage = {self.stage!r}: give one of {', '.join(STAGES)}")
        if self.data not in ("auto", "rendered", "synthetic"):
            raise ValueError(f"data = {self.data!r}: give auto, rendered or synthetic")
        ranks = distributed.world_size()
        if self.batch < 1 or self.batch % ranks:
            raise ValueError(f"batch = {self.batch}: give a positive multiple of the {ranks} ranks")
        if self.data == "rendered" and not isinstance(self.config.autoencoder, LinearAutoencoderConfig):
            raise ValueError(
                f"data = 'rendered': {self.config.name} is too large to train on rendered video; synthetic"
            )

    @property
    def rendered(self) -> bool:
        linear = isinstance(self.config.autoencoder, LinearAutoencoderConfig)
        return self.data == "rendered" or (self.data == "auto" and linear)

    @property
    def latent_frames(self) -> int:
        return (self.config.clip_frames - 1) // self.config.temporal_compression + 1

    @property
    def cycle(self) -> int:
        """Number of updates after which the turns of student and critic repeat."""
        critic = self.stage == "self-forcing" and self.rollouts.score_weight > 0
        return self.rollouts.critic_updates + 1 if critic else 1

    @property
    def train(self) -> TrainConfig:
        # a low learning rate, so that the random weights hardly change
        return TrainConfig(
            steps=1_000_000,
            lr=1e-6,
            bf16=self.bf16,
            recompute=self.recompute,
            compile=self.compile,
            shard=self.shard,
        )

    @property
    def flops(self) -> dict[str, float]:
        """Model operations per update on the whole batch, for each player."""
        return stage_flops(self.stage, self.config, self.latent_frames, self.rollouts, batch=self.batch)


def workload(
    preset: str,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    **rest: Any,
) -> Workload:
    """The workload of a named model.

    Args:
        frames: of the video, whole chunks; the model's own when None. size: (height, width); the model's own when None.
        batch: of all ranks together; when None, the recipe's for models trained on rendered video, else 1 per rank.
        rest: fields of ``Workload``; ``rollouts`` are by default those of the model's recipe.

    Raises:
        ValueError: unknown model, or impossible size, length or batch.
    """
    config = named(preset)
    size = config.checked_size(size or config.size)
    frames = config.clip_frames if frames is None else frames
    whole = config.whole_chunks(frames) if frames > 0 else 0
    if whole != frames or whole == 0:
        least = max(whole, config.whole_chunks(config.chunk_video_frames(0)))
        raise ValueError(f"--frames is {frames}: {config.name} is trained on whole chunks, {least} frames for one")
    config = replace(config, size=size, sizes=(), clip_frames=frames)
    recipe = RECIPES[preset](None) if preset in RECIPES else None
    rendered = recipe is not None and isinstance(recipe.data, Rendered)
    if batch is None:
        batch = recipe.batch if recipe is not None and rendered else distributed.world_size()
    if recipe is not None:
        rest.setdefault("rollouts", replace(recipe.rollouts, critic_first=0))
    return Workload(config, batch=batch, **rest)


# ------------------------------------------------------------------------------------------- clips and stages


class SyntheticClips:
    """Random clips with a model's shapes, the same at every step."""

    def __init__(self, config: ModelConfig, *, batch: int, latent_frames: int, seed: int = 0) -> None:
        self.batch = batch
        made = [_random_clip(config, latent_frames, distributed.keyed_generator(seed, i)) for i in range(batch)]
        self._clips = made

    def at(self, step: int, samples: range | None = None) -> PreparedClips:
        return PreparedClips.join([self._clips[i] for i in (samples or range(self.batch))])


def _random_clip(config: ModelConfig, latent_frames: int, generator: torch.Generator) -> PreparedClips:
    frames, cells = config.frames_of(latent_frames), config.latent_size

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    places = torch.rand(1, 1, TRACKS, 2, generator=generator) * torch.tensor([config.size[1], config.size[0]])
    carries = config.carry is not None
    carried = (config.latent_channels, 8) if carries else (0, 0)
    held = (GROUP * config.spatial_compression**2, latent_frames, *cells)
    text, image = config.text, config.image_encoder
    chunks = latent_frames // config.causal.chunk_frames
    return PreparedClips(
        latents=noise(config.latent_channels, latent_frames, *cells),
        positions=places.expand(1, frames, TRACKS, 2),
        visible=torch.ones(1, frames, TRACKS, dtype=torch.bool),
        start=places[:, 0],
        events=torch.zeros(1, chunks, dtype=torch.bool),
        candidates=noise(3, carried[0], latent_frames, *cells),
        features=noise(carried[1], latent_frames, *cells),
        captions=["a red ball moves to the left in front of a wall, and the camera stands still"],
        held=noise(*held).sigmoid() if carries else None,
        picture=noise(3, *config.size) if carries else None,
        detail=noise(chunks, 3, *config.size) if carries else None,
        text=noise(text.tokens, config.transformer.text_dim) if isinstance(text, UMT5Config) else None,
        image=None if image is None else noise(image.tokens, image.hidden_size),
    )


def make_clips(work: Workload) -> ClipSource:
    """A source of rendered or synthetic clips."""
    config = work.config
    if not work.rendered:
        return SyntheticClips(config, batch=work.batch, latent_frames=work.latent_frames)
    own = RECIPES[config.name](None).data
    assert isinstance(own, Rendered)
    scene = replace(own.scene, height=config.size[0], width=config.size[1], frames=config.clip_frames)
    autoencoder = make_autoencoder(config)
    assert autoencoder is not None
    return ClipPool(
        config,
        scene,
        TrackMix(),
        autoencoder,
        TRAIN,
        size=own.pool,
        batch=work.batch,
        reuse=own.reuse,
        seed=0,
        workers=own.workers,
    )


def make_autoencoder(config: ModelConfig) -> LinearAutoencoder | None:
    """nano's linear autoencoder with random weights, if the model has one; else None."""
    if not isinstance(config.autoencoder, LinearAutoencoderConfig):
        return None
    return LinearAutoencoder(config.autoencoder).eval().requires_grad_(False)


def make_trainee(config: ModelConfig, device: torch.device) -> Trainee:
    """A model with random weights on ``device``; a large text encoder is replaced by random tokens of two sentences."""
    text = None
    if isinstance(config.text, UMT5Config):
        sentence = torch.randn(8, config.transformer.text_dim)
        text = StoredText(config, empty=sentence, negative=sentence)
    with torch.device(device):
        return Trainee(config, text=text)


def make_stage(work: Workload, device: torch.device, folder: Path) -> Stage:
    """The stage of ``work``; files that it reads are written to ``folder``."""
    config, clips = work.config, make_clips(work)
    trainee = make_trainee(config, device)
    if work.lora is not None:
        add_lora(trainee.model, LoraSettings(rank=work.lora))
    if work.stage == "teacher":
        return TeacherStage(trainee, clips, clips.at(0, range(1)), seed=0)
    if work.stage == "causal":
        trainee.model.track_head.requires_grad_(False)
        store = TrajectoryStore([_write_trajectories(work, clips, folder)])
        return CausalStage(trainee, store, clips.at(0, range(1)), batch=work.batch, seed=0)
    # short, since validation before the first update rolls it out, outside the measurement
    shortest = config.causal.chunk_frames * (min(work.rollouts.sinks) + min(work.rollouts.windows) + 2)
    validation = SyntheticClips(config, batch=1, latent_frames=min(shortest, work.latent_frames)).at(0)
    teacher, critic = (make_trainee(config, device) for _ in range(2))
    if work.lora is not None:
        add_lora(critic.model, LoraSettings(rank=work.lora))
    return SelfForcingStage(
        trainee,
        teacher,
        critic,
        clips,
        validation,
        None,
        work.rollouts,
        seed=0,
        autoencoder=make_autoencoder(config),
    )


def _write_trajectories(work: Workload, clips: ClipSource, folder: Path) -> Path:
    """Write a file with a batch of random trajectories for ``TrajectoryStore``."""
    parts, times = clips.at(0).half(), work.config.sampler.student_times
    states = torch.randn(len(parts), len(times), *parts.latents.shape[1:]).half()
    path = folder / "trajectories.safetensors"
    path.with_suffix(".txt").write_text("\n".join(parts.captions))
    write_tensors(path, parts.tensors() | {"states": states, "x0": parts.latents.clone(), "times": torch.tensor(times)})
    return path
