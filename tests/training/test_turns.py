"""Clips whose drags are let go and taken up anew: nothing moves undragged, and every track is where its point is."""

from itertools import pairwise

import pytest
import torch

from motionstream.data.photographs import TRAIN
from motionstream.data.procedural import SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips.rendered import ClipPool
from motionstream.training.clips.turns import LONGEST, draw_turns, reorder, sample_turns, still_scene
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes import recipe as recipes

CHUNKS = [0, 9, 21, 33, 45, 57, 69]
FRAMES = 81
SCENE = still_scene(SceneConfig(height=64, width=64, frames=FRAMES, sprite_radius=(8.0, 16.0), background_grid=8))


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def made():
    """(reordered clip, its turns, its tracks), several."""
    bank, found = TextureBank(TRAIN), []
    for seed in range(6):
        turns = draw_turns(FRAMES, generator(seed), chunks=CHUNKS)
        clips = reorder(render(SCENE, 1, seed, bank), turns)
        found.append((clips, turns, sample_turns(clips, turns, TrackMix(), generator(seed), chunks=CHUNKS)))
    return found


def test_turns_are_whole_chunks_on_or_back_frame_by_frame():
    rests, ways, lengths = 0, set(), set()
    for seed in range(40):
        turns = draw_turns(FRAMES, generator(seed), chunks=CHUNKS)
        assert turns.frame[0] == 0 and turns.frame.min() >= 0 and turns.frame.max() < FRAMES
        steps = turns.frame.diff()
        assert (steps[~turns.dragging[1:]] == 0).all() and (steps[turns.dragging[1:]].abs() == 1).all()
        changed = 1 + ((turns.turn.diff() != 0) | (turns.dragging.diff())).nonzero()[:, 0]
        assert set(changed.tolist()) <= set(CHUNKS)
        rests += int((~turns.dragging).any())
        ways |= set(steps.tolist())
        chunk = torch.bucketize(torch.arange(FRAMES), torch.tensor(CHUNKS), right=True)
        lengths |= {len(chunk[turns.turn == number].unique()) for number in range(int(turns.turn.max()))}
    assert 5 < rests < 40 and ways == {-1, 0, 1} and max(lengths) <= LONGEST + 1 and min(lengths) == 1


def test_what_no_track_holds_is_still(made):
    for clips, turns, _ in made:
        resting = (~turns.dragging).nonzero()[:, 0]
        for frame in resting[resting > 0].tolist():
            assert torch.equal(clips.video[:, :, frame], clips.video[:, :, frame - 1])
        background = clips.positions[0][:, clips.layer[0] == 0]
        assert (background - background[:1]).abs().max() == 0


def test_every_sprite_seen_is_dragged_in_every_turn_by_tracks_of_that_turn(made):
    for clips, turns, tracks in made:
        seen = tracks.visible[0]
        for number in range(int(turns.turn.max()) + 1):
            during = ((turns.turn == number) & turns.dragging).nonzero()[:, 0]
            if not len(during):
                continue
            born = CHUNKS.index(int(during[0]))
            rows = (tracks.birth[0] == born).nonzero()[:, 0]
            before = max(0, CHUNKS[born] - 1)
            levels = clips.layer[0][(clips.layer[0] > 0) & clips.visible[0, before]].unique()
            assert len(rows) >= len(levels)
            if born > 0:  # with the clip begin pins, too, and they stay
                outside = torch.ones(FRAMES, dtype=torch.bool)
                outside[during] = False
                assert not seen[outside][:, rows].any() and tracks.positions[0][outside][:, rows].isnan().all()
                assert tracks.events[0, born]


def test_tracks_are_the_clips_own_points_from_where_they_begin(made):
    followed = 0
    for clips, _, tracks in made:
        for row in tracks.visible[0].any(dim=0).nonzero()[:, 0].tolist():
            there = tracks.visible[0, :, row]
            off = (clips.positions[0] - tracks.positions[0, :, row][:, None])[there].abs().amax(dim=(0, 2))
            point = off.argmin()
            assert off[point] == 0
            before = max(0, CHUNKS[tracks.birth[0, row]] - 1)
            torch.testing.assert_close(tracks.start[0, row], clips.positions[0, before, point], atol=0, rtol=0)
            followed += 1
    assert followed > 50


def test_events_are_where_the_set_of_tracks_changes(made):
    for _, turns, tracks in made:
        kinds = [(int(turns.turn[start]), bool(turns.dragging[start])) for start in CHUNKS]
        changes = [True, *(now != then for then, now in pairwise(kinds))]
        assert tracks.events[0].tolist() == changes


def test_the_pool_draws_the_share_that_it_is_told():
    recipe = nano_recipes.debug()
    autoencoder = MotionStreamPipeline.from_pretrained("debug", untrained=True).parts.autoencoder
    mix = TrackMix(dense=1, random=0, drags=0)  # these begin with the clip and stay: later events are those of turns

    def turned(turns):
        """Of 8 clips, how many have later events."""
        settings = {"size": 8, "batch": 8, "reuse": 4, "seed": 0, "workers": 0}
        pool = ClipPool(recipe.model, recipe.data.scene, mix, autoencoder, TRAIN, turns=turns, **settings)
        return int(pool.at(0).events[:, 1:].any(dim=1).sum())

    assert turned(0.0) == 0 and turned(1.0) >= 6 and 0 < turned(0.5) < 8


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"turns = 1\.5"):
        recipes.Rendered(SCENE, turns=1.5)
