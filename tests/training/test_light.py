"""Targets in another light: what a sentence asks for is done to the carried picture, and nothing else."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch

from motionstream.autoencoder.linear import LinearAutoencoder, from_blocks
from motionstream.data.captions import colour_word
from motionstream.data.photographs import TRAIN
from motionstream.data.procedural import clear_scene, render
from motionstream.data.textures import TextureBank
from motionstream.data.weather import TINTS
from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips import light
from motionstream.training.clips.light import LIGHTS, SHARES, LitClips, Told, draw_sentence, held, lit, tinted
from motionstream.training.clips.prepared import carrying_model
from motionstream.training.clips.rendered import ClipPool, prepare, with_labels
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes.named import recipe_named

CONFIG = preset("debug")
SCENE = clear_scene(replace(nano_recipes.debug().data.scene, sprites=(1, 1), speed=12.0))
RED = TINTS[0]


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return LinearAutoencoder(CONFIG.autoencoder).eval()


@pytest.fixture(scope="module")
def clips(autoencoder):
    rendered = render(SCENE, 4, 1, TextureBank(TRAIN), labels=True)
    mix = TrackMix(dense=0, random=0, drags=1, mask_probability=0)
    return prepare(rendered, carrying_model(CONFIG, None), autoencoder, mix, torch.Generator().manual_seed(0))


def shown(autoencoder, latents):
    """Colours (B, 3, 4F, H, W) in [0, 1]."""
    return (from_blocks(autoencoder.decode_linear(latents)) + 1) / 2


def carried(clips):
    return torch.cat([clips.latents[:, :, :1], clips.candidates[:, CONFIG.carry.carried, :, 1:]], dim=2)


def told(monkeypatch, *sentences):
    """Let the sentences be drawn in this order: of a clip the first, and the second if it changes."""
    left = list(sentences)
    monkeypatch.setattr(light, "draw_sentence", lambda caption, rng: left.pop(0))


def one(clips, row=0):
    return clips.take([row])


def test_labels_tell_the_sprite_at_every_pixel(clips):
    assert clips.labels.dtype == torch.uint8 and set(clips.labels.unique().tolist()) == {0, 1}
    dense = render(SCENE, 1, 1, TextureBank(TRAIN), labels=True)
    x, y = dense.positions[0].round().long().unbind(-1)
    on = dense.visible[0] & (dense.layer[0] == 1)
    at = dense.labels[0].flatten(1).gather(1, (y * 32 + x).clamp(0, 1023))
    assert (at[on] == 1).float().mean() > 0.95, "points of a sprite lie on it"
    assert render(SCENE, 1, 1, TextureBank(TRAIN)).labels is None


def test_what_moves_is_what_tracks_have_moved(clips):
    moves = clips.moving
    assert moves.shape[1] == 45 and moves.any() and not moves[:, 0].any(), "in the first frame nothing has moved"
    still = replace(clips, positions=clips.start[:, None].expand_as(clips.positions))
    assert not with_labels(still, still.labels).moving.any()


def test_a_sentence_that_asks_for_nothing_leaves_the_carried_picture(monkeypatch, clips, autoencoder):
    monkeypatch.setattr(light, "SWITCHED", 0.0)
    told(monkeypatch, Told("a red ball"))
    made = lit(one(clips), CONFIG, autoencoder, ["a"])
    assert made.captions == made.later == ["a red ball"]
    torch.testing.assert_close(made.latents, carried(one(clips)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", LIGHTS)
def test_light_falls_on_everything_but_the_given_picture(monkeypatch, clips, autoencoder, name):
    monkeypatch.setattr(light, "SWITCHED", 0.0)
    told(monkeypatch, Told("x", light=name))
    made = lit(one(clips), CONFIG, autoencoder, ["a"])
    before = shown(autoencoder, carried(one(clips)))[0]
    expected = autoencoder.encode_part(2 * LIGHTS[name].change(before)[None].clamp(0, 1) - 1, first=False)
    torch.testing.assert_close(made.latents[:, :, 1:], expected[:, :, 1:], atol=1e-4, rtol=0)
    assert torch.equal(made.latents[:, :, :1], one(clips).latents[:, :, :1])
    assert (made.latents[:, :, 1:] - carried(one(clips))[:, :, 1:]).abs().max() > 0.1


def test_a_sentence_that_changes_changes_the_light_from_its_chunk_on(monkeypatch, clips, autoencoder):
    monkeypatch.setattr(light, "SWITCHED", 1.0)
    told(monkeypatch, Told("it gets dark", light="dark"), Told("a cup"))
    made = lit(one(clips), CONFIG, autoencoder, ["a"])
    switch, frames = int(made.switch), CONFIG.causal.chunk_frames
    assert 1 <= switch <= 3 and made.captions == ["it gets dark"] and made.later == ["a cup"]
    change = (made.latents - carried(one(clips)))[0].abs().amax(dim=(0, 2, 3))
    assert change[0] == 0 and change[1 : frames * switch].min() > 0.05
    assert change[frames * switch :].max() < 0.05


def test_what_was_moved_changes_its_colour_and_keeps_it_when_let_go():
    labels = torch.zeros(4, 2, 3, dtype=torch.uint8)
    labels[:, :, 1], labels[:, :, 2] = 1, 2
    moving = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    share = held(labels, moving)
    assert share[0].max() == 0 and (share[1:, :, 1] == 1).all() and share[:, :, [0, 2]].max() == 0


def test_a_new_colour_keeps_half_of_the_shading_and_leaves_the_rest():
    torch.manual_seed(0)
    video, share = 0.4 + 0.2 * torch.rand(3, 2, 8, 8), torch.zeros(2, 8, 8)
    share[:, :, :4] = 1
    new = tinted(video, share, RED)
    assert torch.equal(new[..., 4:], video[..., 4:])
    inside, light_of = new[..., :4], video.mean(dim=0)[..., :4]
    torch.testing.assert_close(inside.mean(dim=(1, 2, 3)), torch.tensor(RED), atol=0.01, rtol=0)
    assert torch.corrcoef(torch.stack([inside[0].flatten(), light_of.flatten()]))[0, 1] > 0.99
    assert abs(inside[0].std() / light_of.std() - 0.5) < 0.01


def test_a_colour_asked_for_later_is_of_what_moves_from_then_on(monkeypatch, clips, autoencoder):
    """What was let go before a sentence is known to nobody; a stream could not recolour it either."""
    monkeypatch.setattr(light, "SWITCHED", 1.0)
    row = int(clips.moving.any(dim=(1, 2)).nonzero()[0])
    before = replace(one(clips, row), moving=one(clips, row).moving.clone())
    before.moving[:, 9:] = False
    told(monkeypatch, Told("a cup"), Told("it turns red", colour=RED))
    made = lit(before, CONFIG, autoencoder, ["a"])
    assert (made.latents - carried(before)).abs().max() < 0.1
    told(monkeypatch, Told("a cup"), Told("it turns red", colour=RED))
    before.moving[:, 9:] = True
    made = lit(before, CONFIG, autoencoder, ["a"])
    assert (made.latents - carried(before)).abs().max() > 0.3


def test_sentences_say_what_they_ask_for_and_colours_of_things_ask_for_nothing():
    rng, seen = Random(0), Counter()
    for _ in range(3000):
        made = draw_sentence("one object moves left, the camera is still", rng)
        kind = "tint" if made.colour else made.light
        seen[kind] += 1
        if made.colour:
            assert colour_word(made.colour) in made.sentence
        elif made.light:
            assert any(sentence in made.sentence for sentence in LIGHTS[made.light].sentences)
        else:
            assert not any(word in made.sentence for word in ("turns", "becomes", "dark", "fog"))
    assert all(abs(seen[kind] / 3000 - share) < 0.03 for kind, share in SHARES.items())
    assert abs(seen[None] / 3000 - (1 - sum(SHARES.values()))) < 0.03


def test_a_step_has_its_own_sentences_whoever_asks_for_which_samples(autoencoder):
    settings = {"size": 4, "batch": 2, "reuse": 2, "seed": 0, "workers": 0, "labels": True}
    pool = ClipPool(CONFIG, SCENE, TrackMix(mask_probability=0), autoencoder, TRAIN, **settings)
    source = LitClips(pool, CONFIG, autoencoder, 0)
    whole, second = source.at(3), source.at(3, range(1, 2))
    assert whole.captions[1] == second.captions[0] and torch.equal(whole.switch[1:], second.switch)
    torch.testing.assert_close(whole.latents[1:], second.latents)
    assert len({tuple(source.at(step).captions) for step in range(4)}) > 1
    assert whole.labels is None and whole.moving is None


def test_light_is_learnt_by_regression_from_rendered_clips_around_carried_pictures():
    nano = recipe_named("nano")
    assert nano.light
    with pytest.raises(ValueError, match="regression_weight"):
        replace(nano, rollouts=replace(nano.rollouts, score_weight=1.0))
    with pytest.raises(ValueError, match="rendered"):
        replace(nano, data=None)
    with pytest.raises(ValueError, match="nano-ids carries no picture"):
        replace(recipe_named("nano-ids"), light=True)
