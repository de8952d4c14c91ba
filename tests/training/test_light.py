"""Targets in another light: what a sentence asks for is done to the carried picture, and nothing else."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch.nn import functional as F

from motionstream.autoencoder.linear import LinearAutoencoder, from_blocks, to_blocks
from motionstream.data.photographs import TRAIN
from motionstream.data.procedural import clear_scene, render
from motionstream.data.textures import TextureBank
from motionstream.model.motion_model import HELD_GAIN
from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips import light
from motionstream.training.clips.light import LIGHTS, PAINTED, PAINTS, SHARES, LitClips, Told, draw_sentence, lit
from motionstream.training.clips.prepared import carrying_model
from motionstream.training.clips.rendered import ClipPool, prepare
from motionstream.training.diffusion.flow_matching import text_tokens
from motionstream.training.diffusion.rollouts import keyed_conditions, texts
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes.named import recipe_named
from motionstream.training.recipes.recipe import with_data

CONFIG = preset("debug")
SCENE = clear_scene(replace(nano_recipes.debug().data.scene, sprites=(1, 1), speed=12.0))


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return LinearAutoencoder(CONFIG.autoencoder).eval()


@pytest.fixture(scope="module")
def clips(autoencoder):
    rendered = render(SCENE, 4, 1, TextureBank(TRAIN))
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


@pytest.mark.parametrize("told_light", [None, "dark"])
@pytest.mark.parametrize("name", PAINTS)
def test_a_new_colour_is_that_of_what_is_held(monkeypatch, clips, autoencoder, name, told_light):
    monkeypatch.setattr(light, "SWITCHED", 0.0)
    monkeypatch.setattr(light, "MARKED", 0.0)
    told(monkeypatch, Told("x", light=told_light, paint=name))
    clip = one(clips)
    held = torch.zeros(1, 1, 45, *CONFIG.size)
    held[..., 8:24, 8:24] = 1
    clip = replace(clip, held=to_blocks(held, 8, first=True))
    before = shown(autoencoder, carried(clip))
    made = shown(autoencoder, lit(clip, CONFIG, autoencoder, ["a"]).latents)
    around, thing = before[0], PAINTS[name].change(before[0]).clamp(0, 1)
    if told_light is not None:
        around, thing = (LIGHTS[told_light].change(x).clamp(0, 1) for x in (around, thing))
    expected = around.clone()
    expected[:, :, 8:24, 8:24] = thing[:, :, 8:24, 8:24]
    expected = shown(autoencoder, autoencoder.encode_part(2 * expected[None] - 1, first=False))
    torch.testing.assert_close(made[:, :, 4:], expected[:, :, 4:], atol=0.01, rtol=0)
    assert (expected[0] - around)[:, 4:, 8:24, 8:24].abs().mean() > 0.01


def test_half_of_the_picture_or_all_of_it_is_held_in_some_clips_and_their_colour_is_new(
    monkeypatch, clips, autoencoder
):
    monkeypatch.setattr(light, "SWITCHED", 0.0)
    monkeypatch.setattr(light, "MARKED", 1.0)
    shares = []
    for key in range(12):
        told(monkeypatch, Told("x", paint="white"))
        made = lit(one(clips), CONFIG, autoencoder, [str(key)])
        held = from_blocks(made.held, channels=1)
        assert torch.equal(held, held[:, :, :1].expand_as(held)) and set(held.unique().tolist()) <= {0.0, 1.0}
        shares.append(float(held.mean()))
        change = (shown(autoencoder, made.latents) - shown(autoencoder, carried(one(clips))))[:, :, 4:]
        cells = F.avg_pool3d(held[:, :, 4:], (1, 8, 8)).repeat_interleave(8, -1).repeat_interleave(8, -2)
        assert change.mean(dim=1, keepdim=True)[cells == 1].mean() > 0.2
        assert (change.abs() * (cells == 0)).max() < 1e-3
    assert shares.count(1.0) >= 3 and sum(0.1 < share < 0.9 for share in shares) >= 3


def test_a_sentence_that_changes_changes_the_light_from_its_chunk_on(monkeypatch, clips, autoencoder):
    monkeypatch.setattr(light, "SWITCHED", 1.0)
    told(monkeypatch, Told("it gets dark", light="dark"), Told("a cup"))
    made = lit(one(clips), CONFIG, autoencoder, ["a"])
    switch, frames = int(made.switch), CONFIG.causal.chunk_frames
    assert 1 <= switch <= 3 and made.captions == ["it gets dark"] and made.later == ["a cup"]
    change = (made.latents - carried(one(clips)))[0].abs().amax(dim=(0, 2, 3))
    assert change[0] == 0 and change[1 : frames * switch].min() > 0.05
    assert change[frames * switch :].max() < 0.05


def test_sentences_say_what_they_ask_for_and_colours_of_things_ask_for_nothing():
    rng, seen, painted = Random(0), Counter(), Counter()
    for _ in range(3000):
        made = draw_sentence("one object moves left, the camera is still", rng)
        seen[made.light] += 1
        painted[made.paint] += 1
        if made.light:
            assert any(sentence in made.sentence for sentence in LIGHTS[made.light].sentences)
        else:
            assert not any(word in made.sentence for word in ("everything turns", "sets", "dark", "fog"))
        if made.paint:
            assert made.paint in made.sentence
            ends = [said.format(made.paint).removeprefix("it ") for said in PAINTS[made.paint].sentences]
            assert any(end in made.sentence for end in ends)
        elif not made.light:
            assert not any(word in made.sentence for word in ("turns", "becomes", "paint", "make"))
    assert all(abs(seen[kind] / 3000 - share) < 0.03 for kind, share in SHARES.items())
    assert abs(seen[None] / 3000 - (1 - sum(SHARES.values()))) < 0.03
    assert abs(painted[None] / 3000 - (1 - PAINTED)) < 0.03 and min(painted[name] for name in PAINTS) > 60


def test_a_step_has_its_own_sentences_whoever_asks_for_which_samples(autoencoder):
    settings = {"size": 4, "batch": 2, "reuse": 2, "seed": 0, "workers": 0}
    pool = ClipPool(CONFIG, SCENE, TrackMix(mask_probability=0), autoencoder, TRAIN, **settings)
    source = LitClips(pool, CONFIG, autoencoder, 0)
    whole, second = source.at(3), source.at(3, range(1, 2))
    assert whole.captions[1] == second.captions[0] and torch.equal(whole.switch[1:], second.switch)
    torch.testing.assert_close(whole.latents[1:], second.latents)
    assert len({tuple(source.at(step).captions) for step in range(4)}) > 1


def test_the_transformer_is_told_what_is_held(clips):
    held = torch.zeros(len(clips), 1, 45, *CONFIG.size)
    held[..., 4:16, 8:24] = 1
    network = Trainee(CONFIG)
    told, untold = (
        keyed_conditions(network, replace(clips, held=blocks), [0] * len(clips)).channels
        for blocks in (to_blocks(held, 8, first=True), None)
    )
    expected = torch.tensor([[0, 0.5, 0.5, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(told[:, -1], HELD_GAIN * expected.expand_as(told[:, -1]))
    assert torch.equal(told[:, :-1], untold[:, :-1]) and not untold[:, -1].any()
    none = replace(clips, held=to_blocks(held, 8, first=True)).without_tracks(torch.ones(len(clips), dtype=torch.bool))
    assert not none.held.any(), "without tracks nothing is held"


def test_a_rollout_reads_the_sentence_of_each_chunk(monkeypatch, clips, autoencoder):
    monkeypatch.setattr(light, "SWITCHED", 1.0)
    made = lit(clips, CONFIG, autoencoder, list("abcd"))
    network = Trainee(CONFIG)
    read = texts(network, made, text_tokens(network.text, made))
    assert len(read) == 4 and made.switch.min() >= 1
    for row, switch in enumerate(made.switch.tolist()):
        for chunk, tokens in enumerate(read):
            said = made.captions[row] if chunk < switch else made.later[row]
            assert torch.equal(tokens[row], network.text.encode([said])[0])
    plain = text_tokens(network.text, clips)
    assert all(tokens is plain for tokens in texts(network, clips, plain))


def test_light_is_learnt_by_regression_from_rendered_clips_around_carried_pictures():
    nano = recipe_named("nano")
    assert nano.light
    with pytest.raises(ValueError, match="regression_weight"):
        replace(nano, rollouts=replace(nano.rollouts, score_weight=1.0))
    with pytest.raises(ValueError, match="own_content"):
        replace(nano, rollouts=replace(nano.rollouts, own_content=True))
    prepared = with_data(nano, shards=(Path("set"),), base="nano")
    assert not prepared.light and not prepared.rollouts.regression_evenly and nano.rollouts.regression_evenly
    assert prepared.rollouts.regression_to == "median" and prepared.rollouts.own_content
    with pytest.raises(ValueError, match="rendered"):
        replace(nano, data=None)
    with pytest.raises(ValueError, match="nano-ids carries no picture"):
        replace(recipe_named("nano-ids"), light=True)
