"""Recipes: all the numbers of a training run. What is done with them stands in ``stages``.

``nano_recipes`` and ``wan_recipes`` have them; ``named_recipes`` knows all by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from motionstream.component_config import LinearAutoencoderConfig
from motionstream.config import ModelConfig
from motionstream.data.procedural import SceneConfig
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
    scene: SceneConfig | None = None
    """Of rendered clips, validation's too; the recipe's when None. Small pictures teach cheaply."""
    batch: int | None = None
    """The recipe's when None."""


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
    micro_batch: int | None = None
    """Clips of the diffusion stages that a GPU takes at a time, at most: ``on_gpus`` sets ``accumulate`` by it. None:
    as ``accumulate`` says."""
    trajectories: int = 112
    guided_trajectories: bool = False
    """Under joint guidance (paper, appendix D), at three times the cost."""
    rollouts: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    validation_clips: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch = {self.micro_batch}: a GPU takes at least 1 clip at a time")

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
    def latent_frames(self) -> int:
        """Of a training clip; prepared ones are taken to be as long as the model's own."""
        if isinstance(self.data, Shards) and self.data.frames is not None:
            return self.data.frames
        frames = self.data.scene.frames if isinstance(self.data, Rendered) else self.model.clip_frames
        return (frames - 1) // self.model.temporal_compression + 1

    @property
    def optional_stages(self) -> tuple[str, ...]:
        """What this recipe trains where it is asked for by name."""
        return () if self.forcing is None else ("teacher-forcing",)

    def in_phase(self, number: int) -> Recipe:
        """With the clips and the batch of a phase of the teacher."""
        phase, recipe = self.teacher[number], self
        if phase.scene is not None:
            if not isinstance(self.data, Rendered):
                raise ValueError(f"phase {number + 1} of {self.model.name} is for rendered clips: leave out its scene")
            recipe = replace(recipe, data=replace(self.data, scene=phase.scene))
        return recipe if phase.batch is None else replace(recipe, batch=phase.batch)

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


def part(minutes: float | None, share: float) -> float | None:
    """A run's share of the budget of all stages together; None where there is none."""
    return None if minutes is None else minutes * share


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
        teacher = tuple(replace(phase, scene=None, batch=None) for phase in recipe.teacher)
        recipe = replace(recipe, data=data, autoencoder=None, mixer=None, teacher=teacher)
    elif held_out is not None:
        raise ValueError(f"--held-out {held_out}: only with --shards; rendered clips have held-out photographs")
    return recipe


def in_parts(recipe: Recipe, accumulate: int) -> Recipe:
    """The diffusion stages' batches taken in so many micro-batches, whatever a GPU then takes at a time."""
    recipe = replace(recipe, micro_batch=None)
    return _diffusion_changed(recipe, lambda train, batch: replace(train, accumulate=accumulate))


def on_gpus(recipe: Recipe, gpus: int) -> Recipe:
    """The diffusion stages' batches taken in the fewest micro-batches of at most ``micro_batch`` clips on each of so
    many GPUs. Batches that do not divide among them still do not: the stages refuse those."""
    most = recipe.micro_batch
    if most is None:
        return recipe

    def changed(train: TrainConfig, batch: int) -> TrainConfig:
        share = max(1, batch // gpus)
        parts = next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= most)
        return replace(train, accumulate=parts)

    return _diffusion_changed(recipe, changed)


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
    return _diffusion_changed(recipe, lambda train, batch: changed(train))


def _diffusion_changed(recipe: Recipe, changed: Callable[[TrainConfig, int], TrainConfig]) -> Recipe:
    """``changed`` is given a run and its batch."""
    forcing, batch = recipe.forcing, recipe.batch
    return replace(
        recipe,
        teacher=tuple(replace(phase, train=changed(phase.train, phase.batch or batch)) for phase in recipe.teacher),
        forcing=forcing and replace(forcing, train=changed(forcing.train, batch)),
        causal=changed(recipe.causal, batch),
        self_forcing=changed(recipe.self_forcing, recipe.self_forcing_batch or batch),
    )


def check_data(recipe: Recipe) -> None:
    """ValueError for a recipe that has nothing to train on."""
    if recipe.data is None and (recipe.tiny is None or recipe.tiny.videos is None):
        raise ValueError(f"a recipe for {recipe.model.name} needs --shards, folders that motionstream prepare wrote")
