"""The evaluation itself, on videos whose score is known and end to end at debug size."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionstream.evaluation import baselines, rendered, scenes
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import debug, nano
from motionstream.tracks.tracker import TemplateTracker


@pytest.fixture(scope="module")
def pipeline() -> MotionStreamPipeline:
    return MotionStreamPipeline.from_pretrained("debug", untrained=True)


@pytest.fixture(scope="module")
def large() -> list[scenes.EvaluationClip]:
    """Clips at nano's size, whose patches the tracker can tell apart."""
    return [scenes.held_out_clip(nano(), index) for index in range(2)]


def scored(clip: scenes.EvaluationClip, video: np.ndarray) -> rendered.RenderedRow:
    row = rendered.RenderedRow()
    row.add(video, clip, TemplateTracker())
    return row


def frozen_errors(clip: scenes.EvaluationClip) -> np.ndarray:
    return np.linalg.norm(clip.followed.positions - clip.followed.positions[0], axis=-1)[clip.counted]


def test_a_perfect_video_has_almost_no_error(large):
    for clip in large:
        row = scored(clip, clip.video)
        assert np.median(row.errors[0]) < 0.5 and row.psnr == row.background == [100]


def test_a_frozen_video_scores_the_true_motion(large):
    for clip in large:
        row = scored(clip, baselines.frozen(clip.video))
        assert np.allclose(row.errors[0], frozen_errors(clip), atol=0.05)
        assert row.background == [100] and row.psnr[0] < 35


def test_the_warp_along_the_true_tracks_follows_and_along_shuffled_ones_does_not(large):
    pipeline = MotionStreamPipeline.from_pretrained("nano", untrained=True)
    errors: dict[str, list[np.ndarray]] = {"true": [], "shuffled": [], "frozen": []}
    for clip in large:
        start = clip.drags.positions[:1]
        moves = clip.drags.positions - start
        # every track gets the motion of another one of this clip, so that the motions as a whole are the same
        other = np.random.default_rng(0).permutation(clip.drags.count)
        shuffled = replace(clip.drags, positions=start + moves[:, other])
        for name, tracks in (("true", clip.drags), ("shuffled", shuffled)):
            errors[name].append(scored(clip, baselines.warped(pipeline, clip.video, tracks)).errors[0])
        errors["frozen"].append(frozen_errors(clip))
    mean = {name: np.concatenate(parts).mean() for name, parts in errors.items()}
    assert mean["true"] < 0.5 * mean["frozen"] and mean["true"] < 0.6 * mean["shuffled"]


def test_moving_the_whole_picture_is_seen_in_the_background(large):
    clip = large[0]
    shift = [np.roll(frame, t // 4, axis=1) for t, frame in enumerate(clip.video)]
    assert scored(clip, np.stack(shift)).background[0] < 25


def test_the_warp_leaves_the_first_frame_and_moves_every_pixel_with_one_track(pipeline):
    clip = scenes.held_out_clip(debug(), 0)
    one = clip.drags.select([0])
    moved = np.repeat(one.positions[:1], one.length, axis=0)
    moved[1:, :, 0] += 5
    one = replace(one, positions=moved, visible=np.ones_like(one.visible))
    video = baselines.warped(pipeline, clip.video, one)
    assert (video[0] == clip.video[0]).all()
    assert (video[7, :, 5:] == clip.video[0, :, :-5]).all()


def test_an_untrained_model_is_its_carried_mixture_but_for_the_noise(pipeline):
    clip = scenes.held_out_clip(debug(), 1)
    mixture = baselines.carried_mixture(pipeline, clip.video, clip.drags)
    streamed = pipeline(clip.video[0], clip.drags, clip.caption, 0)
    assert mixture.shape == streamed.shape and (mixture[0] == streamed[0]).all()
    difference = np.abs(mixture.astype(int) - streamed.astype(int)).mean()
    other = np.abs(mixture.astype(int) - clip.video.astype(int)).mean()
    assert difference < 0.3 * other


def test_coded_video_comes_back_in_the_same_shape(pipeline):
    clip = scenes.held_out_clip(debug(), 0)
    assert baselines.coded(pipeline, clip.video).shape == clip.video.shape


def test_an_error_counts_in_its_own_region_alone(large):
    clip = next(c for c in large if all(mask.sum() >= rendered.LEAST_PIXELS for mask in c.regions.values()))
    for name, mask in clip.regions.items():
        video = clip.video.copy()
        video[mask] = 255 - video[mask]
        row = scored(clip, video)
        assert row.regions[name][0] < 20
        if name != "edges":  # which reach into the background
            other = "turned" if name == "uncovered" else "uncovered"
            assert row.background == row.regions[other] == [100]


def test_regions_too_small_to_measure_are_left_out(large):
    clip = large[0]
    few = np.zeros_like(clip.background)
    few[3, 0, :10] = True
    row = scored(replace(clip, regions={**clip.regions, "turned": few}), clip.video)
    assert np.isnan(row.regions["turned"][0]) and row.summary()["psnr_turned"] is None
    assert row.summary()["psnr_edges"] == 100


def test_pins_move_as_far_as_the_picture_does(large):
    still, moved = [], []
    for clip in large:
        still.append(scored(clip, baselines.frozen(clip.video)))
        first = clip.video[0]
        shift = [np.roll(first, min(t, 3), axis=1) for t in range(len(clip.video))]
        moved.append(scored(clip, np.stack(shift)))
    pins = np.concatenate([row.pins[0] for row in still])
    assert len(pins) > 200 and np.median(pins) < 0.05
    assert np.median(np.concatenate([row.pins[0] for row in moved])) == pytest.approx(3, abs=0.1)
    assert sum(row.pins_lost[0].sum() for row in still) == 0


def flat(psnr: list[float]) -> rendered.RenderedRow:
    made = rendered.RenderedRow(psnr=psnr, background=psnr)
    made.regions["edges"] = [value - 5 for value in psnr]
    return made


def test_gain_is_a_share_of_the_ceiling_s():
    frozen, ceiling = flat([20.0, 22.0]), flat([36.0, 38.0])
    assert frozen.gains(frozen, ceiling)["gain"] == 0 and ceiling.gains(frozen, ceiling)["gain_edges"] == 1
    half = flat([28.0, 30.0]).gains(frozen, ceiling)
    assert half == {"gain": 0.5, "gain_uncovered": None, "gain_edges": 0.5, "gain_turned": None}
    assert flat([100.0, 100.0]).gains(frozen, ceiling)["gain"] is None
    named = {rendered.FROZEN: frozen, rendered.CEILING: ceiling, rendered.MODEL: flat([24.0, 26.0])}
    found = rendered.compare(named)[f"psnr gain: model / {rendered.CEILING}"]
    assert found.value == pytest.approx(0.25) and found.low == pytest.approx(0.25)


def test_regions_are_compared_where_they_were_measured():
    model, warp = flat([30.0, 31.0, 32.0]), flat([28.0, 29.0, 30.0])
    for row in (model, warp):
        row.regions["edges"][1] = np.nan
    found = rendered.compare({rendered.MODEL: model, rendered.WARP: warp})
    assert found[f"edges: model - {rendered.WARP}"].value == pytest.approx(2)
    assert f"turned: model - {rendered.WARP}" not in found


def test_walking_speed_asks_for_a_third_of_it_and_for_pins_that_rest():
    row = rendered.RenderedRow(errors=[np.full(9, 3.0), np.full(9, 3.5)], pins=[np.full(4, 0.4), np.zeros(0)])
    slow, fast = rendered.walking(row, 6.0), rendered.walking(row, 12.0)
    assert slow["epe"]["bound"] == pytest.approx(2) and fast["epe"]["bound"] == pytest.approx(4)
    assert not slow["epe"]["met"] and fast["epe"]["met"] and slow["epe"]["value"] == pytest.approx(3.25)
    assert slow["pins"]["met"] and slow["pins"]["value"] == pytest.approx(0.4)
    assert "missed" in slow["epe"]["sentence"] and "at most 4 px" in fast["epe"]["sentence"]
    assert rendered.walking(replace(row, pins=[np.full(4, 1.5)] * 2), 6.0)["pins"]["met"] is False
    assert rendered.walking(rendered.RenderedRow(), 6.0)["pins"]["met"] is None


def rows(model: list[float], frozen: list[float]) -> rendered.RenderedRows:
    def row(errors: list[float], psnr: float) -> rendered.RenderedRow:
        made = rendered.RenderedRow()
        for number, error in enumerate(errors):
            made.psnr.append(psnr + 0.1 * number)
            made.background.append(psnr)
            made.ssim.append(0.5)
            made.errors.append(np.full(5, error))
            made.lost.append(np.zeros(5, bool))
        return made

    return {rendered.FROZEN: row(frozen, 20.0), rendered.WARP: row(frozen, 22.0), rendered.MODEL: row(model, 25.0)}


def test_the_target_says_where_the_interval_lies():
    frozen = [10.0, 12.0, 8.0, 11.0]
    for factor, place in ((0.2, "below"), (0.9, "above")):
        intervals = rendered.compare(rows([factor * e for e in frozen], frozen))
        found = rendered.target(intervals)
        assert found["median"] == found["mean"] == place and place in found["sentence"]
        assert intervals[f"psnr: model - {rendered.WARP}"].value == pytest.approx(3)
    mixed = rendered.target(rendered.compare(rows([1.0, 12.0, 1.0, 11.0], frozen)))
    assert mixed["mean"] == "across"


def test_nothing_to_follow_is_said_and_not_an_error():
    made = rows([1.0, 1.0], [2.0, 2.0])
    for row in made.values():
        row.errors = row.lost = [np.zeros(0)] * 2
    assert "no point moved" in rendered.target(rendered.compare(made))["sentence"]
    assert made[rendered.MODEL].cells()[-2] == "-" and made[rendered.MODEL].summary()["lost"] is None


def test_evaluate_end_to_end(tmp_path, capsys):
    output = tmp_path / "result.json"
    result = rendered.evaluate("debug", clips=2, untrained=True, output=output, speed=12.0)
    printed = capsys.readouterr().out
    assert json.loads(printed.strip().splitlines()[-1]) == json.loads(output.read_text()) == result
    expected = [rendered.TRUTH, rendered.CEILING, rendered.FROZEN, rendered.CODED_FROZEN, rendered.NO_TRACKS]
    expected += [rendered.GUESSED, rendered.WARP, rendered.MIXTURE, rendered.MODEL]
    assert list(result["drags"]) == expected and list(result["dense"]) == expected[-3:]
    assert printed.index(rendered.TRUTH) < printed.index(rendered.WARP) < printed.index("target")
    assert result["drags"][rendered.TRUTH]["psnr"] == 100
    assert result["drags"][rendered.FROZEN]["gain"] == 0 and result["drags"][rendered.CEILING]["gain"] == 1
    guessed = result["drags"][rendered.GUESSED]
    assert guessed["psnr_uncovered"] == pytest.approx(result["drags"][rendered.MIXTURE]["psnr_uncovered"], abs=1e-3)
    assert guessed["psnr_background"] == result["drags"][rendered.CEILING]["psnr_background"]
    assert result["drags"][rendered.FROZEN]["pins"] == 0 and "psnr_uncovered" in result["dense"][rendered.MODEL]
    assert result["walking"]["epe"]["bound"] == pytest.approx(4) and "median EPE at speed 12" in printed
    assert "uncovered" in printed and result["settings"]["speed"] == 12
    assert result["environment"]["versions"]["torch"] == torch.__version__ and result["settings"]["clips"] == 2


def test_bad_settings_are_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="clips = 0"):
        rendered.evaluate("debug", clips=0, untrained=True)
    with pytest.raises(ValueError, match="unknown suffix"):
        rendered.evaluate("debug", output=tmp_path / "a.txt", untrained=True)
    with pytest.raises(ValueError, match="no folder"):
        rendered.evaluate("debug", output=tmp_path / "none" / "a.json", untrained=True)
