"""Planes at several depths: each moves by its own amount, and the nearer hide the farther."""

from dataclasses import replace

import pytest
import torch

from motionstream.data.draws import Draws
from motionstream.data.motion import draw_camera
from motionstream.data.parallax import draw_cover, draw_depths
from motionstream.data.procedural import SceneConfig, draw_scene, render_scene
from motionstream.data.textures import TextureBank

DEEP = SceneConfig(
    height=96,
    width=112,
    frames=21,
    sprites=(0, 0),
    sprite_radius=(9.0, 20.0),
    pan=16.0,
    dark_probability=0.0,
    background_grid=16,
    parallax_probability=1.0,
)


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank(names=())


def test_visible_means_that_the_pixel_shows_the_plane(bank: TextureBank) -> None:
    """Planes painted black, red and green: every track shows its own colour where visible, another where not."""
    shown_own = shown_other = 0
    for seed in range(6):
        scene = draw_scene(DEEP, 4, seed, bank)
        for level, plane in enumerate((scene.background, *scene.nearer)):
            plane.texture[:, :3] = 0
            if level:
                plane.texture[:, level - 1] = 1
        clips = render_scene(scene, DEEP)
        x, y = clips.positions.round().long().unbind(-1)
        inside = (x >= 0) & (x < DEEP.width) & (y >= 0) & (y < DEEP.height)
        index = (y.clamp(0, DEEP.height - 1) * DEEP.width + x.clamp(0, DEEP.width - 1))[:, None].expand(-1, 3, -1, -1)
        colour = clips.video.flatten(3).gather(3, index).permute(0, 2, 3, 1).float() / 255  # B T N 3
        pure = ((colour > 0.99) | (colour < 0.01)).all(-1)
        plane = torch.where(colour.amax(-1) > 0.5, colour.argmax(-1) + 1, 0)
        own = plane == plane[:, :1]  # what it showed in frame 0, where all are visible
        clear = inside & pure & pure[:, :1]
        assert clips.visible[:, 0][pure[:, 0]].all()
        # a pixel's middle may lie across an edge that passes between it and the track
        agree = (clips.visible == own)[clear].float().mean()
        assert agree > 0.98
        shown_own += int((own & clear).sum())
        shown_other += int((~own & clear).sum())
    assert shown_own > 10_000 and shown_other > 300


def test_tracks_move_with_their_plane_and_start_on_a_grid(bank: TextureBank) -> None:
    scene = draw_scene(replace(DEEP, zoom=(1.0, 1.0)), 8, 3, bank)
    clips = render_scene(scene, DEEP)
    y, x = ((torch.arange(16) + 0.5) * side / 16 - 0.5 for side in (DEEP.height, DEEP.width))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
    assert torch.allclose(clips.positions[:, 0], grid.expand(8, -1, -1), atol=1e-3)
    for clip in range(8):
        cameras = [scene.background.camera.centre[clip]]
        for plane in scene.nearer:
            row = (plane.clip == clip).nonzero()[:, 0]
            cameras += [plane.camera.centre[int(r)] for r in row]
        moves = clips.positions[clip] - grid  # T N 2
        errors = torch.stack([(moves + centre[:, None]).norm(dim=-1).amax(0) for centre in cameras])
        assert (errors.amin(0) < 1e-3).all()
        assert len({int(plane) for plane in errors.argmin(0)}) >= 2


def test_every_chosen_clip_s_camera_moves() -> None:
    draws = Draws(0)
    camera = draw_camera(draws, 64, 21, 6.0, (0.9, 1.1), 0.5)
    depths = draw_depths(draws, camera, 6.0, 0.5)
    assert depths is not None
    chosen = depths.planes > 1
    assert 16 < chosen.sum() < 48 and not depths.orbits[~chosen].any()
    far, near = depths.cameras[0], depths.cameras[-1]
    for paths in (far, near):
        assert (paths.centre[:, 0] == 0).all() and (paths.zoom[:, 0] == 1).all()
        assert torch.equal(paths.centre[~chosen], camera.centre[~chosen])
    apart = (far.centre - near.centre).norm(dim=-1).amax(1) + (far.zoom - near.zoom).abs().amax(1)
    assert (apart[chosen] > 0.02).all() and (apart[~chosen] == 0).all()


def test_covers_have_edges_about_a_pixel_wide() -> None:
    cover = draw_cover(Draws(0), 12, (120, 140), torch.Generator().manual_seed(0))
    assert cover.shape == (12, 1, 120, 140)
    shares = (cover > 0.5).float().mean((1, 2, 3))
    assert (shares > 0.15).all() and (shares < 0.5).all()
    between = ((cover > 0.02) & (cover < 0.98)).float().mean()
    edge = ((cover > 0.5)[..., 1:] != (cover > 0.5)[..., :-1]).float().mean()
    assert between < 4 * edge, "edges are blurred"


def test_captions_do_not_call_an_orbiting_camera_still(bank: TextureBank) -> None:
    still = replace(DEEP, static_camera_probability=1.0, height=32, width=32, sprite_radius=(5.0, 8.0))
    captions = draw_scene(still, 16, 0, bank).captions
    assert not any("still" in c or "static" in c or "does not move" in c for c in captions)
