import os
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from motionstream.media import pictures
from motionstream.media.files import atomic_path
from motionstream.media.pictures import Fit, fit, read_picture, write_picture
from motionstream.media.sheets import contact_sheet, draw_tracks
from motionstream.media.videos import VideoWriter


def gradient(height: int, width: int) -> np.ndarray:
    """Red says x, green says y, both over the whole range; blue is even."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / (width - 1), 255 * y / (height - 1), 0 * x + 90], -1).astype(np.uint8)


# ---------------------------------------------------------------- whole or not at all


def test_atomic_path_renames_on_success(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_leaves_the_old_file_when_the_body_raises(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_writes_through_links(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "far" / "real.txt")
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "real.txt").read_text() == "new"


def test_saved_files_have_ordinary_permissions(tmp_path):
    plain, saved = tmp_path / "plain.png", tmp_path / "saved.png"
    plain.touch()
    write_picture(saved, gradient(4, 4))
    assert saved.stat().st_mode == plain.stat().st_mode


def unwritable(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "file").touch()
    return {
        "there is no folder": tmp_path / "missing" / "a.mp4",
        "it is a folder": tmp_path / "folder.mp4",
        "write-protected or no file": tmp_path / "pipe.mp4",
        "File name too long": tmp_path / ("a" * 300 + ".mp4"),
        "no folder .*file": tmp_path / "file" / "a.mp4",
        r"unknown suffix; end the name in \.mp4": tmp_path / "a.gif",
    }


def test_unwritable_output_is_refused_at_construction(tmp_path):
    for why, path in unwritable(tmp_path).items():
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(ValueError, match=why) as refused:
            VideoWriter(path, (16, 16), 24)
        assert str(path) in str(refused.value)
        assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses even root")
def test_folder_without_permission_is_refused():
    with pytest.raises(ValueError, match=r"cannot write /proc/.*choose another place"):
        VideoWriter("/proc/self/a.mp4", (16, 16), 24)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".gif", ".jpg", ".webp"])
def test_pictures_read_back(tmp_path, suffix):
    path, picture = tmp_path / f"a{suffix}", gradient(24, 32)
    Image.fromarray(picture).save(path)
    read = read_picture(path)
    assert read.dtype == np.uint8
    assert read.shape == (24, 32, 3)
    allowed = 0 if suffix in (".png", ".bmp", ".tiff") else 12
    assert np.abs(read.astype(int) - picture).mean() <= allowed


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_written_pictures_read_back(tmp_path, suffix):
    write_picture(tmp_path / f"a{suffix}", gradient(24, 32))
    assert np.abs(read_picture(tmp_path / f"a{suffix}").astype(int) - gradient(24, 32)).mean() < 3
    assert os.listdir(tmp_path) == [f"a{suffix}"]


def test_picture_of_wrong_type_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"uint8.*float64 \(1, 4, 4, 3\)"):
        write_picture(tmp_path / "a.png", np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"end the name in \.png"):
        write_picture(tmp_path / "a.svg", gradient(4, 4))
    assert os.listdir(tmp_path) == []


def test_exif_rotation_is_applied(tmp_path):
    upright, exif = gradient(24, 32), Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise to show
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png"), upright)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0] = (200, 0, 0, 255)
    rgba[:, 1] = (200, 0, 0, 0)
    rgba[:, 2] = (0, 0, 0, 128)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png")[0].tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 127]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "b.gif", transparency=1)
    assert read_picture(tmp_path / "b.gif").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_pillow_picture_is_what_its_file_is(tmp_path):
    from motionstream.scene import read_rgb

    rgba = np.dstack([gradient(24, 32), np.full((24, 32), 100, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    Image.fromarray(np.full((2, 2), 30_000, np.uint16)).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient(24, 32)).save(tmp_path / "lying.png", exif=exif)
    for name in ("clear.png", "deep.png", "lying.png"):
        assert np.array_equal(read_rgb(Image.open(tmp_path / name)), read_rgb(tmp_path / name))


def test_colours_of_another_profile_become_srgb(tmp_path):
    """The rocket is stored in Adobe RGB, in which the same numbers are stronger colours."""
    rocket = Path(__file__).parents[2] / "examples" / "rocket.jpg"
    image = Image.open(rocket)
    assert "Adobe RGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"])))
    stored = np.asarray(image).astype(int)
    difference = read_picture(rocket).astype(int) - stored
    assert 2 < np.abs(difference).mean() < 10
    grey = np.ptp(stored, axis=-1) < 2  # what has no colour has none in either
    assert grey.any() and np.abs(np.ptp(read_picture(rocket)[grey].astype(int), axis=-1)).max() <= 4

    upright = gradient(24, 32)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("srgb.png", srgb), ("broken.png", b"no profile")):
        Image.fromarray(upright).save(tmp_path / name, icc_profile=profile)
        assert np.array_equal(read_picture(tmp_path / name), upright)


def test_grey_of_eight_and_sixteen_bits(tmp_path):
    deep = np.array([[0, 257, 0x7FFF, 0x8000, 0xFFFF]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 127, 128, 255]
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png")[0].tolist() == [[0] * 3, [7] * 3, [255] * 3]


def test_first_frame_of_an_animation(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert read_picture(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def png_header(path: Path, width: int, height: int) -> None:
    """A PNG that claims a size and holds no pixels: telling must not need them."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", b"") + part(b"IEND", b""))


@pytest.mark.parametrize(
    ("side", "named"), [(20_000, "400000000 pixels"), (10_000, "10000x10000"), (7072, "7072x7072")]
)
def test_huge_pictures_are_refused_by_their_header(tmp_path, recwarn, side, named):
    path = tmp_path / "a.png"
    png_header(path, side, side)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {named}.*50,000,000; scale it down"):
        read_picture(path)
    assert not recwarn.list  # one line, not Pillow's warning beside it


def test_picture_at_the_cap_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 12)
    Image.fromarray(gradient(3, 4)).save(tmp_path / "a.png")
    Image.fromarray(gradient(3, 5)).save(tmp_path / "b.png")
    assert read_picture(tmp_path / "a.png").shape == (3, 4, 3)
    with pytest.raises(ValueError, match="5x3"):
        read_picture(tmp_path / "b.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's remark on the TIFF, beside our error
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.8])
def test_truncated_pictures_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"cannot read {re.escape(str(path))}: "):
        read_picture(path)


def test_a_phones_photograph_is_told_from_what_is_no_picture(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ValueError, match=r"IMG_1.HEIC: it is a phone's HEIC, or AVIF; export it as JPEG"):
        read_picture(tmp_path / "IMG_1.HEIC")


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(gradient(4, 4)).save(tmp_path / "a.ppm")  # a picture, but of a format outside the list
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    for name, why in [
        ("text.png", "no picture; give one of JPEG"),
        ("a.ppm", "no picture; give one of JPEG"),
        ("a.mp4", "no picture; give one of JPEG"),
        ("missing.png", "no such file; check the name"),
        ("", "no such file"),
        ("a" * 300, "File name too long"),
    ]:
        with pytest.raises(ValueError, match=why) as refused:
            read_picture(tmp_path / name)
        assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- fitting


@pytest.mark.parametrize("size", [(32, 32), (24, 64), (96, 40), (300, 300), (1, 1)])
@pytest.mark.parametrize("original", [(120, 160), (161, 90), (32, 32), (50, 333)])
def test_fitted_pixels_show_the_points_they_map_to(original, size):
    picture = gradient(*original)
    fitted, fitting = fit(picture, size)
    assert fitted.shape == (*size, 3)
    y, x = np.mgrid[: size[0], : size[1]]
    points = np.stack([x, y], -1).reshape(-1, 2).astype(float)
    source = fitting.to_original(points)
    assert np.allclose(fitting.to_fitted(source), points)
    # The gradient's colour is its coordinate. Borders are left out, where the filter has nothing to average.
    inside = ((source > 2) & (source < np.array(original)[::-1] - 3)).all(-1)
    expected = 255 * source / (np.array(original)[::-1] - 1)
    error = np.abs(fitted.reshape(-1, 3)[:, :2] - expected)[inside]
    assert inside.any()
    assert error.max() < 2.5


def test_fit_maps_corners_and_crops_the_middle():
    fitting = Fit((1200, 1600), (128, 128))
    assert np.allclose(fitting.to_fitted(np.array([799.5, 599.5])), [63.5, 63.5])  # middle stays middle
    assert np.allclose(fitting.to_original(np.array([[-0.5, -0.5], [127.5, 127.5]])), [[199.5, -0.5], [1399.5, 1199.5]])
    assert fitting.to_fitted(np.array([0.0, 600.0]))[0] < -0.5  # cropped away: outside


def test_fit_describes_itself():
    assert Fit((1200, 1600), (128, 128)).describe() == (
        "cropped to the middle 128x128 of the 1600x1200 photograph scaled to 171x128"
    )
    assert Fit((256, 256), (128, 128)).describe() == "256x256 photograph scaled to 128x128"
    assert Fit((128, 200), (128, 128)).describe() == "cropped to the middle 128x128 of the 200x128 photograph"
    assert Fit((128, 128), (128, 128)).describe() == "128x128 photograph used as it is"


def test_fit_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    fitted, _ = fit(stripes, (16, 16))
    assert np.abs(fitted[:, 2:-2].astype(int) - 127).max() < 12


def test_fit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="cannot fit 4x4 to 8x0"):
        fit(gradient(4, 4), (0, 8))
    with pytest.raises(ValueError, match="uint8"):
        fit(np.zeros((4, 4), np.uint8), (8, 8))


# ---------------------------------------------------------------- drawings


def centre_of(difference: np.ndarray) -> np.ndarray:
    """(x, y) centre of mass of what was drawn on one picture."""
    weight = np.abs(difference.astype(float)).sum(-1)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_dots_are_drawn_where_points_are(scale):
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    positions = np.array([[[10.25, 20.5]]], np.float32)
    drawn = draw_tracks(frames, positions, np.ones((1, 1), bool), scale=scale)
    assert drawn.shape == (1, 32 * scale, 32 * scale, 3)
    expected = (positions[0, 0] + 0.5) * scale - 0.5
    assert np.abs(centre_of(drawn[0]) - expected).max() < 0.2
    assert not frames.any()  # the given frames stay as they were


@pytest.mark.filterwarnings("error")  # hidden points may be NaN
def test_trails_follow_visible_points_only():
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    positions = np.zeros((4, 2, 2), np.float32)
    positions[:, 0] = [[4, 8], [24, 8], [40, 8], [60, 8]]
    positions[:, 1] = np.nan
    visible = np.array([[1, 0], [1, 0], [0, 0], [1, 0]], bool)
    drawn = draw_tracks(frames, positions, visible)
    lit = drawn.any(-1)
    assert not lit[0, :, 10:].any()
    assert lit[1, 8, 4:25].all()  # from the first place to the second
    assert not lit[2, :, 27:].any()  # hidden: no dot, but the trail so far
    assert lit[2, 8, 6:22].all()
    assert not lit[3, :, 27:57].any()  # no line across the gap
    assert lit[3, 8, 60]
    assert not lit[:, 14:].any()  # nothing for the hidden one
    assert not draw_tracks(frames, positions, visible, trail=1)[3, :, :50].any()


def test_drawing_survives_points_far_outside():
    positions = np.array([[[1e30, -1e30]], [[5, 5]]], np.float32)
    drawn = draw_tracks(np.zeros((2, 16, 16, 3), np.uint8), positions, np.ones((2, 1), bool))
    assert not drawn[0].any()
    assert drawn[1].any()


def test_tracks_of_another_length_are_refused():
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=r"positions \(3, 1, 2\).*on 2 frames"):
        draw_tracks(frames, np.zeros((3, 1, 2)), np.ones((3, 1), bool))
    with pytest.raises(ValueError, match="scale 0"):
        draw_tracks(frames, np.zeros((2, 1, 2)), np.ones((2, 1), bool), scale=0)


def test_contact_sheet_lays_frames_out_row_by_row():
    frames = np.stack([np.full((10, 20, 3), 10 * t, np.uint8) for t in range(1, 6)])
    sheet = contact_sheet(frames, 3)
    assert sheet.shape == (10 + 2 + 10, 3 * 20 + 2 * 2, 3)
    for t in range(5):
        y, x = 12 * (t // 3), 22 * (t % 3)
        assert (sheet[y : y + 10, x : x + 20] == 10 * (t + 1)).all()
    assert (sheet[12:, 44:] == 255).all()  # the empty place
    assert contact_sheet(frames[:2], 5).shape == (10, 42, 3)


def test_contact_sheet_writes_times():
    frames = np.full((2, 64, 64, 3), 90, np.uint8)
    plain, timed, other = (contact_sheet(frames, 2, times=times) for times in (None, [0, 0.5], [0, 0.75]))
    assert not np.array_equal(plain, timed)
    assert np.array_equal(timed[:, :64], other[:, :64])
    assert not np.array_equal(timed[:, 66:], other[:, 66:])
    assert np.array_equal(plain[40:], timed[40:])  # labels keep to the corner
    with pytest.raises(ValueError, match=r"times = \[1\]"):
        contact_sheet(frames, 2, times=[1])
    with pytest.raises(ValueError, match="columns = 0"):
        contact_sheet(frames, 0)
