"""Recipes for Wan: the paper's settings (appendix D), and affordable ones for one, two, four or eight GPUs.

In our scan of the paper most exponents of the learning rates are illegible. The teacher's 1e-5 and 1e-6 are ours; 2e-6
for causal initialisation is legible. Learning rates (2e-6, critic 4e-7), betas, clipping and averaging of distillation
are Self-Forcing's. We assume that the 400 steps of distillation count only the student's updates. Batches are global;
each GPU processes its share clip by clip (``micro_batch``), since a clip's tens of thousands of tokens occupy it fully.
"""

from __future__ import annotations

from dataclasses import replace

from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training.diffusion.lora import LoraSettings
from motionstream.training.diffusion.self_forcing import SelfForcingConfig
from motionstream.training.diffusion.teacher import TeacherConfig
from motionstream.training.loop.run import TrainConfig
from motionstream.training.parts.tiny_autoencoder import paper_recipe
from motionstream.training.recipes.nano import tiny_debug
from motionstream.training.recipes.recipe import Phase, Recipe, TinyRecipe, part
from motionstream.wan_presets import TINY_WAN22_LARGE

IMAGE_BRANCH = ("image_embedder", "add_k_proj", "add_v_proj", "norm_added")
"""Layers that a text-to-video student lacks: initialised to zero and trained fully, not by LoRA."""


def _tracks(height: int) -> TrackMix:
    """1,000 to 2,500 of the 50×50 grid's tracks (paper), mixed with tracks like those that people draw (ours)."""
    return TrackMix(
        dense=0.6,
        random=0.15,
        drags=0.2,
        max_tracks=2500,
        dense_tracks=1000,
        radius=(height / 32, height / 6),  # nano's, relative to the picture
    )


def _loop(steps: int, lr: float, minutes: float | None) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        lr=lr,
        minutes=minutes,
        warmup=100,
        final_lr=1.0,
        betas=(0.9, 0.999),
        ema=0.999,
        bf16=True,
        shard=True,
        recompute=True,
        background_checkpoints=True,
        checkpoint_every=200,
        validate_every=400,
    )


def paper_self_forcing(minutes: float | None = None, *, updates: int = 400) -> TrainConfig:
    """Self-Forcing of the Wan students: by default 400 updates of the student, in the paper at a batch of 64."""
    steps = updates * (SelfForcingConfig().critic_updates + 1)
    return replace(
        _loop(steps, 2e-6, minutes),
        opponent_lr=4e-7,
        betas=(0.0, 0.999),
        clip=10.0,
        ema=0.99,
        frozen_dtype="bfloat16",
    )


def _wan(name: str, second_steps: int, minutes: float | None) -> Recipe:
    """``minutes``: budget of all stages together, except the optional teacher forcing, which takes a tenth more."""
    model = preset(name)
    tracks = _tracks(model.size[0])
    loss = TeacherConfig(shift=6.0, image_dropout=0.1)
    tiny, tiny_loss = paper_recipe()
    return Recipe(
        model=model,
        data=None,
        teacher=(
            Phase(_loop(4800, 1e-5, part(minutes, 0.4)), loss, tracks),
            Phase(
                _loop(second_steps, 1e-6, part(minutes, 0.1)),
                loss,
                replace(tracks, mask_probability=0.2),
                track_head=False,
            ),
        ),
        forcing=Phase(_loop(2000, 5e-6, part(minutes, 0.1)), loss, tracks),
        causal=_loop(2000, 2e-6, part(minutes, 0.1)),
        self_forcing=paper_self_forcing(part(minutes, 0.3)),
        tiny=TinyRecipe(replace(tiny, minutes=part(minutes, 0.1)), tiny_loss),
        tracks=replace(tracks, mask_probability=0.2),
        batch=128,
        self_forcing_batch=64,
        micro_batch=1,
        trajectories=4000,
        guided_trajectories=True,
        validation_clips=4,
    )


def wan21(minutes: float | None = None) -> Recipe:
    """The paper's main model: 4,800 + 800 steps of the teacher at 832×480."""
    return _wan("wan2.1-1.3b", 800, minutes)


def wan22(minutes: float | None = None) -> Recipe:
    """The paper's large model: 4,800 + 400 steps of the teacher at 1280×704, with the large variant of the tiny
    decoder."""
    recipe = _wan("wan2.2-5b", 400, minutes)
    return replace(recipe, model=replace(recipe.model, tiny_decoder=TINY_WAN22_LARGE))


def affordable(recipe: Recipe, *, shard: bool = False) -> Recipe:
    """The recipe for one, two, four or eight GPUs: LoRA, with the patch embedding for the tracks trained fully, smaller
    batches, fewer steps, and the same minutes. The numbers are ours.

    ``shard``: divide Self-Forcing's three networks among the GPUs. According to the dry run each GPU of 80 GB can hold
    those of the 1.3B model whole, but not those of the 5B model.

    The student may start from a public causal student (``--student``), which can stream already, so that the causal
    stage only needs to teach it tracks.
    """
    phases = tuple(
        replace(phase, train=_loop(steps, 1e-4, phase.train.minutes))
        for phase, steps in zip(recipe.teacher, (2000, 400), strict=True)
    )
    causal = _loop(1000, 5e-5, recipe.causal.minutes)
    distillation = paper_self_forcing(recipe.self_forcing.minutes, updates=300)
    distillation = replace(distillation, lr=2e-5, opponent_lr=1e-5)
    assert recipe.tiny is not None
    tiny = replace(recipe.tiny.loss, batch=8, adversarial_start=10_000, adversarial_ramp=5000, workers=8)
    return replace(
        recipe,
        teacher=tuple(replace(phase, train=replace(phase.train, shard=False)) for phase in phases),
        forcing=replace(phases[0], train=replace(causal, shard=False)),
        causal=replace(causal, shard=False),
        self_forcing=replace(distillation, shard=shard),
        tiny=replace(recipe.tiny, train=replace(recipe.tiny.train, steps=tiny.loop_steps(50_000)), loss=tiny),
        batch=8,
        self_forcing_batch=8,
        trajectories=500,
        lora=LoraSettings(),
        student_lora=LoraSettings(whole=("patch_embedding", *IMAGE_BRANCH)),
    )


def debug_wan(name: str, minutes: float | None = None) -> Recipe:
    """A short run of every stage of a Wan recipe on its debug model, for tests."""
    fifth = part(minutes, 0.2)  # of the five runs
    short = TrainConfig(steps=2, log_every=1, checkpoint_every=1, validate_every=2, warmup=1, minutes=fifth)
    tracks = TrackMix(max_tracks=20, radius=(4.0, 30.0))
    loss = TeacherConfig(image_dropout=0.5, weighting="bell")
    return Recipe(
        model=preset(name),
        data=None,
        teacher=(Phase(short, loss, tracks), Phase(short, loss, tracks, track_head=False)),
        forcing=Phase(short, loss, tracks),
        causal=short,
        self_forcing=replace(short, steps=4, frozen_dtype="bfloat16"),
        tiny=tiny_debug(replace(short, steps=3)),
        rollouts=SelfForcingConfig(critic_updates=1, sinks=(0, 1), windows=(0, 1)),
        tracks=tracks,
        batch=2,
        trajectories=2,
        guided_trajectories=True,
        validation_clips=1,
    )
