"""Masks of the pixels of a rendered clip for which a warp is not enough, frame by frame.

Axes: M sprites, T frames. Masks are bool (T, H, W).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from motionstream.data.compositing import Sprites, composite
from motionstream.data.procedural import RenderedScene, SceneConfig

REGIONS = ("uncovered", "edges", "turned")
EDGE = 3.0
"""Largest distance in pixels from an outline of a pixel near an edge."""
TURN, GROWTH = 15.0, 1.15
"""Rotation in degrees, and change of scale (either way), beyond which a sprite counts as turned."""


def regions(scene: RenderedScene, settings: SceneConfig) -> dict[str, np.ndarray]:
    """Masks of a batch of one clip with a still camera.

    - "background": no sprite covers the pixel, neither in this frame nor in frame 0, so it does not change.
    - "uncovered": a sprite hid more than half of the pixel in frame 0, and none touches it now.
    - "edges": within ``EDGE`` pixels of the outline of the visible part of a sprite.
    - "turned": on a sprite that has rotated by more than ``TURN`` degrees or changed its scale by more than ``GROWTH``
      since frame 0.
    """
    cover = sprite_cover(scene, settings)
    free: np.ndarray = (cover == 0).all(axis=-1)
    # the sprite that covers most of each pixel; 0 for none
    rest = 255 - cover.sum(axis=-1, dtype=np.int64)
    shown = np.concatenate([rest[..., None], cover], axis=-1).argmax(axis=-1)
    changed = np.zeros((cover.shape[-1] + 1, len(cover)), dtype=bool)
    changed[scene.sprites.layer.numpy()] = turned(scene.sprites)
    return {
        "background": free & free[:1],
        "uncovered": free & (rest[:1] < 128),
        "edges": np.stack([_near_edge(frame) for frame in shown]),
        "turned": changed[shown, np.arange(len(shown))[:, None, None]],
    }


def turned(sprites: Sprites) -> np.ndarray:
    """Whether each sprite has turned or changed its scale enough since frame 0: bool (M, T)."""
    pose = torch.view_as_complex(sprites.turn.cpu().contiguous())
    change = (pose / pose[:, :1]).numpy()
    grown = np.abs(np.log(np.abs(change))) > np.log(GROWTH)
    return np.asarray(grown | (np.abs(np.degrees(np.angle(change))) > TURN))


def sprite_cover(scene: RenderedScene, settings: SceneConfig) -> np.ndarray:
    """Share of each pixel that each layer's sprite covers, in 255ths: uint8 (T, H, W, 3)."""
    sprites, plane = scene.sprites, scene.background
    assert not scene.nearer and len(scene.captions) == 1
    assert not len(sprites.layer) or int(sprites.layer.max()) <= 3, "a layer each for red, green and blue"
    # the same scene with every sprite in its layer's colour, on black, without effects of light or weather
    colours = torch.eye(3, device=sprites.appearance.device)[sprites.layer - 1]
    appearance = sprites.appearance.clone()
    appearance[:, :3] = colours[:, :, None, None]
    drawn = composite(
        [replace(plane, texture=torch.zeros_like(plane.texture))],
        replace(sprites, appearance=appearance, tints=None),
        torch.ones_like(scene.brightness),
        settings.size,
    )
    return np.asarray(drawn[0].permute(1, 2, 3, 0).cpu().numpy())


def _near_edge(shown: np.ndarray) -> np.ndarray:
    """Pixels (H, W) within ``EDGE`` of a change of the labels (H, W)."""
    import cv2

    edge = np.zeros(shown.shape, dtype=bool)
    across, down = shown[:, 1:] != shown[:, :-1], shown[1:] != shown[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if not edge.any():
        return edge
    # the outline lies between pixels, half a pixel from either
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= EDGE - 0.5)
