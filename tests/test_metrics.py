"""PSNR and SSIM against independent code, end-point error by hand, intervals against a known truth."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from motionstream import metrics


def video(seed: int = 0, frames: int = 3, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def noisy(clip: np.ndarray, deviation: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


def test_psnr_is_that_of_scikit_image():
    clip = video()
    other = noisy(clip, 12)
    assert float(metrics.psnr(other, clip)) == pytest.approx(peak_signal_noise_ratio(clip, other), abs=1e-3)


def test_ssim_is_that_of_scikit_image():
    clip = video(frames=2, side=40)
    other = noisy(clip, 40)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    frames = zip(clip, other, strict=True)
    expected = np.mean([structural_similarity(a, b, data_range=255, **settings) for a, b in frames])
    assert float(metrics.ssim(other, clip)) == pytest.approx(expected, abs=0.01)  # they treat the border differently


def test_arrays_and_tensors_give_the_same():
    clip, other = video(), noisy(video(), 20)
    tensors = [torch.from_numpy(x).permute(3, 0, 1, 2)[None] for x in (other, clip)]
    floats = [x.float() / 127.5 - 1 for x in tensors]
    for measure in (metrics.psnr, metrics.ssim):
        expected = measure(other, clip)
        assert torch.allclose(measure(*tensors), expected)
        assert torch.allclose(measure(*floats), expected, atol=1e-4)


def test_psnr_is_per_clip_and_of_equal_clips_finite():
    clip = torch.from_numpy(video()).permute(3, 0, 1, 2)
    other = torch.from_numpy(noisy(video(), 20)).permute(3, 0, 1, 2)
    values = metrics.psnr(torch.stack([clip, other]), torch.stack([clip, clip]))
    assert values.shape == (2,)
    assert values[0] == metrics.MAX_PSNR and 15 < values[1] < 25


def test_a_mask_counts_only_its_pixels():
    clip = video()
    other = clip.copy()
    other[:, :10] = 255 - other[:, :10]
    below = np.zeros(clip.shape[:3], bool)
    below[:, 10:] = True
    assert float(metrics.psnr(other, clip, below)) == metrics.MAX_PSNR
    assert float(metrics.psnr(other, clip, ~below)) < 10
    assert np.isnan(float(metrics.psnr(other, clip, np.zeros_like(below))))


@pytest.mark.parametrize(
    ("first", "second"),
    [(video(), video(side=20)), (video().astype(float), video()), (video()[0], video()), (video()[..., 0], video())],
)
def test_what_is_no_video_is_refused(first, second):
    with pytest.raises(ValueError, match=r"shape|float64|uint8"):
        metrics.psnr(first, second)


def moving(frames: int = 5, step: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """One point that goes right by `step` a frame, one that rests; both seen."""
    positions = np.full((frames, 2, 2), 10.0)
    positions[:, 0, 0] += step * np.arange(frames)
    return positions, np.ones((frames, 2), bool)


def test_moved_frames_need_motion_and_sight():
    positions, visible = moving()
    visible[4, 0] = False
    assert metrics.moved_frames(positions, visible, 4.0)[:, 0].tolist() == [False, False, True, True, False]
    assert not metrics.moved_frames(positions, visible, 4.0)[:, 1].any()


def test_end_point_error_by_hand():
    true, visible = moving()
    counted = metrics.moved_frames(true, visible, 4.0)
    predicted = true + np.array([0.0, 2.0])
    found = np.ones_like(visible)
    assert metrics.end_point_error(predicted, found, true, counted).tolist() == [2.0, 2.0, 2.0]
    found[3:, 0] = False  # lost from frame 3 on: as far off as if it had never moved, 9 and 12 px
    assert metrics.end_point_error(predicted, found, true, counted).tolist() == [2.0, 9.0, 12.0]
    assert metrics.end_point_error(predicted, found, true, counted, lost="skip").tolist() == [2.0]
    predicted[3:] = np.nan  # where it was not found, nothing is read
    assert metrics.end_point_error(predicted, found, true, counted).tolist() == [2.0, 9.0, 12.0]


def test_end_point_error_refuses_other_shapes_and_words():
    true, visible = moving()
    with pytest.raises(ValueError, match=r"predicted \(4, 2, 2\)"):
        metrics.end_point_error(true[:4], visible, true, visible)
    with pytest.raises(ValueError, match="'never'"):
        metrics.end_point_error(true, visible, true, visible, lost="never")


def test_the_interval_covers_the_known_mean_nineteen_times_in_twenty():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        base = rng.normal(0, 5, 30)  # differs much between clips, equally for both sides
        interval = metrics.paired_bootstrap(base + rng.normal(2, 1, 30), base, samples=300, seed=trial)
        covered += interval.low <= 2 <= interval.high
        assert interval.high - interval.low < 1.2  # paired: the clips' own spread does not widen it
    assert 176 <= covered <= 198


def test_clips_are_resampled_whole():
    # many equal numbers within a clip are no more certain than one
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 12)
    single = metrics.paired_bootstrap(values, np.zeros(12))
    repeated = metrics.paired_bootstrap([np.full(50, v) for v in values], [np.zeros(50)] * 12)
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high))


def test_ratio_of_medians_and_clips_without_numbers():
    first = [np.array([1.0, 1.0, 9.0]), np.array([]), np.array([1.0])]
    second = [np.array([4.0, 4.0, 4.0]), np.array([]), np.array([4.0])]
    interval = metrics.paired_bootstrap(first, second, compare="ratio", reduce=np.median)
    assert interval == metrics.Interval(0.25, 0.25, 0.25)
    assert interval.place(0.5) == "below" and interval.place(0.25) == "across" and interval.place(0.1) == "above"
    assert interval == metrics.paired_bootstrap(first, second, compare="ratio", reduce=np.median)


def test_bootstrap_refuses_what_is_not_paired_or_empty():
    with pytest.raises(ValueError, match="2 clips against 1"):
        metrics.paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no clip"):
        metrics.paired_bootstrap([np.array([])], [np.array([])])
    with pytest.raises(ValueError, match="'quotient'"):
        metrics.paired_bootstrap([1.0], [1.0], compare="quotient")


def test_the_drift_curve_falls_where_the_picture_fades_and_not_outside_the_mask():
    picture = video(frames=1)[0]
    frames = np.repeat(picture[None], 12, axis=0)
    for t in range(12):
        frames[t, :8] = picture[:8] * (1 - t / 20)
    curve = metrics.drift_curve(frames, picture, window=3)
    assert curve.shape == (4,) and (np.diff(curve) < -1).all()
    below = np.zeros(picture.shape[:2], bool)
    below[8:] = True
    assert (metrics.drift_curve(frames, picture, below, window=3) == metrics.MAX_PSNR).all()
    with pytest.raises(ValueError, match="2 frames hold no window of 3"):
        metrics.drift_curve(frames[:2], picture, window=3)


def test_blocks_are_steps_at_the_edges_of_cells():
    slope = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None], (1, 64, 64, 3))
    tilted = slope + slope.transpose(0, 2, 1, 3)
    assert metrics.blockiness(tilted) == pytest.approx(1, abs=1e-3)
    cells = (np.arange(64) // 8 * 20).astype(np.uint8)
    stairs = tilted + cells[None, None, :, None] // 4 + cells[None, :, None, None] // 4
    # a step of 1 everywhere, and 5 more at every edge
    assert metrics.blockiness(stairs) == pytest.approx(6, abs=1e-2)
    with pytest.raises(ValueError, match="two cells"):
        metrics.blockiness(tilted[:, :8])
