"""Recipes for the embedded model, for the model it is compared with, and for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from motionstream.config import CarryConfig
from motionstream.data.procedural import SceneConfig, rich_scene
from motionstream.presets import nano as preset_nano
from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training.diffusion.self_forcing import SelfForcingConfig
from motionstream.training.diffusion.teacher import TeacherConfig
from motionstream.training.loop.run import TrainConfig
from motionstream.training.parts.tiny_autoencoder import TinyTraining
from motionstream.training.recipes.recipe import (
    AutoencoderRecipe,
    MixerRecipe,
    Phase,
    Recipe,
    Rendered,
    TinyRecipe,
    part,
)


def nano(minutes: float | None = None) -> Recipe:
    """The embedded model. ``minutes``: budget of all stages together; None trains at full length, many CPU hours."""
    loss = TeacherConfig(shift=3.0)
    tiny = TinyTraining(
        batch=4, adversarial_start=4000, adversarial_ramp=1000, discriminator_channels=32, replay=2, workers=1
    )
    prior = TrainConfig(steps=1000, lr=1e-3, minutes=part(minutes, 0.04), warmup=10, bf16=True)
    first = TrainConfig(steps=60_000, lr=1e-3, minutes=part(minutes, 0.16), bf16=True)
    second = TrainConfig(steps=10_000, lr=3e-4, minutes=part(minutes, 0.04), warmup=10, bf16=True)
    return Recipe(
        model=preset("nano"),
        data=Rendered(rich_scene(SceneConfig(frames=45)), reuse=12, turns=0.7),
        autoencoder=AutoencoderRecipe(
            train=TrainConfig(steps=4000, lr=1e-3, minutes=part(minutes, 0.08), validate_every=200),
            decoder=TrainConfig(steps=3000, lr=5e-4, minutes=part(minutes, 0.05), bf16=True),
        ),
        mixer=MixerRecipe(
            TrainConfig(steps=20_000, lr=2e-3, minutes=part(minutes, 0.1), bf16=True, ema=0.99, betas=(0.9, 0.99)),
            look=TrainConfig(
                steps=40_000, lr=2e-3, minutes=part(minutes, 0.05), bf16=True, ema=0.99, betas=(0.9, 0.99)
            ),
            outline=TrainConfig(
                steps=20_000, lr=1.5e-3, minutes=part(minutes, 0.1), bf16=True, ema=0.998, betas=(0.9, 0.999)
            ),
        ),
        # the prior first and alone: it sets the scale of the transformer's output
        teacher=(
            Phase(prior, replace(loss, flow_weight=0.0), TrackMix(mask_probability=0.1)),
            Phase(first, loss, TrackMix()),
            Phase(second, loss, TrackMix(mask_probability=0.2), track_head=False),
        ),
        forcing=Phase(TrainConfig(steps=10_000, lr=3e-4, minutes=part(minutes, 0.16), bf16=True), loss, TrackMix()),
        causal=TrainConfig(steps=20_000, lr=5e-4, minutes=part(minutes, 0.12), bf16=True),
        self_forcing=TrainConfig(
            steps=6000,
            lr=8e-4,
            warmup=20,
            betas=(0.9, 0.999),
            ema=0.98,
            final_lr=0.03,
            minutes=part(minutes, 0.21),
            validate_every=300,
            bf16=True,
        ),
        self_forcing_batch=4,
        tiny=TinyRecipe(
            train=TrainConfig(
                steps=tiny.loop_steps(6000), lr=1e-3, minutes=part(minutes, 0.05), validate_every=500, bf16=True
            ),
            loss=tiny,
            frames=13,
            side=64,
        ),
        # rollouts regress to clips, which are available, instead of distribution matching: a teacher this small is no
        # better than the carried content (docs/log.md). So what the student learns is what sentences add to it.
        rollouts=SelfForcingConfig(
            score_weight=0.0,
            regression_weight=1.0,
            regression_evenly=True,
            sinks=(0, 1),
            windows=(1,),
            guided=False,
            own_content=False,
        ),
        light=True,
    )


def nano_ids(minutes: float | None = None, name: str = "nano-ids") -> Recipe:
    """The paper's random ids without carried content, or with ``name`` "nano-along" latents brought along the tracks as
    well, at a size at which a CPU can train all stages.

    The teacher trains first on clips of one chunk with much motion, then on the clips of the other stages, three
    chunks, enough for a student's cache to roll. ``minutes``: budget of all stages together.
    """

    def train(steps: int, lr: float, share: float, **more: Any) -> TrainConfig:
        return TrainConfig(steps=steps, lr=lr, minutes=part(minutes, share), bf16=True, **more)

    loss = TeacherConfig(shift=6.0, motion_dropout=0.05)
    scene = SceneConfig(
        height=32,
        width=32,
        frames=33,
        sprites=(1, 3),
        sprite_radius=(4.0, 9.5),
        speed=5.0,
        pan=4.0,
        static_camera_probability=0.5,
        dark_probability=0.0,
        background_grid=12,
        sprite_grid=6,
    )
    fast = replace(scene, frames=9, speed=8.0, pan=8.0)
    # about as many tracks as cells at most: of tracks that share a cell only one is told
    mix = TrackMix(dense=0.6, random=0.15, drags=0.2, max_tracks=48, radius=(2.0, 8.0))
    drags = replace(mix, dense=0.25, random=0.2, drags=0.5)
    return Recipe(
        model=preset(name),
        data=Rendered(scene, pool=5120, long_frames=93),
        autoencoder=AutoencoderRecipe(
            train=train(2000, 1e-3, 0.04, validate_every=500), decoder=train(1000, 5e-4, 0.04), batch=8
        ),
        teacher=(
            Phase(train(20_000, 3e-3, 0.39, validate_every=250), loss, mix, scene=fast, batch=16),
            Phase(train(20_000, 1e-3, 0.21, validate_every=250), loss, drags),
        ),
        causal=train(10_000, 5e-4, 0.12, validate_every=250),
        self_forcing=train(6000, 1e-4, 0.2, warmup=10, betas=(0.0, 0.999), ema=0.98, validate_every=250),
        tracks=replace(drags, mask_probability=0.1),
        trajectories=256,
        self_forcing_batch=4,
        rollouts=SelfForcingConfig(sinks=(0, 1), windows=(1,), guided=False),
    )


def nano_debug(minutes: float | None = None) -> Recipe:
    """For ``runs/nano-debug.sh``: a smaller variant of ``nano`` on prepared clips, with a few steps of every stage."""
    fifth = part(minutes, 0.2)  # there are five runs
    few = TrainConfig(steps=4, lr=1e-3, warmup=1, log_every=2, checkpoint_every=2, validate_every=4, minutes=fifth)
    loss = TeacherConfig(shift=3.0)
    small = preset_nano(width=64, layers=2)
    noisy = replace(small.sampler, temperature=1.0)  # distilled by distribution matching, unlike ``nano``
    return Recipe(
        model=replace(small, name="nano-debug", carry=CarryConfig(), sampler=noisy),
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
    """Every stage once, at a tiny size; for tests."""
    tenth = part(minutes, 0.1)  # there are ten runs
    short = TrainConfig(steps=2, log_every=1, checkpoint_every=1, validate_every=2, minutes=tenth)
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
    """A short training of the tiny decoder, including the discriminator; for tests."""
    loss = TinyTraining(batch=2, adversarial_start=1, adversarial_ramp=1, discriminator_channels=8, replay=1)
    return TinyRecipe(train, loss, frames=9, side=32, held_out=2)
