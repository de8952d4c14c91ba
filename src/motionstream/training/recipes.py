"""Recipes: all the numbers of a training run. What is done with them stands in ``stages``.

Wan's are in ``wan_recipes``; ``named_recipes`` knows them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from motionstream.component_config import LinearAutoencoderConfig
from motionstream.config import CarryConfig, ModelConfig
from motionstream.data.procedural import SceneConfig, rich_scene
from motionstream.presets import nano as preset_nano
from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training.loop import TrainConfig
from motionstream.training.lora import LoraSettings
from motionstream.training.self_forcing import SelfForcingConfig
from motionstream.training.teacher import TeacherConfig
from motionstream.training.tiny_autoencoder import TinyTraining

STAGES = ("autoencoder", "mixer", "teacher", "causal", "decoder", "self-forcing", "tiny-decoder")


@dataclass(frozen=True)
class Rendered:
    """Clips drawn while training, see ``rendered_clips``."""

    scene: SceneConfig
    pool: int = 640
    reuse: int = 4
    turns: float = 0.0
    """Share of distillation's clips in which drags are let go and taken up anew, and nothing moves undragged."""
    long_frames: int = 141
    """Length of the held-out clips on which drift is measured, far beyond the training clips; whole chunks."""
    workers: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.turns <= 1:
            raise ValueError(f"turns = {self.turns}: a share of the clips lies in 0..1")


@dataclass(frozen=True)
class Shards:
    """Clips that ``motionstream prepare`` has written, see ``shard_clips``.

    ``folders``: one for every phase of the teacher, or one for all; distillation takes the last (the paper: a large
    real set, then a small clean synthetic one). ``held_out``: a folder for validation; without it the last folder's own
    clips are looked at, with other tracks.
    """

    folders: tuple[Path, ...]
    held_out: Path | None = None
    frames: int | None = None
    """Latent frames to train on; the whole clips when None."""
    workers: int = 2
    damaged: str = "refuse"

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("shards: name at least one folder that motionstream prepare has written")

    def folder(self, phase: int) -> Path:
        """Of a phase of the teacher; −1 for distillation."""
        return self.folders[phase if phase < len(self.folders) else -1]


@dataclass(frozen=True)
class Phase:
    """One phase of the teacher."""

    train: TrainConfig
    loss: TeacherConfig
    tracks: TrackMix
    track_head: bool = True
    """Whether the track head is trained; the paper freezes it after the first phase."""


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The linear autoencoder of small models: principal components, then its residual decoder."""

    train: TrainConfig
    decoder: TrainConfig
    """The residual decoder once more, at the end, on latents that the teacher made."""
    scene_frames: int = 21
    basis_batches: int = 40
    batch: int = 4


@dataclass(frozen=True)
class MixerRecipe:
    """The pixel mixer of models that carry content, on rendered clips."""

    train: TrainConfig
    batch: int = 8
    frames: int = 5
    """Of each clip, at random."""
    look: TrainConfig | None = None
    """Of what it sees, on still pictures, before the rest is trained on clips around it; None: both on clips."""
    outline: TrainConfig | None = None
    """Of what draws the things that are grasped, on still pictures before all else, where the mixer has such a part."""
    outline_batch: int = 8
    """Pictures."""
    tracks: TrackMix = field(default_factory=lambda: TrackMix(dense=0.1, random=0.15, drags=0.72))


@dataclass(frozen=True)
class TinyRecipe:
    """The tiny decoder (paper, appendix A) of the model's autoencoder, from nothing.

    Its clips are squares of ``side`` pixels: rendered ones where the recipe renders, else cut out of ``videos``.
    """

    train: TrainConfig
    loss: TinyTraining
    """Its seed is the recipe's."""
    frames: int = 21
    """Of a clip, its lead-in not counted."""
    side: int = 144
    held_out: int = 8
    """Clips for validation."""
    videos: Path | None = None
    """A folder of videos."""
    lpips: Path | None = None
    """What ``motionstream convert lpips`` has written; our stand-in when None."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frames % 4 != 1:
            raise ValueError(f"frames = {self.frames}: clips of the tiny decoder have 1 + 4k frames")

    @property
    def drawn_frames(self) -> int:
        """Of a clip with the longest lead-in."""
        return self.frames + 4 * self.loss.lead_in


@dataclass(frozen=True)
class Recipe:
    """All the numbers of a training run."""

    model: ModelConfig
    data: Rendered | Shards | None
    """None: it must be given, ``motionstream train --shards``."""
    teacher: tuple[Phase, ...]
    causal: TrainConfig
    self_forcing: TrainConfig
    """Its steps count the critic's updates too: one in ``critic_updates`` + 1 is the student's."""
    autoencoder: AutoencoderRecipe | None = None
    """None: the autoencoder is the base's, as it is."""
    mixer: MixerRecipe | None = None
    """Of ``model.carry.mixer``; None: the mixer is the base's, as it is."""
    tiny: TinyRecipe | None = None
    """Of ``model.tiny_decoder``; where either is None there is no such stage."""
    base: str | None = None
    """A model, by name or folder, whose autoencoder and encoders are used; and whose weights the teacher begins with,
    where it is a model of the same sizes."""
    lora: LoraSettings | None = None
    """Train low-rank matrices instead of the whole transformer."""
    student_lora: LoraSettings | None = None
    """Of the student's stages; ``lora`` when None."""
    student: Path | None = None
    """A transformer's checkpoint that the causal stage begins with instead of the teacher's weights."""
    forcing: Phase | None = None
    """The optional stage before the causal one, ``train teacher-forcing``; ``train all`` leaves it out. None: there is
    none."""
    tracks: TrackMix = field(default_factory=lambda: TrackMix(mask_probability=0.1))
    """Of causal initialisation and distillation."""
    batch: int = 8
    self_forcing_batch: int | None = None
    """``batch`` when None."""
    trajectories: int = 112
    guided_trajectories: bool = False
    """Under joint guidance (paper, appendix D), at three times the cost."""
    rollouts: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    validation_clips: int = 8
    seed: int = 0

    @property
    def stages(self) -> tuple[str, ...]:
        """What this recipe trains, in order; the tiny decoder only where there are clips for it."""
        left_out = set() if self.autoencoder is not None else {"autoencoder", "decoder"}
        if self.mixer is None or self.model.carry is None or self.model.carry.mixer is None:
            left_out.add("mixer")
        clips = self.tiny is not None and (self.tiny.videos is not None or isinstance(self.data, Rendered))
        if self.model.tiny_decoder is None or not clips:
            left_out.add("tiny-decoder")
        return tuple(stage for stage in STAGES if stage not in left_out)

    @property
    def optional_stages(self) -> tuple[str, ...]:
        """What this recipe trains where it is asked for by name."""
        return () if self.forcing is None else ("teacher-forcing",)

    @property
    def own_autoencoder(self) -> AutoencoderRecipe:
        """ValueError where the autoencoder is not trained."""
        if self.autoencoder is None:
            raise ValueError(f"the autoencoder of {self.model.name!r} is not trained: it comes from the base model")
        assert isinstance(self.model.autoencoder, LinearAutoencoderConfig)
        return self.autoencoder

    @property
    def own_tiny(self) -> TinyRecipe:
        """ValueError where no tiny decoder is trained, or there are no clips for it."""
        if self.tiny is None or self.model.tiny_decoder is None:
            raise ValueError(f"the recipe for {self.model.name} trains no tiny decoder")
        if "tiny-decoder" not in self.stages:
            raise ValueError(f"the tiny decoder of {self.model.name} is trained on videos: name a folder (--videos)")
        return self.tiny


def with_data(
    recipe: Recipe,
    shards: tuple[Path, ...] = (),
    held_out: Path | None = None,
    base: str | None = None,
    *,
    videos: Path | None = None,
    lpips: Path | None = None,
) -> Recipe:
    """The recipe on prepared clips and with a base model, as far as they are given; ``videos`` and ``lpips`` are the
    tiny decoder's.

    On prepared clips the autoencoder is the base's: the clips were encoded by it. Raises ValueError where no base is
    named, and for options that the recipe has no use for.
    """
    if recipe.tiny is not None:
        tiny = replace(recipe.tiny, videos=videos or recipe.tiny.videos, lpips=lpips or recipe.tiny.lpips)
        recipe = replace(recipe, tiny=tiny)
    elif videos is not None or lpips is not None:
        raise ValueError(f"--videos, --lpips: the recipe for {recipe.model.name} trains no tiny decoder")
    if base is not None:
        recipe = replace(recipe, base=base)
    if shards:
        if recipe.base is None:
            raise ValueError("--shards needs --base, the model that they were prepared with")
        before = recipe.data if isinstance(recipe.data, Shards) else Shards(shards)
        data = replace(before, folders=shards, held_out=held_out)
        recipe = replace(recipe, data=data, autoencoder=None, mixer=None)
    elif held_out is not None:
        raise ValueError(f"--held-out {held_out}: only with --shards; rendered clips have held-out photographs")
    return recipe


def in_parts(recipe: Recipe, accumulate: int) -> Recipe:
    """The diffusion stages' batches taken in so many micro-batches, for fewer GPUs than the recipe was written for."""
    return _diffusion_changed(recipe, lambda train: replace(train, accumulate=accumulate))


def in_float32(recipe: Recipe) -> Recipe:
    """Without mixed precision, for processors whose bfloat16 products are slower (``hardware.bfloat16_pays``)."""

    def changed(train: TrainConfig) -> TrainConfig:
        return replace(train, bf16=False)

    own, mixer, tiny = recipe.autoencoder, recipe.mixer, recipe.tiny
    recipe = replace(
        recipe,
        autoencoder=own and replace(own, train=changed(own.train), decoder=changed(own.decoder)),
        mixer=mixer
        and replace(
            mixer,
            train=changed(mixer.train),
            look=mixer.look and changed(mixer.look),
            outline=mixer.outline and changed(mixer.outline),
        ),
        tiny=tiny and replace(tiny, train=changed(tiny.train)),
    )
    return _diffusion_changed(recipe, changed)


def _diffusion_changed(recipe: Recipe, changed: Callable[[TrainConfig], TrainConfig]) -> Recipe:
    forcing = recipe.forcing
    return replace(
        recipe,
        teacher=tuple(replace(phase, train=changed(phase.train)) for phase in recipe.teacher),
        forcing=forcing and replace(forcing, train=changed(forcing.train)),
        causal=changed(recipe.causal),
        self_forcing=changed(recipe.self_forcing),
    )


def check_data(recipe: Recipe) -> None:
    """ValueError for a recipe that has nothing to train on."""
    if recipe.data is None and (recipe.tiny is None or recipe.tiny.videos is None):
        raise ValueError(f"a recipe for {recipe.model.name} needs --shards, folders that motionstream prepare wrote")


def nano(minutes: float | None = None) -> Recipe:
    """The embedded model. ``minutes`` is the budget of all stages together (None: full length, many CPU hours)."""

    def part(share: float) -> float | None:
        return None if minutes is None else minutes * share

    loss = TeacherConfig(shift=3.0)
    tiny = TinyTraining(
        batch=4, adversarial_start=4000, adversarial_ramp=1000, discriminator_channels=32, replay=2, workers=1
    )
    prior = TrainConfig(steps=1000, lr=1e-3, minutes=part(0.04), warmup=10, bf16=True)
    first = TrainConfig(steps=60_000, lr=1e-3, minutes=part(0.16), bf16=True)
    second = TrainConfig(steps=10_000, lr=3e-4, minutes=part(0.04), warmup=10, bf16=True)
    return Recipe(
        model=preset("nano"),
        data=Rendered(rich_scene(SceneConfig(frames=57)), turns=0.7),
        autoencoder=AutoencoderRecipe(
            train=TrainConfig(steps=4000, lr=1e-3, minutes=part(0.08), validate_every=200),
            decoder=TrainConfig(steps=3000, lr=5e-4, minutes=part(0.05), bf16=True),
        ),
        mixer=MixerRecipe(
            TrainConfig(steps=20_000, lr=2e-3, minutes=part(0.1), bf16=True, ema=0.99, betas=(0.9, 0.99)),
            look=TrainConfig(steps=40_000, lr=2e-3, minutes=part(0.05), bf16=True, ema=0.99, betas=(0.9, 0.99)),
            outline=TrainConfig(steps=20_000, lr=1.5e-3, minutes=part(0.1), bf16=True, ema=0.998, betas=(0.9, 0.999)),
        ),
        # what the prior says is the transformer's unit: first things first
        teacher=(
            Phase(prior, replace(loss, flow_weight=0.0), TrackMix(mask_probability=0.1)),
            Phase(first, loss, TrackMix()),
            Phase(second, loss, TrackMix(mask_probability=0.2), track_head=False),
        ),
        forcing=Phase(TrainConfig(steps=10_000, lr=3e-4, minutes=part(0.16), bf16=True), loss, TrackMix()),
        causal=TrainConfig(steps=20_000, lr=5e-4, minutes=part(0.12), bf16=True),
        self_forcing=TrainConfig(
            steps=3600,
            lr=3e-4,
            warmup=10,
            betas=(0.9, 0.999),
            ema=0.98,
            final_lr=0.03,
            minutes=part(0.21),
            validate_every=300,
            bf16=True,
        ),
        self_forcing_batch=2,
        tiny=TinyRecipe(
            train=TrainConfig(steps=tiny.loop_steps(6000), lr=1e-3, minutes=part(0.05), validate_every=500, bf16=True),
            loss=tiny,
            frames=13,
            side=64,
        ),
        # regression of its own rollouts instead of distribution matching: this small teacher is no better than what is
        # carried, and the clips are at hand (docs/log.md)
        rollouts=SelfForcingConfig(
            score_weight=0.0,
            regression_weight=1.0,
            regression_to="median",
            sinks=(0, 1),
            windows=(1,),
            guided=False,
        ),
    )


def nano_ids(minutes: float | None = None) -> Recipe:
    """``nano`` with the paper's random ids and no carried content, on the same clips: what a transformer of this size
    has to learn by itself. ``minutes`` is the teacher's; its autoencoder is the embedded model's."""
    whole = nano()
    train = replace(whole.teacher[1].train, minutes=minutes, validate_every=200)
    return replace(
        whole,
        model=preset("nano-ids"),
        base="nano",
        autoencoder=None,
        mixer=None,
        teacher=(replace(whole.teacher[1], train=train),),
        rollouts=SelfForcingConfig(sinks=(0, 1), windows=(1,), guided=False),
    )


def nano_debug(minutes: float | None = None) -> Recipe:
    """``runs/nano-debug.sh``: a small relative of ``nano`` on prepared clips, a few steps of everything."""
    few = TrainConfig(steps=8, lr=1e-3, warmup=2, log_every=2, checkpoint_every=4, validate_every=8, minutes=minutes)
    loss = TeacherConfig(shift=3.0)
    return Recipe(
        model=replace(preset_nano(width=64, layers=2), name="nano-debug", carry=CarryConfig()),
        data=None,
        teacher=(
            Phase(few, loss, TrackMix()),
            Phase(few, loss, TrackMix(mask_probability=0.2), track_head=False),
        ),
        causal=few,
        self_forcing=replace(few, lr=1e-4),
        tiny=TinyRecipe(few, TinyTraining(batch=2, adversarial_weight=0), frames=9, side=64, held_out=2),
        rollouts=SelfForcingConfig(critic_updates=1, sinks=(0, 1), windows=(1, 2), guided=False),
        batch=2,
        trajectories=4,
        validation_clips=2,
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
    loss = TeacherConfig(shift=3.0)
    return Recipe(
        model=preset("debug"),
        data=Rendered(scene, pool=4, reuse=2, long_frames=69),
        autoencoder=AutoencoderRecipe(train=short, decoder=short, basis_batches=2, batch=2),
        mixer=MixerRecipe(short, batch=2, frames=2, look=short, outline=short, outline_batch=2),
        teacher=(
            Phase(short, loss, TrackMix()),
            Phase(short, loss, TrackMix(mask_probability=0.2), track_head=False),
        ),
        forcing=Phase(short, loss, TrackMix()),
        causal=short,
        self_forcing=short,
        tiny=tiny_debug(replace(short, steps=3)),
        rollouts=SelfForcingConfig(critic_updates=1, sinks=(0, 1), windows=(1, 2)),
        batch=2,
        trajectories=4,
        validation_clips=2,
    )


def tiny_debug(train: TrainConfig) -> TinyRecipe:
    """Everything of the tiny decoder once, the discriminator included: for tests."""
    loss = TinyTraining(batch=2, adversarial_start=1, adversarial_ramp=1, discriminator_channels=8, replay=1)
    return TinyRecipe(train, loss, frames=9, side=32, held_out=2)
