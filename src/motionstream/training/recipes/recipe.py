"""Recipes: all settings of a training run. ``stages`` runs them.

``nano`` and ``wan`` define recipes; ``named`` finds them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from motionstream.component_config import LinearAutoencoderConfig
from motionstream.config import ModelConfig
from motionstream.data.procedural import SceneConfig
from motionstream.tracks.sampling import TrackMix
from motionstream.training.diffusion.lora import LoraSettings
from motionstream.training.diffusion.self_forcing import SelfForcingConfig
from motionstream.training.diffusion.teacher import TeacherConfig
from motionstream.training.loop.run import TrainConfig
from motionstream.training.parts.tiny_autoencoder import TinyTraining

STAGES = ("autoencoder", "mixer", "teacher", "causal", "decoder", "self-forcing", "tiny-decoder")


@dataclass(frozen=True)
class Rendered:
    """Clips rendered during training, see ``clips/rendered.py``."""

    scene: SceneConfig
    pool: int = 640
    reuse: int = 4
    turns: float = 0.0
    """Share of the distillation clips in which drags are released and resumed and only dragged things move
    (``turns``)."""
    long_frames: int = 141
    """Length in frames of the held-out clips that measure drift, far longer than training clips; whole chunks."""
    workers: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.turns <= 1:
            raise ValueError(f"turns = {self.turns}: a share of the clips lies in 0..1")


@dataclass(frozen=True)
class Shards:
    """Clips written by ``motionstream prepare``, see ``clips/shards.py``.

    ``folders``: one per phase of the teacher, or one for all; distillation uses the last (in the paper, a large real
    data set, then a small clean synthetic one). ``held_out``: a folder for validation; when None, validation uses clips
    of the last folder, with other tracks.
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
        """The folder for a phase of the teacher; −1 for distillation."""
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
    """Scene of rendered clips, for training and validation; the recipe's when None. Small pictures train cheaply."""
    batch: int | None = None
    """Clips; the recipe's when None."""


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The linear autoencoder of small models: principal components, then its residual decoder."""

    train: TrainConfig
    decoder: TrainConfig
    """Fine-tuning of the residual decoder at the end, on latents that the teacher generated."""
    scene_frames: int = 21
    basis_batches: int = 40
    batch: int = 4


@dataclass(frozen=True)
class MixerRecipe:
    """The pixel mixer of models that carry content, trained on rendered clips."""

    train: TrainConfig
    batch: int = 8
    frames: int = 5
    """Random frames of each clip that a step trains on."""
    look: TrainConfig | None = None
    """Trains the part that looks at pictures, on still pictures, before the rest is trained on clips with it frozen.
    None: both on clips."""
    outline: TrainConfig | None = None
    """Trains the part that outlines grasped things, on still pictures and first of all, if the mixer has one."""
    outline_batch: int = 8
    """Pictures per step."""
    tracks: TrackMix = field(default_factory=lambda: TrackMix(dense=0.1, random=0.15, drags=0.72))


@dataclass(frozen=True)
class TinyRecipe:
    """The tiny decoder (paper, appendix A) of the model's autoencoder, trained from scratch.

    Clips are squares of ``side`` pixels: crops of ``videos`` if given, else rendered.
    """

    train: TrainConfig
    loss: TinyTraining
    """Its seed is replaced by the recipe's."""
    frames: int = 21
    """Frames per clip, without the lead-in."""
    side: int = 144
    held_out: int = 8
    """Clips for validation."""
    videos: Path | None = None
    """A folder of videos."""
    lpips: Path | None = None
    """A file written by ``motionstream convert lpips``; our stand-in when None."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frames % 4 != 1:
            raise ValueError(f"frames = {self.frames}: clips of the tiny decoder have 1 + 4k frames")

    @property
    def drawn_frames(self) -> int:
        """Frames per clip with the longest lead-in."""
        return self.frames + 4 * self.loss.lead_in


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run."""

    model: ModelConfig
    data: Rendered | Shards | None
    """None: the user must give prepared clips (``motionstream train --shards``)."""
    teacher: tuple[Phase, ...]
    causal: TrainConfig
    self_forcing: TrainConfig
    """Its steps include the critic's updates: one in ``critic_updates`` + 1 updates the student."""
    autoencoder: AutoencoderRecipe | None = None
    """None: the base model's autoencoder is used unchanged."""
    mixer: MixerRecipe | None = None
    """Trains ``model.carry.mixer``; None: the base model's mixer is used unchanged."""
    tiny: TinyRecipe | None = None
    """Trains ``model.tiny_decoder``; if either is None there is no such stage."""
    base: str | None = None
    """A model, by name or folder, whose autoencoder and encoders are used. If its transformer has the same sizes, the
    teacher starts from its weights."""
    lora: LoraSettings | None = None
    """Train low-rank matrices instead of the whole transformer."""
    student_lora: LoraSettings | None = None
    """LoRA of the student's stages; ``lora`` when None."""
    student: Path | None = None
    """Checkpoint of a transformer from which the student starts instead of the teacher's weights."""
    forcing: Phase | None = None
    """The optional stage before the causal one, run by ``train teacher-forcing`` but not by ``train all``. None: no
    such stage."""
    tracks: TrackMix = field(default_factory=lambda: TrackMix(mask_probability=0.1))
    """Tracks of causal initialisation and distillation."""
    batch: int = 8
    self_forcing_batch: int | None = None
    """Clips; ``batch`` when None."""
    micro_batch: int | None = None
    """Maximum number of clips per GPU at a time in the diffusion stages: ``on_gpus`` sets ``accumulate`` accordingly.
    None: ``accumulate`` stays as it is."""
    trajectories: int = 112
    guided_trajectories: bool = False
    """Solve the trajectories under joint guidance (paper, appendix D), at three times the cost."""
    rollouts: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    light: bool = False
    """Self-Forcing regresses rollouts to the carried picture in the light that a sentence asks for instead of to the
    clips (``clips/light.py``); for rendered clips and models that carry content."""
    validation_clips: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch = {self.micro_batch}: a GPU takes at least 1 clip at a time")
        if self.light:
            self._check_light()

    def _check_light(self) -> None:
        """Raise ValueError if Self-Forcing cannot learn light."""
        if self.model.carry is None:
            raise ValueError(f"light: {self.model.name} carries no picture that could be shown in another light")
        if not isinstance(self.data, Rendered):
            raise ValueError("light: only of rendered clips is it known that their light is even; leave it out")
        if self.rollouts.own_content:
            raise ValueError("light: own_content must be off, since the targets are made of the prepared content")
        if self.rollouts.score_weight or not self.rollouts.regression_weight:
            raise ValueError(
                "light is learnt by regression alone: score_weight must be 0 and regression_weight above 0, not "
                f"{self.rollouts.score_weight:g} and {self.rollouts.regression_weight:g}"
            )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this recipe, in order; the tiny decoder only if there are clips for it."""
        left_out = set() if self.autoencoder is not None else {"autoencoder", "decoder"}
        if self.mixer is None or self.model.carry is None or self.model.carry.mixer is None:
            left_out.add("mixer")
        clips = self.tiny is not None and (self.tiny.videos is not None or isinstance(self.data, Rendered))
        if self.model.tiny_decoder is None or not clips:
            left_out.add("tiny-decoder")
        return tuple(stage for stage in STAGES if stage not in left_out)

    @property
    def latent_frames(self) -> int:
        """Latent frames of a training clip; prepared clips are assumed to have the model's own length."""
        if isinstance(self.data, Shards) and self.data.frames is not None:
            return self.data.frames
        frames = self.data.scene.frames if isinstance(self.data, Rendered) else self.model.clip_frames
        return (frames - 1) // self.model.temporal_compression + 1

    @property
    def optional_stages(self) -> tuple[str, ...]:
        """Stages that run only when requested by name."""
        return () if self.forcing is None else ("teacher-forcing",)

    def in_phase(self, number: int) -> Recipe:
        """The recipe with the clips and the batch of a phase of the teacher."""
        phase, recipe = self.teacher[number], self
        if phase.scene is not None:
            if not isinstance(self.data, Rendered):
                raise ValueError(f"phase {number + 1} of {self.model.name} is for rendered clips: leave out its scene")
            recipe = replace(recipe, data=replace(self.data, scene=phase.scene))
        return recipe if phase.batch is None else replace(recipe, batch=phase.batch)

    @property
    def own_autoencoder(self) -> AutoencoderRecipe:
        """The autoencoder's recipe. Raises ValueError if there is none."""
        if self.autoencoder is None:
            raise ValueError(f"the autoencoder of {self.model.name!r} is not trained: it comes from the base model")
        assert isinstance(self.model.autoencoder, LinearAutoencoderConfig)
        return self.autoencoder

    @property
    def own_tiny(self) -> TinyRecipe:
        """The tiny decoder's recipe. Raises ValueError if there is none, or no clips for it."""
        if self.tiny is None or self.model.tiny_decoder is None:
            raise ValueError(f"the recipe for {self.model.name} trains no tiny decoder")
        if "tiny-decoder" not in self.stages:
            raise ValueError(f"the tiny decoder of {self.model.name} is trained on videos: name a folder (--videos)")
        return self.tiny


def part(minutes: float | None, share: float) -> float | None:
    """A stage's share, in minutes, of the budget of all stages; None if there is no budget."""
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
    """The recipe with the given prepared clips, base model, and videos and LPIPS weights for the tiny decoder.

    With a base the autoencoder and the pixel mixer are the base's. Raises ValueError for prepared clips without a base,
    which has encoded them, and for options that the recipe does not use.
    """
    if recipe.tiny is not None:
        tiny = replace(recipe.tiny, videos=videos or recipe.tiny.videos, lpips=lpips or recipe.tiny.lpips)
        recipe = replace(recipe, tiny=tiny)
    elif videos is not None or lpips is not None:
        raise ValueError(f"--videos, --lpips: the recipe for {recipe.model.name} trains no tiny decoder")
    if base is not None:
        recipe = replace(recipe, base=base, autoencoder=None, mixer=None)
    if shards:
        if recipe.base is None:
            raise ValueError("--shards needs --base, the model that they were prepared with")
        before = recipe.data if isinstance(recipe.data, Shards) else Shards(shards)
        data = replace(before, folders=shards, held_out=held_out)
        teacher = tuple(replace(phase, scene=None, batch=None) for phase in recipe.teacher)
        rollouts = recipe.rollouts
        if recipe.light:  # towards the clips instead, which the tracks determine only where the prior is sure
            rollouts = replace(rollouts, regression_to="median", regression_evenly=False, own_content=True)
        recipe = replace(recipe, data=data, teacher=teacher, rollouts=rollouts, light=False)
    elif held_out is not None:
        raise ValueError(f"--held-out {held_out}: only with --shards; rendered clips have held-out photographs")
    return recipe


def in_parts(recipe: Recipe, accumulate: int) -> Recipe:
    """Set ``accumulate`` for all diffusion stages, whatever ``micro_batch`` is."""
    recipe = replace(recipe, micro_batch=None)
    return _diffusion_changed(recipe, lambda train, batch: replace(train, accumulate=accumulate))


def on_gpus(recipe: Recipe, gpus: int) -> Recipe:
    """Divide the diffusion stages' batches into the fewest micro-batches of at most ``micro_batch`` clips per GPU.
    Batches that do not divide among the GPUs are left to the stages, which refuse them."""
    most = recipe.micro_batch
    if most is None:
        return recipe

    def changed(train: TrainConfig, batch: int) -> TrainConfig:
        share = max(1, batch // gpus)
        parts = next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= most)
        return replace(train, accumulate=parts)

    return _diffusion_changed(recipe, changed)


def in_float32(recipe: Recipe) -> Recipe:
    """The recipe without mixed precision, for CPUs on which bfloat16 is slower (``hardware.bfloat16_pays``)."""

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
    """Replace the diffusion stages' training configurations; ``changed`` receives each with its batch."""
    forcing, batch = recipe.forcing, recipe.batch
    return replace(
        recipe,
        teacher=tuple(replace(phase, train=changed(phase.train, phase.batch or batch)) for phase in recipe.teacher),
        forcing=forcing and replace(forcing, train=changed(forcing.train, batch)),
        causal=changed(recipe.causal, batch),
        self_forcing=changed(recipe.self_forcing, recipe.self_forcing_batch or batch),
    )


def check_data(recipe: Recipe) -> None:
    """Raise ValueError for a recipe without training data."""
    if recipe.data is None and (recipe.tiny is None or recipe.tiny.videos is None):
        raise ValueError(f"a recipe for {recipe.model.name} needs --shards, folders that motionstream prepare wrote")
