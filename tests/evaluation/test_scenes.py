"""Evaluation clips: held out, repeatable, conditioned and measured as their docstrings say."""

from dataclasses import replace

import numpy as np
import pytest

from motionstream.evaluation import scenes
from motionstream.metrics import psnr
from motionstream.presets import debug


@pytest.fixture(scope="module")
def clips() -> list[scenes.EvaluationClip]:
    return [scenes.held_out_clip(debug(), index) for index in range(8)]


def test_a_clip_depends_on_its_numbers_alone(clips):
    again = scenes.held_out_clip(debug(), 3)
    assert (again.video == clips[3].video).all() and (again.drags.positions == clips[3].drags.positions).all()
    assert (clips[2].video != clips[3].video).any()
    assert (scenes.held_out_clip(debug(), 3, seed=1).video != clips[3].video).any()


def test_seeds_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="seed 1000"):
        scenes.held_out_clip(debug(), 0, seed=1000)


def test_conditions_begin_in_the_first_frame(clips):
    for clip in clips:
        for tracks in (clip.drags, clip.dense, clip.followed):
            assert tracks.visible[0].all() and tracks.length == scenes.FRAMES
        assert clip.drags.count >= 1 and clip.dense.count > clip.drags.count
        assert clip.dense.count <= scenes.DENSE_POINTS and clip.followed.count <= scenes.FOLLOWED_POINTS


def test_scenes_without_motion_are_passed_over(monkeypatch):
    made = scenes.held_out_clip

    def sometimes_still(config, index, seed, speed):
        clip = made(config, index, seed, speed)
        if index == 1:
            return replace(clip, followed=clip.followed.select([]), counted=clip.counted[:, :0])
        if index == 2:  # a turn is over before anything has moved
            return replace(clip, counted=clip.counted & (np.arange(len(clip.counted)) >= 36)[:, None])
        return clip

    monkeypatch.setattr(scenes, "held_out_clip", sometimes_still)
    captions = [made(debug(), index, 0, 20.0) for index in range(5)]
    assert captions[2].counted[36:].any()
    for end, without in ((36, (1, 2)), (45, (1,))):
        expected = [clip.caption for k, clip in enumerate(captions) if k not in without and clip.followed.count][:2]
        assert [clip.caption for clip in scenes.scenes(debug(), 2, 0, 20.0, slice(end))] == expected


def test_followed_points_move(clips):
    assert sum(clip.followed.count for clip in clips) > 30
    for clip in clips:
        assert clip.counted.shape == clip.followed.visible.shape and clip.counted.any(axis=0).all()
        moved = np.linalg.norm(clip.followed.positions - clip.followed.positions[0], axis=-1)
        assert (moved[clip.counted] >= scenes.LEAST_MOTION).all() and clip.followed.visible[clip.counted].all()


def test_the_background_is_what_never_changes(clips):
    for clip in clips:
        still = np.repeat(clip.video[:1], len(clip.video), axis=0)
        assert clip.background[0].any()
        assert float(psnr(still, clip.video, clip.background)) > 90  # a soft edge too faint to see may round up
    moving = next(clip for clip in clips if clip.followed.count)
    assert float(psnr(np.repeat(moving.video[:1], 45, axis=0), moving.video, ~moving.background)) < 30


def test_drags_are_rigid_grids_of_one_sprite_each_and_pins():
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(0, 128, 6.0), np.arange(0, 128, 6.0))
    places = np.stack([x, y], axis=-1).reshape(-1, 2)
    layer = np.where(places[:, 0] < 40, 1, np.where(places[:, 0] > 90, 2, 0))
    seen = np.ones(len(places), bool)
    seen[layer == 2] = False
    for _ in range(10):
        chosen = scenes.drag_points(places, seen, layer, rng)
        assert set(layer[chosen]) == {0, 1}  # the hidden sprite is left alone
        spread = places[chosen[layer[chosen] == 1]]
        assert len(spread) >= 2 and np.linalg.norm(spread - spread.mean(axis=0), axis=-1).max() < 2 * 16
        assert len(chosen) == len(set(chosen.tolist())) < len(places) / 3
