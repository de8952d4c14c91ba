"""Held-out rendered clips for evaluation, and the tracks that condition them.

They use photographs and seeds that training never uses, one seed per clip, so that clip i does not depend on the number
of clips. Pixels are (x, y) with (0, 0) the centre of the top-left one. Axes: T frames, N points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from motionstream.config import ModelConfig
from motionstream.data.photographs import HELD_OUT
from motionstream.data.procedural import SceneConfig, draw_scene, render_scene
from motionstream.data.textures import TextureBank
from motionstream.evaluation.regions import REGIONS, regions
from motionstream.metrics import moved_frames
from motionstream.tracks import Tracks

FIRST_SEED = 900_000_000
"""Training draws its seeds at random up to 2^62, so hardly ever one of these, and uses other photographs anyway."""
FRAMES = 45
LEAST_MOTION = 4.0
FOLLOWED_POINTS = 24
DENSE_POINTS = 256


@dataclass(frozen=True)
class EvaluationClip:
    """One clip with its conditioning and measured points.

    ``video``: uint8 (T, H, W, 3). ``background``: bool (T, H, W), pixels that no sprite covers in this frame or in
    frame 0, which do not change, since the camera is still. ``regions``: masks of the same shape by the names
    ``REGIONS``. ``drags`` and ``dense``: conditioning tracks; ``pinned``: those of the drags that hold the background.
    ``followed``: the measured points; ``counted``: bool (T, N), the frames in which they count.
    """

    video: np.ndarray
    background: np.ndarray
    caption: str
    drags: Tracks
    dense: Tracks
    followed: Tracks
    counted: np.ndarray
    pinned: Tracks
    regions: dict[str, np.ndarray]


EFFECTS = ("dark", "fog", "snow", "tint")
"""Changes that captions can describe and tracks cannot."""


def scene_config(config: ModelConfig, speed: float, effect: str | None = None, frames: int = FRAMES) -> SceneConfig:
    """Scenes at the model's size: one to three sprites, a still camera, unmodified held-out photographs.

    ``speed``: a sprite's mean travel in pixels per 12 frames; each draws 0 to 2 times as much. ``effect``: one of
    ``EFFECTS``, in every scene that can have it, all else being the same. Without it light does not change, so that
    differences between methods are only of motion.
    """
    scale = min(config.size) / 128
    plain = SceneConfig(
        height=config.size[0],
        width=config.size[1],
        frames=frames,
        fps=config.fps,
        sprites=(1, 3),
        sprite_radius=(max(5.0, 9 * scale), max(10.0, 24 * scale)),
        speed=speed,
        static_camera_probability=1.0,
        photograph_probability=1.0,
        mixture_probability=0.0,
        recolour_probability=0.0,
        dark_probability=0.0,
    )
    certain: dict[str, Any] = {} if effect is None else {f"{effect}_probability": 1.0}
    return replace(plain, **certain)


@torch.no_grad()
def held_out_clip(
    config: ModelConfig,
    index: int,
    seed: int = 0,
    speed: float = 6.0,
    effect: str | None = None,
    *,
    frames: int = FRAMES,
) -> EvaluationClip:
    """Clip number ``index`` of the evaluation ``seed``; the same arguments give the same clip. An ``effect`` (see
    ``scene_config``) changes only the pixels that show it and the caption."""
    if not 0 <= seed < 1000 or not 0 <= index < 100_000:
        raise ValueError(f"seed {seed}, clip {index}: evaluation seeds are 0..999, clips 0..99999")
    settings = scene_config(config, speed, effect, frames)
    number = FIRST_SEED + seed * 100_000 + index
    scene = draw_scene(settings, 1, number, TextureBank(HELD_OUT))
    clips = render_scene(scene, settings)
    positions, visible = clips.positions[0].numpy(), clips.visible[0].numpy()
    tracks = Tracks(positions, visible, settings.size, settings.fps)
    layer = clips.layer[0].numpy()
    rng = np.random.default_rng(number)
    drags = drag_points(positions[0], visible[0], layer, rng, min(settings.size) / 128)
    limit = DENSE_POINTS if config.carry is None else min(DENSE_POINTS, config.carry.max_tracks)
    followed = followed_points(tracks, layer, drags, rng)
    masks = regions(scene, settings)
    return EvaluationClip(
        video=clips.video[0].permute(1, 2, 3, 0).numpy(),
        background=masks["background"],
        caption=clips.captions[0],
        drags=tracks.select(drags),
        dense=tracks.select(_some(np.flatnonzero(visible[0]), limit, rng)),
        followed=tracks.select(followed),
        counted=moved_frames(positions, visible, LEAST_MOTION)[:, followed],
        pinned=tracks.select(drags[layer[drags] == 0]),
        regions={name: masks[name] for name in REGIONS},
    )


def scenes(config: ModelConfig, count: int, seed: int, speed: float, shown: slice) -> Iterator[EvaluationClip]:
    """The first ``count`` scenes with points to follow in the ``shown`` frames; the same for all models of a size."""
    index = 0
    while count:
        clip = held_out_clip(config, index, seed, speed)
        index += 1
        if clip.counted[shown].any():
            count -= 1
            yield clip


def drag_points(
    places: np.ndarray, seen: np.ndarray, layer: np.ndarray, rng: np.random.Generator, scale: float = 1.0
) -> np.ndarray:
    """Indices, ascending, of points as in a user's drags and pins.

    On every sprite visible in frame 0, its points within 8 to 16 pixels (times ``scale``) of a random one of them; on
    the background one or two pins, points within 10 pixels of a random one. All are visible in frame 0.

    Args:
        places: (N, 2) and seen (N,) in frame 0. layer: (N,), 0 the background, k the k-th sprite.
    """
    levels = [(level, rng.uniform(8, 16)) for level in sorted(set(layer[layer > 0].tolist()))]
    levels += [(0, 10.0)] * int(rng.integers(1, 3))
    chosen: set[int] = set()
    for level, radius in levels:
        candidates = np.flatnonzero(seen & (layer == level))
        if len(candidates):
            centre = places[rng.choice(candidates)]
            near = np.linalg.norm(places[candidates] - centre, axis=-1) <= radius * scale
            chosen.update(candidates[near].tolist())
    return np.array(sorted(chosen), dtype=np.int64)


def followed_points(tracks: Tracks, layer: np.ndarray, drags: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices, ascending, of at most ``FOLLOWED_POINTS`` points to measure.

    They lie on a dragged sprite, whether they are conditioning points or not, are visible in frame 0, and are visible
    in some frame ``LEAST_MOTION`` pixels or more from there.
    """
    dragged = np.unique(layer[drags])
    moves = moved_frames(tracks.positions, tracks.visible, LEAST_MOTION).any(axis=0)
    candidates = tracks.visible[0] & (layer > 0) & np.isin(layer, dragged) & moves
    return _some(np.flatnonzero(candidates), FOLLOWED_POINTS, rng)


def _some(index: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    return index if len(index) <= limit else np.sort(rng.choice(index, limit, replace=False))
