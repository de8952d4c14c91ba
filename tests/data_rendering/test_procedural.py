"""Rendered clips: pictures, tracks and visibility must agree with one another."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from motionstream.data.compositing import FINER
from motionstream.data.procedural import Clips, SceneConfig, draw_scene, render, render_scene
from motionstream.data.textures import TextureBank

LIVELY = SceneConfig(
    height=96,
    width=112,
    frames=17,
    sprites=(1, 3),
    sprite_radius=(9.0, 20.0),
    speed=12.0,
    rotation=40.0,
    static_camera_probability=0.0,
    dark_probability=0.0,
    background_grid=12,
)


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank()


@pytest.fixture(scope="module")
def clips(bank: TextureBank) -> Clips:
    return render(LIVELY, 8, 3, bank)


def look(video: Tensor, positions: Tensor) -> Tensor:
    """Colours (B, T, N, 3) of video (B, 3, T, H, W) at positions (B, T, N, 2), bilinear between pixels."""
    height, width = video.shape[-2:]
    frames = video.float().transpose(1, 2).flatten(0, 1)
    grid = 2 * positions.flatten(0, 1)[:, None] / torch.tensor((width - 1.0, height - 1.0)) - 1
    seen = F.grid_sample(frames, grid, padding_mode="border", align_corners=True)
    return seen[:, :, 0].transpose(1, 2).unflatten(0, video.shape[:1] + video.shape[2:3])


def between_pixels(clips: Clips) -> Tensor:
    """Tracks (B, T, N) with pixel centres on all sides, so that `look` need not guess."""
    x, y = clips.positions.unbind(-1)
    height, width = clips.video.shape[-2:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def colour_change(clips: Clips, chosen: Tensor, shift: tuple[float, float]) -> float:
    """Mean change of colour since frame 0 along the chosen tracks (B, N) if all were `shift` pixels off."""
    moved = clips.positions.clone()
    moved[:, 1:] += torch.tensor(shift)
    colours = look(clips.video, moved)
    both = (clips.visible & clips.visible[:, :1] & chosen[:, None])[:, 1:]
    assert both.sum() > 1000
    return float((colours[:, 1:] - colours[:, :1]).abs().mean(-1)[both].mean())


@pytest.mark.parametrize("on_sprites", [False, True])
def test_tracks_stick_to_what_they_are_on(clips: Clips, on_sprites: bool) -> None:
    chosen = clips.layer > 0 if on_sprites else clips.layer == 0
    steps = (-1.0, -0.5, 0.0, 0.5, 1.0)
    error = {(x, y): colour_change(clips, chosen, (x, y)) for x in steps for y in steps}
    right = error.pop((0.0, 0.0))
    assert right < min(error.values()), "tracks half a pixel off fit the pictures better"
    whole = [value for shift, value in error.items() if 1.0 in map(abs, shift)]
    assert right < 0.6 * min(whole)


def ramp(texture: Tensor) -> None:
    """Make a texture's red grow from 0 to 1 with x and its green with y, in place."""
    height, width = texture.shape[-2:]
    texture[:, 0] = torch.linspace(0, 1, width)
    texture[:, 1] = torch.linspace(0, 1, height)[:, None]


def test_colour_at_a_track_is_its_place_on_the_texture(bank: TextureBank) -> None:
    config = replace(LIVELY, sprites=(1, 1))
    scene = draw_scene(config, 6, 5, bank)
    plane, own = scene.background.texture, scene.sprites.appearance
    ramp(plane)
    ramp(own)
    plane[:, 2], own[:, 2] = 0, 1  # blue tells the layer, and pixels that mix layers
    clips = render_scene(scene, config)
    colours = look(clips.video, clips.positions) / 255

    middle = torch.tensor(((config.width - 1) / 2, (config.height - 1) / 2))
    cases = {
        # The camera starts unmoved, so at frame 0 the world is the picture.
        0: (clips.positions[:, 0] - middle - scene.background.middle[:, None], plane),
        1: (torch.zeros_like(clips.positions[:, 0]), own),
    }
    cases[1][0][:, config.background_grid**2 :] = scene.sprites.points
    for layer, (place, texture) in cases.items():
        unit = (torch.tensor(texture.shape[:1:-1]) - 1) / FINER  # pixels per unit of colour
        error = (colours[..., :2] - (place / unit + 0.5)[:, None]) * unit
        pure = (colours[..., 2] - layer).abs() < 1e-4
        seen = clips.visible & between_pixels(clips) & pure & (clips.layer == layer)[:, None]
        assert seen.sum() > 1000
        assert error[seen].abs().max() < 0.51 * unit.max() / 255 + 0.01, "more than the rounding to 256 levels"
        assert error[seen].mean(0).abs().max() < 0.03


def test_visible_means_that_the_pixel_shows_the_layer(bank: TextureBank) -> None:
    config = replace(LIVELY, sprites=(3, 3), speed=20.0)
    scene = draw_scene(config, 8, 11, bank)
    scene.background.texture.zero_()
    colour = scene.sprites.appearance[:, :3]
    colour.zero_()
    colour[torch.arange(len(colour)), scene.sprites.layer - 1] = 1
    clips = render_scene(scene, config)

    brightest, top = (look(clips.video, clips.positions) / 255).max(-1)
    shown = torch.where(brightest > 0.99, top + 1, torch.where(brightest < 0.01, 0, -1))
    clear = between_pixels(clips) & (shown >= 0) & (clips.layer >= 0)[:, None]
    own = shown == clips.layer[:, None]
    assert torch.equal(clips.visible[clear], own[clear])
    for layer in range(4):
        rows = clear & (clips.layer == layer)[:, None]
        assert (own & rows).sum() > 300
        if layer < 3:
            assert (~own & rows).sum() > 100, f"layer {layer} is never hidden, so nothing was tested"


def test_nothing_is_visible_outside_the_picture(clips: Clips) -> None:
    x, y = clips.positions.unbind(-1)
    outside = (x < -0.5) | (x >= LIVELY.width - 0.5) | (y < -0.5) | (y >= LIVELY.height - 0.5)
    assert outside.sum() > 100
    assert not (clips.visible & outside).any()


def test_same_seed_same_clips(clips: Clips, bank: TextureBank) -> None:
    again, other = render(LIVELY, 8, 3, TextureBank()), render(LIVELY, 8, 4, bank)
    assert torch.equal(clips.video, again.video)
    assert torch.equal(clips.positions, again.positions)
    assert torch.equal(clips.visible, again.visible)
    assert clips.captions == again.captions
    assert not torch.equal(clips.video, other.video)
    assert clips.captions != other.captions


def test_shapes_and_unused_rows(clips: Clips) -> None:
    batch, count = 8, LIVELY.tracks
    assert clips.video.shape == (batch, 3, LIVELY.frames, LIVELY.height, LIVELY.width)
    assert clips.video.dtype == torch.uint8
    assert clips.positions.shape == (batch, LIVELY.frames, count, 2)
    assert clips.visible.shape == (batch, LIVELY.frames, count)
    assert clips.layer.shape == (batch, count)
    unused = clips.layer < 0
    assert unused.any()
    assert not clips.visible.transpose(1, 2)[unused].any()
    assert not clips.positions.transpose(1, 2)[unused].any()
    assert len(clips.captions) == batch and all(clips.captions)


def test_sprites_carry_regular_grids_four_to_eight_pixels_apart(clips: Clips) -> None:
    for clip in range(8):
        for layer in clips.layer[clip].unique()[2:].tolist():
            start = clips.positions[clip, 0, clips.layer[clip] == layer]
            distance = torch.cdist(start, start).fill_diagonal_(torch.inf).amin(1)
            spacing = distance.min()
            assert len(start) >= 4 and 3.99 < spacing < 8.01
            steps = (start - start[:1]) / spacing
            assert (steps - steps.round()).abs().max() < 1e-3


def travel(config: SceneConfig, bank: TextureBank) -> float:
    """Mean way of the sprites in pixels per 12 frames, resting ones left out."""
    total, count = 0.0, 0
    for seed in range(3):
        scene = draw_scene(config, 40, seed, bank)
        way = scene.sprites.centre.diff(dim=1).norm(dim=-1).sum(1)
        total, count = total + float(way.sum()), count + int((way > 0.1).sum())
    return total / count * 12 / (config.frames - 1)


def test_speed_is_mean_travel_in_twelve_frames() -> None:
    none = TextureBank(names=())
    slow = SceneConfig(
        height=48,
        width=48,
        frames=37,
        sprites=(2, 2),
        sprite_radius=(5.0, 8.0),
        static_camera_probability=1.0,
    )
    assert travel(slow, none) == pytest.approx(6.0, rel=0.25)
    assert travel(replace(slow, speed=24.0), none) == pytest.approx(24.0, rel=0.25)


def test_resting_camera_and_clips_without_sprites_stand_still(bank: TextureBank) -> None:
    config = SceneConfig(
        height=64,
        width=64,
        frames=9,
        sprites=(0, 0),
        sprite_radius=(8.0, 12.0),
        static_camera_probability=1.0,
        dark_probability=0.0,
    )
    clips = render(config, 3, 0, bank)
    assert clips.positions.shape[2] == config.background_grid**2
    assert torch.equal(clips.video, clips.video[:, :, :1].expand_as(clips.video))
    assert clips.visible.all()
    moving = render(replace(config, static_camera_probability=0.0), 3, 0, bank)
    assert (moving.positions != moving.positions[:, :1]).any(dim=(1, 2, 3)).all()


def test_at_least_two_cameras_in_five_rest_by_default() -> None:
    config = SceneConfig(height=32, width=32, frames=9, sprites=(0, 0), sprite_radius=(5.0, 8.0))
    camera = draw_scene(config, 200, 0, TextureBank(names=())).camera
    still = (camera.zoom == 1).all(1) & (camera.centre == 0).all(dim=2).all(1)
    assert 0.4 <= still.float().mean() <= 0.6


def test_dark_is_told_and_comes() -> None:
    bank = TextureBank(names=())
    config = SceneConfig(height=32, width=32, frames=33, sprites=(0, 1), sprite_radius=(5.0, 8.0), dark_probability=0.5)
    scene = draw_scene(config, 64, 2, bank)
    words = ("dark", "night", "light")
    told = torch.tensor([any(word in caption for word in words) for caption in scene.captions])
    rest = scene.brightness[:, -1]
    assert 16 < told.sum() < 48
    assert torch.equal(told, rest < 1)
    assert rest[told].min() >= 0.25 and rest[told].max() <= 0.55
    assert (scene.brightness.diff(dim=1) <= 0).all() and (scene.brightness[:, 0] == 1).all()
    video = render_scene(scene, config).video.float().mean((1, 3, 4))
    assert torch.allclose(video[told, -1] / video[told, 0], rest[told], atol=0.15)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("frames", 0, "frames must be at least 1, got 0"),
        ("sprites", (3, 1), r"sprites must be .* got \(3, 1\)"),
        ("zoom", (0.0, 1.0), r"zoom must be .* got \(0.0, 1.0\)"),
        ("speed", -1.0, "speed must be .* got -1.0"),
        ("dark_probability", 1.5, "dark_probability must lie in 0..1, got 1.5"),
        ("sprite_radius", (9.0, 80.0), "sprite_radius reaches 80.0, too large for a picture of 128x128"),
        ("fps", 0.0, "fps must be positive and finite, got 0.0"),
    ],
)
def test_wrong_settings_are_refused(setting: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneConfig(**{setting: value})  # type: ignore[arg-type]


def test_empty_batch_is_refused(bank: TextureBank) -> None:
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        render(LIVELY, 0, 0, bank)
