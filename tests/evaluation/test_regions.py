"""Masks of held-out clips, against what is known of the scene otherwise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from motionstream.data.procedural import Clips, RenderedScene, SceneConfig, draw_scene, render_scene
from motionstream.data.textures import TextureBank
from motionstream.evaluation import regions
from motionstream.evaluation.scenes import held_out_clip, scene_config
from motionstream.presets import debug

SETTINGS = replace(scene_config(debug(), 12.0), height=96, width=112, frames=13, sprite_radius=(9.0, 16.0), speed=24.0)


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank(names=())


def scene_of(seed: int, settings: SceneConfig, bank: TextureBank) -> tuple[RenderedScene, Clips]:
    scene = draw_scene(settings, 1, seed, bank)
    return scene, render_scene(scene, settings)


def test_uncovered_pixels_show_the_bare_background_which_frame_0_did_not(bank):
    found = 0
    for seed in range(4):
        scene, clips = scene_of(seed, SETTINGS, bank)
        bare = render_scene(replace(scene, sprites=scene.sprites.on_layer(9)), SETTINGS).video[0, :, 0]
        mask = torch.from_numpy(regions.regions(scene, SETTINGS)["uncovered"])
        found += int(mask.sum())
        video = clips.video[0]
        assert not mask[0].any()
        difference = (video.int() - bare[:, None].int()).abs().amax(0)  # T H W
        if mask.any():
            assert difference[mask].max() <= 1
            assert (difference[0].expand_as(mask)[mask] > 2).float().mean() > 0.9
        # half covered, no pixel differs by 130; what differed so and is bare now, is uncovered
        again = (difference == 0) & (difference[0] > 130)
        assert (mask & again).sum() >= 0.99 * again.sum()
    assert found > 1000


def test_edges_are_three_pixels_to_either_side_of_an_outline(bank):
    settings = replace(SETTINGS, sprites=(1, 1), frames=5)
    found = 0
    for seed in range(4):
        scene, _ = scene_of(seed, settings, bank)
        sprites = scene.sprites
        centre = sprites.centre[0]
        if (centre - torch.tensor((56.0, 48.0))).abs().max() > 30:
            continue  # partly outside
        y, x = torch.meshgrid(torch.arange(96.0), torch.arange(112.0), indexing="ij")
        grid = sprites.own_coordinates(x - centre[None, :, 0, None, None], y - centre[None, :, 1, None, None])
        distance = F.grid_sample(
            sprites.appearance[:, 3:], grid.flatten(1, 2), padding_mode="border", align_corners=True
        ).unflatten(2, (5, 96))[0, 0]
        distance = (distance * sprites.turn[0].norm(dim=-1)[:, None, None]).numpy()
        mask = regions.regions(scene, settings)["edges"]
        assert mask[np.abs(distance) < 1.5].all()
        assert not mask[(distance > 5) | (distance < -5)].any()
        found += int(mask.sum())
    assert found > 500


def test_a_sprite_has_turned_or_grown_beyond_15_degrees_or_percent(bank):
    scene, _ = scene_of(0, replace(SETTINGS, sprites=(1, 1), frames=5), bank)
    begin = torch.tensor(2.9)  # close to where angles jump from one half turn to the other

    def poses(angles: list[float], sizes: list[float]) -> torch.Tensor:
        angle, size = begin + torch.deg2rad(torch.tensor(angles)), torch.tensor(sizes)
        return torch.stack((angle.cos() * size, angle.sin() * size), -1)[None]

    turned = replace(scene.sprites, turn=poses([0, 14, -14, 16, -40], [1.0] * 5))
    assert regions.turned(turned).tolist() == [[False, False, False, True, True]]
    grown = replace(scene.sprites, turn=poses([0.0] * 5, [2.0, 2.25, 2.35, 1.8, 1.7]))
    assert regions.turned(grown).tolist() == [[False, False, True, False, True]]


def test_turned_pixels_lie_on_the_sprite_that_has_turned(bank):
    settings = replace(SETTINGS, sprites=(2, 2))
    scene, _ = scene_of(3, settings, bank)
    turn = scene.sprites.turn[:, :1].repeat(1, settings.frames, 1)
    turn[0, 6:] = torch.stack((-turn[0, 6:, 1], turn[0, 6:, 0]), -1)  # by 90 degrees
    scene = replace(scene, sprites=replace(scene.sprites, turn=turn))
    mask = regions.regions(scene, settings)["turned"]
    assert not mask[:6].any() and mask[6:].any()
    centre = scene.sprites.centre[0]
    reach = float(scene.sprites.reach[0].max()) + 1
    for frame in range(6, settings.frames):
        rows, columns = mask[frame].nonzero()
        away = np.hypot(columns - float(centre[frame, 0]), rows - float(centre[frame, 1]))
        assert not len(away) or away.max() <= reach


def test_clips_have_masks_of_their_own_shape_and_pins_that_rest():
    clip = held_out_clip(debug(), 2)
    assert tuple(clip.regions) == regions.REGIONS
    for mask in clip.regions.values():
        assert mask.shape == clip.video.shape[:3] and mask.dtype == bool
    assert not (clip.regions["uncovered"] & clip.background).any()
    assert not (clip.regions["turned"] & clip.background).any()
    assert clip.pinned.count and set(clip.pinned.ids) <= set(clip.drags.ids)
    assert np.allclose(clip.pinned.positions, clip.pinned.positions[:1])
