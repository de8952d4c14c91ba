"""Depth maps: files, gaps, inverse depth, a model's answer, fitting and scale."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from motionstream.media.pictures import Fit, fit
from motionstream.tracks.depth import (
    MAX_PIXELS,
    DepthModel,
    align_scale,
    check_depth,
    fit_depth,
    from_inverse,
    plain_prior,
    read_depth,
)


def test_the_prior_is_nearest_in_the_middle_and_nearer_at_the_bottom_than_at_the_top():
    depth = plain_prior((48, 64))
    assert depth.shape == (48, 64) and depth.dtype == np.float32
    assert depth[24, 32] == 1 and depth.min() > 0.9
    assert depth[47, 0] < depth[24, 0] < depth[0, 0] < 3
    assert np.abs(np.diff(depth, axis=0)).max() < 0.1  # nothing tears


def test_gaps_are_closed_and_infinity_is_far():
    depth = check_depth(np.array([[1.0, 0.0, np.nan], [2.0, np.inf, -1.0]]))
    assert depth[0].tolist() == [1, 1, 20] and depth[1, 0] == 2 and depth[1, 1] == 20
    for wrong in (np.zeros((2, 2)), np.ones(3), np.ones((2, 2), complex)):
        with pytest.raises(ValueError, match="depth"):
            check_depth(wrong)


def test_inverse_depth_is_bright_where_near():
    depth = from_inverse(np.array([[0.0, 50.0, 100.0]]), far=4)
    assert np.allclose(depth, [[4, 1.6, 1]])  # 1 / (1/4 + 3/4 * 0.5)
    assert np.all(from_inverse(np.full((2, 2), 7.0)) == 1)


def test_files_are_read_back(tmp_path):
    depth = np.arange(1, 13, dtype=np.uint16).reshape(3, 4) * 1000
    Image.fromarray(depth).save(tmp_path / "d.png")
    np.save(tmp_path / "d.npy", depth.astype(np.float32))
    assert np.array_equal(read_depth(tmp_path / "d.png"), depth)
    assert np.array_equal(read_depth(tmp_path / "d.npy"), depth)
    assert np.argmin(read_depth(tmp_path / "d.png", inverse=True)) == 11


def test_what_is_no_depth_map_is_refused_by_name(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.savez(tmp_path / "several.npz", a=np.ones((2, 2)))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    with open(tmp_path / "huge.npy", "wb") as file:  # a header that promises 400 million numbers
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (20_000, 20_000)})
    np.save(tmp_path / "many.npy", np.zeros((MAX_PIXELS // 1000 + 1, 1000), bool))
    Image.fromarray(np.ones((300, 300), np.uint16)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    names = ("huge.npy", "many.npy", "half.png", "colour.png", "text.npy", "flat.npy", "several.npy", "pickled.npy")
    for name in (*names, "none.png", "x.jpg"):
        with pytest.raises(ValueError, match=name):
            read_depth(tmp_path / name)


@pytest.mark.parametrize("side", [8000, 20_000])
def test_a_picture_that_would_take_too_much_is_refused_by_its_header(tmp_path, side: int):
    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0))
    data = part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    with pytest.raises(ValueError, match=r"more than 50,000,000.*scale it down"):
        read_depth(tmp_path / "d.png")


def test_a_depth_map_is_cut_as_its_photograph_whatever_its_resolution():
    photograph = np.zeros((60, 120, 3), np.uint8)
    photograph[:, 60:] = 255
    fitted, fitting = fit(photograph, (32, 32))
    depth = np.where(np.arange(240) < 120, 1.0, 5.0) * np.ones((120, 1))
    cut = fit_depth(depth.astype(np.float32), fitting)
    assert np.array_equal(cut == 5, fitted[..., 0] > 127)
    with pytest.raises(ValueError, match="120x120 for a photograph of 120x60"):
        fit_depth(np.ones((120, 120), np.float32), Fit((60, 120), (32, 32)))


def test_one_scale_aligns_a_prediction_with_a_reconstruction_despite_wrong_points():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 5, (40, 50)).astype(np.float32)
    points = np.stack([rng.uniform(0, 49, 60), rng.uniform(0, 39, 60)], -1)
    column, row = np.floor(points + 0.5).astype(int).T
    known = 3.5 * depth[row, column]
    known[:15] *= rng.uniform(2, 9, 15)  # mismatched
    known[15], points[16] = np.nan, (900, 3)
    assert align_scale(depth, points, known) == pytest.approx(3.5, rel=1e-5)
    with pytest.raises(ValueError, match="none of 1"):
        align_scale(depth, np.array([[99.0, 0.0]]), np.array([1.0]))


def test_a_local_model_of_transformers_is_asked(tmp_path):
    transformers = pytest.importorskip("transformers")
    backbone = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        image_size=56,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type="metric",
        max_depth=20,
    )
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "DPTImageProcessor", "do_resize": true, "size": {"height": 56, "width": 56}, '
        '"ensure_multiple_of": 14, "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, '
        '"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}'
    )
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    depth = DepthModel(tmp_path)(picture)
    assert depth.shape == (40, 60) and depth.dtype == np.float32 and 0 < depth.min() < depth.max() <= 20
    with pytest.raises(ValueError, match="no folder"):
        DepthModel(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no depth-estimation model"):
        DepthModel(tmp_path / "empty")
