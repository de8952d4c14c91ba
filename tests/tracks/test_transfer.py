"""Motion transfer: a source whose motion is known moves points as it should, live as a whole."""

import math

import numpy as np
import pytest
from PIL import Image

from motionstream.tracks import Tracks
from motionstream.tracks.transfer import FIRST_ID, LiveTransfer, VideoTransfer, align, parse_pair, transfer_tracks

SIZE = (64, 64)
SOURCE = (60, 80)


def texture(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(3).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def video(frames: int = 40, step: float = 1.0) -> np.ndarray:
    """A texture that goes right, `step` pixels a frame."""
    wide = texture(60, 160)
    shifts = [round(step * frame) for frame in range(frames)]
    return np.stack([np.roll(wide, shift, axis=1)[:, 40:120] for shift in shifts])


def test_without_pairs_a_source_lies_on_the_picture_as_a_fitted_photograph():
    fitted = align((60, 80), (64, 64))
    middle = fitted.apply(np.array([39.5, 29.5]))
    assert np.allclose(middle, 31.5) and abs(fitted.factor) == pytest.approx(64 / 60)
    assert np.allclose(fitted.inverse().apply(fitted.apply(np.array([[3.0, 4.0]]))), [[3, 4]])


def test_two_pairs_turn_scale_and_move():
    pairs = [((10, 10), (20, 30)), ((30, 10), (20, 50))]  # a quarter turn, the same size
    lies = align(SOURCE, SIZE, pairs)
    assert np.allclose(lies.apply(np.array([[10.0, 10], [30, 10], [10, 20]])), [[20, 30], [20, 50], [10, 30]])
    one = align(SOURCE, SIZE, [((10, 10), (5, 6))])
    assert np.allclose(one.apply(np.array([10.0, 10])), (5, 6)) and one.factor == align(SOURCE, SIZE).factor
    for wrong in ([pairs[0], pairs[0]], [*pairs, pairs[0]]):
        with pytest.raises(ValueError, match="pairs of points"):
            align(SOURCE, SIZE, wrong)
    assert parse_pair("1,2:3,4.5") == ((1, 2), (3, 4.5))
    for text in ("1,2", "1,2:3", "1,2:nan,4"):
        with pytest.raises(ValueError):
            parse_pair(text)


def moves(tracks: Tracks) -> np.ndarray:
    """Median step (T - 1, 2) of the points seen in both of two frames."""
    steps = np.diff(tracks.positions, axis=0)
    both = tracks.visible[1:] & tracks.visible[:-1]
    return np.stack([np.median(step[seen], axis=0) for step, seen in zip(steps, both, strict=True)])


def test_the_picture_moves_as_the_source_does():
    tracks = transfer_tracks(video(), 24, SOURCE, SIZE, 33)
    assert tracks.length == 33 and tracks.visible[0].sum() > 20
    found = moves(tracks)
    assert np.allclose(np.median(found, axis=0), [64 / 60, 0], atol=0.05)
    assert np.allclose(found[5:8], [64 / 60, 0], atol=0.15)
    whole = tracks.visible.all(axis=0)
    assert np.allclose((tracks.positions[-1] - tracks.positions[0])[whole], [32 * 64 / 60, 0], atol=0.6)


def test_a_turned_alignment_turns_the_motion():
    down = transfer_tracks(video(), 24, SOURCE, SIZE, 21, pairs=[((20, 10), (50, 12)), ((60, 10), (50, 52))])
    assert np.allclose(np.median(moves(down), axis=0), [0, 1], atol=0.05)


@pytest.mark.parametrize("rate", [10.0, 48.0])
def test_a_source_of_another_rate_keeps_its_pace(rate):
    frames = video(60, step=24 / rate)
    tracks = transfer_tracks(frames, rate, SOURCE, SIZE, 21)
    gone = moves(tracks).sum(axis=0)
    assert gone[0] == pytest.approx(20 * 64 / 60, abs=2) and abs(gone[1]) < 0.5


def test_live_frames_give_what_the_video_gives():
    frames = video()
    whole = transfer_tracks(frames, 24, SOURCE, SIZE, 33)
    live, parts, number = LiveTransfer(SOURCE, SIZE), [], 0
    for wanted, end in ((9, 8 / 24), (12, 20 / 24), (12, 32 / 24)):
        while number / 24 <= end + 1e-9:
            live.feed(frames[number], number / 24)
            number += 1
        parts.append(live.cut(wanted, end))
    joined = Tracks.merge([Tracks.join(parts)], renumber=True)
    assert np.array_equal(joined.visible, whole.visible)
    assert np.array_equal(joined.positions, whole.positions, equal_nan=True)


def test_what_comes_later_never_changes_what_was_cut():
    frames, other = video(), video()
    other[20:] = texture(60, 80)
    first, second = (transfer_tracks(part, 24, SOURCE, SIZE, 33).frames(0, 9) for part in (frames, other))
    seen = [tracks.select(tracks.visible.any(axis=0)) for tracks in (first, second)]
    assert np.array_equal(seen[0].positions, seen[1].positions, equal_nan=True)


def test_a_cut_scene_loses_its_points_and_new_ones_begin_with_the_next_chunk():
    frames = video(45)
    frames[15:] = texture(60, 80)[:, ::-1]
    live, number, parts = LiveTransfer(SOURCE, SIZE), 0, []
    for wanted, stop in ((9, 9), (12, 21), (12, 33)):
        while number < stop:
            live.feed(frames[number], number / 24)
            number += 1
        parts.append(live.cut(wanted))
    assert parts[1].visible[0].sum() > 15 and parts[1].visible[-1].sum() < 8
    fresh = parts[2].ids > parts[1].ids.max()
    assert fresh.sum() > 20 and parts[2].visible[:, fresh].all(axis=0).mean() > 0.9
    assert (parts[2].ids >= FIRST_ID).all()


def test_a_camera_that_stalls_holds_and_before_its_first_frame_says_nothing():
    live = LiveTransfer(SOURCE, SIZE)
    assert live.cut(9).count == 0
    live.feed(video()[0], 5.0)
    held = [live.cut(12, time) for time in (5.5, 6.0)]
    assert held[0].count > 20 and np.array_equal(held[1].ids, held[0].ids)
    assert np.ptp(np.concatenate([part.positions for part in held]), axis=0).max() == 0


def test_noise_does_not_carry_points_away():
    random, still = np.random.default_rng(0), texture(60, 80).astype(float)
    live, seen = LiveTransfer(SOURCE, SIZE), []
    for number in range(300):
        live.feed(np.clip(still + random.normal(0, 4, still.shape), 0, 255).astype(np.uint8), number / 30)
        if number % 15 == 14:
            seen.append(live.cut(12))
    first, last = seen[0], seen[-1]
    both = np.intersect1d(first.ids[first.visible[0]], last.ids[last.visible[-1]])
    ends = [tracks.positions[frame, np.isin(tracks.ids, both)] for tracks, frame in ((first, 0), (last, -1))]
    assert len(both) > 20 and np.median(np.hypot(*(ends[1] - ends[0]).T)) < 0.5


def test_a_large_source_is_followed_at_a_reduced_size():
    small = video(12)
    large = np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)
    tracks = transfer_tracks(large, 24, (480, 640), SIZE, 9)
    assert np.allclose(np.median(moves(tracks), axis=0), [64 / 60, 0], atol=0.05)


def test_a_video_ends_and_another_source_goes_on_with_other_ids():
    first = VideoTransfer(video(15), 24, LiveTransfer(SOURCE, SIZE))
    assert first.cut(9).length == 9 and not first.ended
    last = first.cut(12)
    assert first.ended and np.nanmax(np.ptp(last.positions[-6:], axis=0)) == 0, "it holds"
    second = VideoTransfer(video(15), 24, LiveTransfer(SOURCE, SIZE, first_id=first.live.next_id))
    assert second.cut(12).ids.min() == first.live.next_id > last.ids.max()


def test_wrong_frames_are_named():
    live = LiveTransfer(SOURCE, SIZE)
    live.feed(video()[0], 1.0)
    for frame, time in ((video()[0], 0.5), (video()[0], math.nan), (np.zeros((4, 4, 3), np.uint8), 2.0)):
        with pytest.raises(ValueError, match="source frame"):
            live.feed(frame, time)
