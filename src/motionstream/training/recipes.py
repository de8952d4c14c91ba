"""Whole recipes: one function a stage, from config to finished weights. ``runs/nano.sh`` calls them in order.

A stage writes ``FOLDER/<stage>/`` (checkpoint, log) and, when it ends, ``FOLDER/<stage>.safetensors``, the averaged
weights that the next stage starts from. Calling a stage again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.components import Components
from motionstream.config import ModelConfig
from motionstream.data.photographs import HELD_OUT, TRAIN
from motionstream.data.procedural import SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.model.motion_model import MotionModel
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training.autoencoder import DecoderStage, GeneratedDecoderStage, fit_basis
from motionstream.training.causal_init import CausalStage, TrajectoryStore, make_trajectories
from motionstream.training.clips import ClipPool, PreparedClips, prepare
from motionstream.training.distributed import agree
from motionstream.training.loop import Run, TrainConfig, train
from motionstream.training.self_forcing import SelfForcingConfig, SelfForcingStage
from motionstream.training.teacher import TeacherStage
from motionstream.training.trainee import Trainee

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """All the numbers of a training run. ``minutes`` bound each stage's wall clock; None trains all the steps."""

    model: ModelConfig
    scene: SceneConfig
    autoencoder: TrainConfig
    teacher: tuple[TrainConfig, TrainConfig]
    """Two phases: without masking, then with stochastic mid-frame masking (paper, appendix D)."""
    causal: TrainConfig
    self_forcing: TrainConfig
    """Its steps count the critic's updates too: one in ``critic_updates`` + 1 is the student's."""
    decoder: TrainConfig
    """The residual decoder once more, on latents that the teacher made."""
    autoencoder_scene_frames: int = 21
    basis_batches: int = 40
    decoder_batch: int = 4
    batch: int = 8
    pool: int = 640
    reuse: int = 4
    trajectories: int = 112
    guided_trajectories: bool = False
    """Under joint guidance (paper, appendix D), at three times the cost."""
    rollouts: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    long_frames: int = 141
    """Length of the held-out clips on which drift is measured, far beyond the training clips; whole chunks."""
    seed: int = 0


def nano(minutes: float | None = None) -> Recipe:
    """The embedded model. ``minutes`` is the budget of all stages together (None: full length, many CPU hours)."""

    def part(share: float) -> float | None:
        return None if minutes is None else minutes * share

    return Recipe(
        model=preset("nano"),
        scene=SceneConfig(frames=45),
        autoencoder=TrainConfig(steps=4000, lr=1e-3, minutes=part(0.09), validate_every=200),
        teacher=(
            TrainConfig(steps=60_000, lr=1e-3, minutes=part(0.39), bf16=True),
            TrainConfig(steps=10_000, lr=3e-4, minutes=part(0.07), warmup=10, bf16=True),
        ),
        causal=TrainConfig(steps=20_000, lr=5e-4, minutes=part(0.16), bf16=True),
        self_forcing=TrainConfig(
            steps=3600,
            lr=3e-5,
            opponent_lr=4e-4,
            betas=(0.0, 0.999),
            clip=10.0,
            ema=0.99,
            minutes=part(0.14),
            validate_every=300,
            bf16=True,
        ),
        decoder=TrainConfig(steps=3000, lr=5e-4, minutes=part(0.09), bf16=True),
        # not guided: under guidance this small teacher oversaturates and is 4 dB further from the rendered clips
        rollouts=SelfForcingConfig(critic_updates=3, critic_first=60, sinks=(0, 1), windows=(1, 2), guided=False),
    )


def paper_self_forcing() -> TrainConfig:
    """Self-Forcing of the Wan students, at a batch of 64: about 400 updates of the student (appendix D).

    The scan has lost the exponents of the learning rates: 2e-6 and, for the critic, 4e-7 are ours, being Self-Forcing's
    own, as betas, clipping and averaging are. That the 400 count the student's updates alone is our reading, too.
    """
    return TrainConfig(
        steps=400 * (SelfForcingConfig().critic_updates + 1),
        lr=2e-6,
        opponent_lr=4e-7,
        final_lr=1.0,
        betas=(0.0, 0.999),
        clip=10.0,
        ema=0.99,
        bf16=True,
    )


def debug(minutes: float | None = None) -> Recipe:
    """Everything once, at a size that means nothing: for tests."""
    short = TrainConfig(steps=2, log_every=1, checkpoint_every=1, validate_every=2, minutes=minutes)
    scene = SceneConfig(
        height=32,
        width=32,
        frames=45,
        sprite_radius=(5.0, 10.0),
        background_grid=6,
        sprite_grid=4,
        sprites=(1, 2),
    )
    return Recipe(
        model=preset("debug"),
        scene=scene,
        autoencoder=short,
        teacher=(short, short),
        causal=short,
        self_forcing=short,
        decoder=short,
        rollouts=SelfForcingConfig(critic_updates=1, sinks=(0, 1), windows=(1, 2)),
        long_frames=69,
        basis_batches=2,
        decoder_batch=2,
        batch=2,
        pool=4,
        reuse=2,
        trajectories=4,
    )


RECIPES = {"nano": nano, "debug": debug}
STAGES = ("autoencoder", "teacher", "causal", "self-forcing", "decoder")


def weights_path(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.safetensors"


def save_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in state.items()}, temporary)
    temporary.replace(path)


def save_average(run: Run, folder: Path, stage: str) -> None:
    """Write a finished run's averaged weights, from the first rank; every rank calls it, and goes on once they are."""
    average = run.average
    agree(lambda: save_weights(weights_path(folder, stage), average))


def _load(module: nn.Module, folder: Path, stage: str) -> None:
    path = weights_path(folder, stage)
    if not path.exists():
        raise ValueError(f"{path} is missing: train the {stage} stage first")
    module.load_state_dict(load_file(path))


def load_autoencoder(recipe: Recipe, folder: Path) -> LinearAutoencoder:
    assert isinstance(recipe.model.autoencoder, LinearAutoencoderConfig)
    autoencoder = LinearAutoencoder(recipe.model.autoencoder)
    _load(autoencoder, folder, "autoencoder")
    return autoencoder.eval().requires_grad_(False)


def train_autoencoder(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Principal components, then the residual decoder."""
    assert isinstance(recipe.model.autoencoder, LinearAutoencoderConfig)
    torch.manual_seed(recipe.seed)
    autoencoder = LinearAutoencoder(recipe.model.autoencoder)
    scene = replace(recipe.scene, frames=recipe.autoencoder_scene_frames)
    kept = fit_basis(autoencoder, scene, TextureBank(TRAIN), batches=recipe.basis_batches, seed=recipe.seed)
    say(f"{autoencoder.latent_channels} components keep {kept:.4f} of the energy")
    stage = DecoderStage(autoencoder, scene, TRAIN, HELD_OUT, batch=recipe.decoder_batch, seed=recipe.seed)
    run = train(stage, recipe.autoencoder, folder / "autoencoder", say=say)
    save_average(run, folder, "autoencoder")


def _pool(recipe: Recipe, folder: Path, mix: TrackMix, *, seed: int) -> ClipPool:
    return ClipPool(
        recipe.model,
        recipe.scene,
        mix,
        load_autoencoder(recipe, folder),
        TRAIN,
        size=recipe.pool,
        batch=recipe.batch,
        reuse=recipe.reuse,
        seed=seed,
    )


def _validation_clips(recipe: Recipe, folder: Path, frames: int | None = None) -> PreparedClips:
    """The same held-out clips in every stage, so that their figures can be compared; ``frames`` for another length."""
    generator = torch.Generator().manual_seed(0)
    scene = recipe.scene if frames is None else replace(recipe.scene, frames=frames)
    clips = render(scene, recipe.batch, 77_000_000, TextureBank(HELD_OUT))
    return prepare(clips, MotionModel(recipe.model), load_autoencoder(recipe, folder), TrackMix(drags=0.6), generator)


def train_teacher(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Flow matching in two phases; the track head is frozen in the second."""
    torch.manual_seed(recipe.seed)
    trainee = Trainee(recipe.model)
    validation = _validation_clips(recipe, folder)
    for phase, config in enumerate(recipe.teacher):
        if phase == 1:
            trainee.model.track_head.requires_grad_(False)
        mix = TrackMix(mask_probability=0.2 * phase)
        pool = _pool(recipe, folder, mix, seed=recipe.seed + 1_000_000 * (phase + 1))
        stage = TeacherStage(trainee, trainee.model, trainee.text, pool, validation, seed=recipe.seed + phase)
        run = train(stage, config, folder / f"teacher_phase{phase + 1}", say=say)
        run.use_average()
    save_average(run, folder, "teacher")


def train_causal(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Regression on the teacher's trajectories under sink and window masks of many sizes."""
    torch.manual_seed(recipe.seed)
    trainee = Trainee(recipe.model)
    _load(trainee, folder, "teacher")
    mix = TrackMix(mask_probability=0.1)
    source = _pool(recipe, folder, mix, seed=recipe.seed + 5_000_000)
    # the first rank solves them all, and the others read what it wrote
    shards = agree(
        lambda: make_trajectories(
            trainee.model,
            trainee.text,
            source,
            folder / "trajectories",
            count=recipe.trajectories,
            seed=recipe.seed,
            bf16=recipe.causal.bf16,
            guided=recipe.guided_trajectories,
            say=say,
        )
    )
    store = TrajectoryStore(shards)
    validation = _validation_clips(recipe, folder)
    trainee.model.track_head.requires_grad_(False)
    stage = CausalStage(trainee, trainee.model, trainee.text, store, validation, batch=recipe.batch, seed=recipe.seed)
    run = train(stage, recipe.causal, folder / "causal", say=say)
    save_average(run, folder, "causal")


def train_self_forcing(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """Distribution matching on the student's own rollouts, from the causal stage's weights."""
    torch.manual_seed(recipe.seed)
    student, teacher, critic = (Trainee(recipe.model) for _ in range(3))
    _load(student, folder, "causal")
    for network in (teacher, critic):
        _load(network, folder, "teacher")
    stage = SelfForcingStage(
        student,
        teacher,
        critic,
        _pool(recipe, folder, TrackMix(mask_probability=0.1), seed=recipe.seed + 7_000_000),
        _validation_clips(recipe, folder),
        _validation_clips(recipe, folder, recipe.long_frames),
        recipe.rollouts,
        seed=recipe.seed,
    )
    run = train(stage, recipe.self_forcing, folder / "self-forcing", say=say)
    save_average(run, folder, "self-forcing")


def train_decoder(recipe: Recipe, folder: Path, say: Say = print) -> None:
    """The residual decoder on the trajectories that the causal stage has left; encoder and latents stay as they are."""
    autoencoder = load_autoencoder(recipe, folder).requires_grad_(True)
    store = TrajectoryStore(sorted((folder / "trajectories").glob("*.safetensors")))
    stage = GeneratedDecoderStage(autoencoder, store, batch=recipe.decoder_batch, seed=recipe.seed)
    run = train(stage, recipe.decoder, folder / "decoder", say=say)
    save_average(run, folder, "decoder")


TRAINERS = {
    "autoencoder": train_autoencoder,
    "teacher": train_teacher,
    "causal": train_causal,
    "self-forcing": train_self_forcing,
    "decoder": train_decoder,
}


def export(recipe: Recipe, folder: Path, target: Path) -> None:
    """Make a model's folder of the finished stages in ``folder``, for ``MotionStreamPipeline.from_pretrained``.

    The student is Self-Forcing's where that stage is finished, the causal stage's otherwise; the folder says which.
    ``target`` is created, or its model replaced (other files in it stay). Everything is written beside it first, so
    that a failure leaves it as it was. Raises ValueError for a stage that is missing and a target that is no model's.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / "model.json").is_file()):
        raise ValueError(f"{target} is no model's folder and not empty; name a new one")
    autoencoder, trainee = load_autoencoder(recipe, folder), Trainee(recipe.model)
    stages = ["teacher", "causal"]
    if weights_path(folder, "self-forcing").exists():
        stages.append("self-forcing")
    _load(trainee, folder, stages[-1])
    _load(autoencoder, folder, "decoder")
    pipeline = MotionStreamPipeline(trainee.model, Components(autoencoder, trainee.text), stages=stages)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as temporary:
        pipeline.save_pretrained(temporary)
        # model.json last: it is what tells a model's folder.
        files = [path for path in Path(temporary).rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "model.json"):
            place = target / path.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
