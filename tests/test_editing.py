"""Editing keeps what does not change, and brings what does to the picture's own size with its detail."""

import numpy as np
from PIL import Image

from motionstream.editing import edit_picture, enlarge
from motionstream.media.pictures import fit
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import Tracks, drag_tracks


def noise(height: int, width: int, seed: int, cell: int = 2) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // cell, width // cell, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def patch_scene(left: int) -> np.ndarray:
    """128 x 192: even ground, and a finely textured patch of 48 pixels from `left` on."""
    picture = np.full((128, 192, 3), 90, np.uint8)
    picture[40:88, left : left + 48] = noise(48, 48, 5)
    return picture


def test_what_did_not_change_keeps_its_own_pixels():
    picture = noise(128, 192, 1)
    small, _ = fit(picture, (32, 32))
    assert np.array_equal(enlarge(picture, small, small, Tracks.empty(1, (32, 32))), picture)


def test_a_dragged_patch_arrives_with_its_fine_detail():
    before, after = patch_scene(48), patch_scene(80)
    first, fitting = fit(before, (64, 64))  # half the size, the middle 128 columns
    last, _ = fit(after, (64, 64))
    start = tuple(fitting.to_fitted(np.array([71.5, 63.5])).tolist())
    drag = drag_tracks(start, (start[0] + 16, start[1]), 12, (64, 64), radius=17, spacing=4)
    edited = enlarge(before, first, last, drag)
    inner = np.s_[46:82, 86:122]
    plain = np.asarray(Image.fromarray(last).resize((128, 128), Image.Resampling.BICUBIC))
    error = np.abs(edited[inner].astype(float) - after[inner]).mean()
    blurred = np.abs(plain[46:82, 54:90].astype(float) - after[inner]).mean()
    assert error < 0.3 * blurred
    assert np.array_equal(edited[:, :30], before[:, :30]) and np.array_equal(edited[:, -30:], before[:, -30:])
    assert np.abs(edited[44:84, 52:72].astype(int) - 90).max() < 40  # where it was, the ground


def test_an_edit_is_the_stream_s_last_frame():
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    picture = noise(40, 60, 2, cell=4)
    tracks = drag_tracks((8, 8), (20, 14), 21, pipeline.config.size, radius=6, spacing=4)
    edit = edit_picture(pipeline, picture, tracks, seed=3)
    assert edit.picture.shape == picture.shape and edit.picture.dtype == np.uint8
    assert np.array_equal(edit.transition, pipeline(picture, tracks, seed=3))
