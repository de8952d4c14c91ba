"""The pool of rendered clips: the position in the data is the step, and clips are used again and forgotten."""

import weakref

import pytest
import torch

from motionstream.training import stages
from motionstream.training.clips.rendered import ClipPool
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes import recipe as recipes


@pytest.fixture(scope="module")
def make_pool():
    recipe = nano_recipes.debug()
    autoencoder = stages.LinearAutoencoder(recipe.model.autoencoder)

    def make(**changes):
        settings = {"size": 6, "batch": 2, "reuse": 3, "seed": 4, "workers": 0} | changes
        return ClipPool(recipe.model, recipe.data.scene, recipes.TrackMix(), autoencoder, stages.TRAIN, **settings)

    return make


def same(a, b):
    return a.captions == b.captions and torch.equal(a.latents, b.latents) and torch.equal(a.candidates, b.candidates)


def test_the_position_in_the_data_is_the_step(make_pool):
    pool = make_pool()
    state = torch.get_rng_state()
    straight = [pool.at(step) for step in range(8)]
    assert torch.equal(torch.get_rng_state(), state)
    late = make_pool()
    for step in (5, 6, 7):
        assert same(late.at(step), straight[step])
    assert same(late.at(2), straight[2])  # back again
    in_parts = make_pool(workers=1)
    for step in (4, 5):
        for sample in (0, 1):
            assert same(in_parts.at(step, range(sample, sample + 1)), straight[step].take([sample]))
    assert not same(make_pool(seed=5).at(0), straight[0])
    latents = torch.cat([clips.latents for clips in straight])
    assert latents.std() > 0.1
    with pytest.raises(ValueError, match="samples 1:3 are not among the pool's 2"):
        pool.at(0, range(1, 3))


@pytest.mark.usefixtures("uncollected")
def test_what_is_dropped_ends_at_once(make_pool):
    pool = make_pool(workers=1)
    pool.at(0)
    gone = weakref.ref(pool)
    del pool
    assert gone() is None


def test_a_clip_is_used_reuse_times_and_then_forgotten(make_pool):
    pool = make_pool(reuse=4)
    made = []
    source = pool._loader.dataset.dataset
    counted = type("Counted", (), {"__getitem__": lambda self, key: (made.append(key), source[key])[1]})
    pool._loader.dataset.dataset = counted()
    for step in range(24):
        pool.at(step)
    assert len(made) == len(set(made))
    # two lanes, a fresh clip every four steps, two to begin with; a few are never chosen
    assert 9 <= len(made) <= 2 * (2 + 24 // 4)
    assert len(pool._kept) <= 6
