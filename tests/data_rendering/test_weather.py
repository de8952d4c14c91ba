"""What the caption alone tells comes, is told, and leaves the tracks as they were."""

from dataclasses import replace

import pytest
import torch

from motionstream.data.captions import _SNOW, FOG, colour_word
from motionstream.data.draws import Draws
from motionstream.data.procedural import SceneConfig, draw_scene, render, render_scene, rich_scene
from motionstream.data.textures import TextureBank
from motionstream.data.weather import TINTS, draw_snow

SMALL = SceneConfig(
    height=48,
    width=64,
    frames=33,
    sprites=(1, 2),
    sprite_radius=(6.0, 10.0),
    dark_probability=0.0,
    background_grid=6,
    sprite_grid=3,
)


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank(names=())


@pytest.mark.parametrize("setting", ["snow_probability", "fog_probability", "tint_probability"])
def test_an_effect_changes_the_pictures_and_no_track(bank: TextureBank, setting: str) -> None:
    plain, other = render(SMALL, 16, 1, bank), render(replace(SMALL, **{setting: 0.5}), 16, 1, bank)
    assert torch.equal(plain.positions, other.positions) and torch.equal(plain.visible, other.visible)
    changed = (plain.video != other.video).any(dim=(1, 2, 3, 4))
    assert 2 <= changed.sum() <= 14
    told = torch.tensor([one != two for one, two in zip(plain.captions, other.captions, strict=True)])
    assert (told[changed]).all()


@pytest.mark.parametrize(("setting", "words"), [("snow_probability", _SNOW), ("fog_probability", FOG)])
def test_weather_is_told_where_it_comes_and_nowhere_else(
    bank: TextureBank, setting: str, words: tuple[str, ...]
) -> None:
    scene = draw_scene(replace(SMALL, **{setting: 0.5}), 32, 2, bank)
    (cover,) = scene.weather
    assert 8 < len(cover.clips) < 24
    for clip, caption in enumerate(scene.captions):
        assert any(word in caption for word in words) == (clip in cover.clips)


def test_fog_thickens_and_takes_away_contrast(bank: TextureBank) -> None:
    config = replace(SMALL, fog_probability=1.0, static_camera_probability=1.0, sprites=(0, 0))
    video = render(config, 8, 0, bank).video.float()
    spread = video.mean(1).flatten(2).std(2)  # B T
    assert (spread[:, -1] < 0.7 * spread[:, 0]).all()


def test_flakes_fall_and_begin_above_the_picture_in_half_of_the_clips() -> None:
    size = (64, 96)
    snow = draw_snow(Draws(3), 24, size, 1.0)
    assert snow is not None and len(snow.clips) == 24
    first = torch.stack([snow.shown(row, 1, size)[0].mean() for row in range(24)])
    assert 4 < (first == 0).sum() < 20
    last = torch.stack([snow.shown(row, 45, size)[-1] for row in range(24)])
    assert (last.mean((1, 2)) > 0.003).all() and last.max() <= 1
    extent = torch.tensor((96 + 6, 64 + 6))
    place, _ = snow.places(0, 8, extent)
    fall = place[..., 1].diff(dim=0)
    assert (fall[fall > 0] > 0.9).all() and (fall > 0).float().mean() > 0.9


def test_a_flake_is_drawn_where_it_is() -> None:
    snow = draw_snow(Draws(5), 1, (40, 50), 1.0)
    assert snow is not None
    one = replace(
        snow, **{name: getattr(snow, name)[:, :1] for name in ("start", "speed", "sway", "radius", "opacity")}
    )
    one.start[0, 0], one.opacity[0, 0], one.radius[0, 0] = torch.tensor((25.0, 20.0)), 1.0, 1.0
    picture = one.shown(0, 6, (40, 50)).double()
    margin = 2
    place = one.places(0, 6, torch.tensor((50 + 2 * margin, 40 + 2 * margin)))[0][:, 0] - margin
    y, x = torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")
    for frame in range(6):
        mass = picture[frame].sum()
        middle = torch.stack(((picture[frame] * x).sum(), (picture[frame] * y).sum())) / mass
        assert (middle - place[frame]).abs().max() < 0.15


def test_a_sprite_takes_the_colour_that_is_told(bank: TextureBank) -> None:
    config = replace(SMALL, tint_probability=1.0, height=64, static_camera_probability=1.0)
    scene = draw_scene(config, 24, 4, bank)
    tints = scene.sprites.tints
    assert tints is not None
    told = 0
    clips = render_scene(scene, config)
    for index, clip in enumerate(scene.sprites.clip.tolist()):
        name = tints.word(index)
        if name is None:
            assert (tints.share[index] == 0).all()
            continue
        told += 1
        assert name in scene.captions[clip]
        assert tints.share[index, 0] == 0
        x, y = scene.sprites.centre[index, -1].round().long().tolist()
        if tints.share[index, -1] == 1:
            shown = clips.video[clip, :, -1, y, x].float() / 255
            assert (shown - tints.colour[index]).abs().max() < 0.4
    assert told > 16
    # one sprite at most in every clip
    assert len({clip for i, clip in enumerate(scene.sprites.clip.tolist()) if tints.word(i)}) == told


def test_every_tint_has_a_name_of_its_own() -> None:
    names = [colour_word(tint) for tint in TINTS]
    assert None not in names and len(set(names)) == len(TINTS)


def test_a_rich_scene_has_everything_and_stays_repeatable(bank: TextureBank) -> None:
    config = rich_scene(SMALL)
    assert config.speed == SMALL.speed and config.size == SMALL.size
    first, again = render(config, 12, 7, bank), render(config, 12, 7, bank)
    assert torch.equal(first.video, again.video) and torch.equal(first.positions, again.positions)
    assert first.captions == again.captions
    assert first.positions.isfinite().all()
    scene = draw_scene(config, 60, 7, bank)
    assert scene.background.pulls and scene.nearer and scene.sprites.bends and scene.sprites.tints
    assert len(scene.weather) == 2
