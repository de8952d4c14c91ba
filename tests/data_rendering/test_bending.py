"""Pulled backgrounds and bent sprites: what the tracks say is found in the pixels."""

from dataclasses import replace

import pytest
import torch

from motionstream.data.bending import Pulls, draw_bends, draw_pulls
from motionstream.data.compositing import FINER
from motionstream.data.draws import Draws
from motionstream.data.procedural import Clips, SceneConfig, draw_scene, render_scene
from motionstream.data.textures import TextureBank

PULLED = SceneConfig(
    height=112,
    width=128,
    frames=25,
    sprites=(0, 0),
    dark_probability=0.0,
    background_grid=9,
    pull_probability=1.0,
)
BENT = replace(
    PULLED, sprites=(2, 2), pull_probability=0.0, bend_probability=1.0, static_camera_probability=1.0, sprite_grid=4
)


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank(names=())


def dots(side: tuple[int, int], places: torch.Tensor, width: float) -> torch.Tensor:
    """A black picture (h, w) with white bell-shaped dots at places (n, 2)."""
    y, x = torch.arange(side[0])[:, None], torch.arange(side[1])
    picture = torch.zeros(side)
    for across, down in places.tolist():
        picture += torch.exp(-((x - across) ** 2 + (y - down) ** 2) / (2 * width**2))
    return picture.clamp(max=1)


def found(picture: torch.Tensor, near: torch.Tensor, radius: int = 4) -> torch.Tensor:
    """Middle of brightness (x, y) in a picture (H, W), in a square of `radius` around `near`."""
    column, row = (int(v) for v in near.round())
    part = picture[row - radius : row + radius + 1, column - radius : column + radius + 1].double()
    y, x = torch.meshgrid(
        torch.arange(row - radius, row + radius + 1), torch.arange(column - radius, column + radius + 1), indexing="ij"
    )
    return torch.stack(((part * x).sum(), (part * y).sum())) / part.sum()


def distances(clips: Clips, rows: torch.Tensor, margin: int = 5) -> torch.Tensor:
    """How far dots drawn at the tracks `rows` of the first clip are from where the tracks say, in all frames."""
    video, positions = clips.video[0].float().mean(0), clips.positions[0]
    height, width = video.shape[-2:]
    errors = []
    for frame in range(len(video)):
        for row in rows.tolist():
            at = positions[frame, row]
            if (at > margin).all() and at[0] < width - 1 - margin and at[1] < height - 1 - margin:
                errors.append((found(video[frame], at) - at).norm())
    return torch.stack(errors)


@pytest.mark.parametrize("static", [1.0, 0.0])
def test_dots_on_a_pulled_background_are_where_the_tracks_say(bank: TextureBank, static: float) -> None:
    config = replace(PULLED, static_camera_probability=static, pan=3.0, zoom=(0.9, 1.1))
    for seed in (1, 2):
        scene = draw_scene(config, 1, seed, bank)
        texture, middle = scene.background.texture, scene.background.middle[0]
        start = render_scene(scene, config).positions[0, 0]
        world = start - torch.tensor(((config.width - 1) / 2, (config.height - 1) / 2))
        texels = (world - middle) * FINER + (torch.tensor(texture.shape[:1:-1]) - 1) / 2
        texture[:] = dots((texture.shape[2], texture.shape[3]), texels, 1.2 * FINER)
        clips = render_scene(scene, config)
        moved = (clips.positions[0] - start).norm(dim=-1)
        assert moved.max() > 6, "nothing is pulled, so nothing was tested"
        error = distances(clips, torch.arange(len(start)))
        assert len(error) > 800
        assert error.max() < 0.2 and error.mean() < 0.05


def test_dots_on_bent_sprites_are_where_the_tracks_say(bank: TextureBank) -> None:
    tested = 0
    for seed in range(5):
        scene = draw_scene(BENT, 1, seed, bank)
        sprites = scene.sprites
        scene.background.texture.zero_()
        sprites.appearance[:, :3] = 0
        sprites.appearance[:, 3] = -100.0  # all of the texture is sprite, so that its outline hides no dot's side
        chosen = torch.nonzero(sprites.used[1])[:, 0][[0, -1]]  # far apart
        half = (sprites.appearance.shape[-1] - 1) / 2
        side = (sprites.appearance.shape[-2], sprites.appearance.shape[-1])
        sprites.appearance[1, :3] = dots(side, sprites.points[1, chosen] * FINER + half, 0.7 * FINER)
        clips = render_scene(scene, BENT)
        rows = BENT.background_grid**2 + BENT.sprite_grid**2 + chosen
        at = clips.positions[0, :, rows]
        if (at[:, 0] - at[:, 1]).norm(dim=-1).min() > 12:
            error = distances(clips, rows)
            tested += len(error)
            assert error.max() < 0.3 and error.mean() < 0.08
    assert tested > 100


def test_bending_moves_a_sprite_s_points_against_one_another(bank: TextureBank) -> None:
    config = replace(BENT, rotation=0.0, scaling=(1.0, 1.0))
    sprites = draw_scene(config, 8, 3, bank).sprites
    own = sprites.place(sprites.points) - sprites.centre[:, :, None]
    rigid = sprites.points[:, None].norm(dim=-1)
    change = (own.norm(dim=-1) - rigid).abs() * sprites.used[:, None]
    assert (change[:, 0] < 1e-3).all(), "unbent in the first frame"
    assert (change.amax((1, 2)) > 0.5).float().mean() > 0.8


def test_pulls_are_inverted_to_a_hundredth_of_a_pixel_and_never_fold() -> None:
    pulls = draw_pulls(Draws(0), 40, 45, (128, 128), 1.0)
    assert pulls is not None and pulls.radius.shape[1] == 2
    line = torch.linspace(-80, 80, 17)
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flatten(0, 1)
    everywhere = points.expand(40, -1, -1)
    placed = pulls.place(everywhere)
    across, down = pulls.shift(*placed.unbind(-1))
    back = placed - torch.stack((across, down), -1)
    assert (back - everywhere[:, None]).abs().max() < 0.01
    assert torch.equal(placed[:, 0], everywhere), "nothing is pulled in the first frame"
    # one to one: neighbours on the picture show neighbours of the material, in the same order
    fine = torch.arange(-64.0, 65.0)
    across, down = pulls.shift(fine.expand(1, 1, 1, -1), fine[:, None].expand(1, 1, -1, 1))
    assert ((fine - across).diff(dim=-1) > 0.1).all() and ((fine[:, None] - down).diff(dim=-2) > 0.1).all()


def test_a_picture_is_shifted_as_single_points_are() -> None:
    pulls = draw_pulls(Draws(1), 2, 9, (64, 64), 1.0)
    assert pulls is not None
    x, y = torch.arange(-5.0, 6.0), torch.arange(-4.0, 5.0)
    whole = pulls.shift(x.expand(1, 1, 1, -1), y[:, None].expand(1, 1, -1, 1))
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1).expand(2, 9, -1, -1)
    single = pulls.shift(*points.unbind(-1))
    for one, other in zip(whole, single, strict=True):
        assert torch.allclose(one.flatten(2), other, atol=1e-4)


def test_the_border_never_shows_a_mirrored_background(bank: TextureBank) -> None:
    scene = draw_scene(replace(PULLED, static_camera_probability=1.0), 16, 4, bank)
    plane = scene.background
    down, across = torch.arange(112.0), torch.arange(128.0)
    grid = plane.grid(across.expand(1, 1, 1, -1), down[:, None].expand(1, 1, -1, 1), (112, 128))
    assert grid.abs().max() <= 1


def test_what_is_pulled_can_be_taken_hold_of(bank: TextureBank) -> None:
    config = replace(PULLED, static_camera_probability=1.0)
    clips = render_scene(draw_scene(config, 8, 5, bank), config)
    way = (clips.positions - clips.positions[:, :1]).norm(dim=-1).amax(1)
    held = clips.layer > config.sprites[1]
    assert 0.05 < held.float().mean() < 0.4
    assert way[held].mean() > 3 * way[~held].mean()
    assert (clips.layer >= 0).all() and clips.visible[:, 0].all()


def test_nothing_is_drawn_where_the_chance_is_nought() -> None:
    assert draw_pulls(Draws(0), 8, 9, (64, 64), 0.0) is None
    assert draw_bends(Draws(0), torch.full((8,), 9.0), 9, 0.0) is None
    some = draw_pulls(Draws(0), 64, 9, (64, 64), 0.5)
    assert isinstance(some, Pulls)
    moving = some.path.abs().amax((1, 2, 3)) > 0
    assert 0.3 < moving.float().mean() < 0.7
