import os
import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from motionstream.media import videos
from motionstream.media.pictures import write_picture
from motionstream.media.videos import VideoWriter, read_video, resample, write_video


def moving(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A video whose frames all differ: a ramp in red rolls over one in green, and the blue channel counts."""
    y, x = np.mgrid[:height, :width]
    ramps = [np.roll(5 * x, 2 * t, axis=1) for t in range(frames)]
    pictures = [np.stack([ramp, 7 * y, 0 * y + 8 * t % 256], -1) for t, ramp in enumerate(ramps)]
    return np.stack(pictures).astype(np.uint8)


def counts(video: np.ndarray) -> list[int]:
    """Which frame of `moving` each frame is, read off the blue channel."""
    return [round(float(picture[..., 2].mean()) / 8) for picture in video]


@pytest.mark.parametrize("fps", [24, 16, 12.5, 30000 / 1001, 24000 / 1001])
def test_videos_read_back(tmp_path, fps):
    video = moving(13)
    write_video(tmp_path / "a.mp4", video, fps)
    read, rate = read_video(tmp_path / "a.mp4")
    assert rate == pytest.approx(fps, rel=1e-9)
    assert read.shape == video.shape
    assert counts(read) == list(range(13))
    assert np.abs(read.astype(int) - video)[..., 1].mean() < 3
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_saturated_colours_survive_and_are_tagged(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 100, 50]], np.uint8)
    frame = np.repeat(np.repeat(colours[None], 16, axis=0), 16, axis=1)
    write_video(tmp_path / "a.mp4", np.stack([frame] * 3), 24)
    read, _ = read_video(tmp_path / "a.mp4")
    assert np.abs(read[1, 8, 8::16].astype(int) - colours).max() <= 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (
            1,
            1,
        )  # BT.709, limited
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def test_one_frame_is_a_video(tmp_path):
    write_video(tmp_path / "a.mp4", moving(1), 24)
    read, rate = read_video(tmp_path / "a.mp4")
    assert (len(read), rate) == (1, 24)


def test_writer_takes_frames_in_any_portions(tmp_path):
    video = moving(11)
    write_video(tmp_path / "whole.mp4", video, 24)
    with VideoWriter(tmp_path / "parts.mp4", (32, 48), 24) as writer:
        writer.write(video[:9])
        writer.write(video[9])
        writer.write(video[10:, ::-1, ::-1][:, ::-1, ::-1])  # not contiguous
    assert writer.frames == 11
    whole, parts = (read_video(tmp_path / f"{name}.mp4")[0] for name in ("whole", "parts"))
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize(
    ("size", "fps", "crf", "why"),
    [
        ((32, 47), 24, 16, "video of 47x32: both sides must be even"),
        ((33, 48), 24, 16, "48x33"),
        ((0, 48), 24, 16, "48x0"),
        ((9000, 48), 24, 16, "48x9000"),
        ((32, 48), 0, 16, "fps = 0"),
        ((32, 48), float("nan"), 16, "fps = nan"),
        ((32, 48), 24, 52, "crf = 52"),
    ],
)
def test_what_cannot_be_encoded_is_refused_at_construction(tmp_path, size, fps, crf, why):
    with pytest.raises(ValueError, match=why):
        VideoWriter(tmp_path / "a.mp4", size, fps, crf=crf)
    assert os.listdir(tmp_path) == []


def test_failing_body_leaves_nothing_and_the_old_file(tmp_path):
    write_video(tmp_path / "a.mp4", moving(3), 24)
    old = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "a.mp4", (32, 48), 24) as writer:
        writer.write(moving(5))
        raise ZeroDivisionError
    wrong = "frames of 40x32 in a video of 48x32"
    with pytest.raises(ValueError, match=wrong), VideoWriter(tmp_path / "b.mp4", (32, 48), 24) as writer:
        writer.write(moving(5, width=40))
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(tmp_path / "c.mp4", (32, 48), 24):
        pass
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == old


def test_unfinished_recording_is_readable(tmp_path):
    rescued = tmp_path / "rescued.mp4"
    with VideoWriter(tmp_path / "a.mp4", (32, 48), 6) as writer:
        for frame in moving(90):
            writer.write(frame)
        temporary = next(path for path in tmp_path.iterdir())
        assert temporary.name != "a.mp4"
        rescued.write_bytes(temporary.read_bytes())  # as after a crash
    read, rate = read_video(rescued)
    assert rate == 6
    assert len(read) >= 24  # the encoder looks up to 40 frames ahead, and fragments hold one second
    assert counts(read[:24]) == list(range(24))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1])
def test_video_cut_in_its_header_is_refused(tmp_path, share):
    path = tmp_path / "a.mp4"
    write_video(path, moving(30), 24)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"cannot read {re.escape(str(path))}: "):
        read_video(path)


@pytest.mark.filterwarnings("ignore:.*breaks off")
def test_video_cut_anywhere_gives_its_first_frames_or_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, moving(30), 10)
    whole, data = read_video(path)[0], path.read_bytes()
    lengths = []
    for cut in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:cut])
        try:
            frames, _ = read_video(path)
        except ValueError as error:
            assert str(error).startswith(f"cannot read {path}: ")
            continue
        assert np.array_equal(frames, whole[: len(frames)])  # none made up or half decoded
        lengths.append(len(frames))
    assert lengths == sorted(lengths)
    assert lengths[0] < 10 and lengths[-1] >= 29


def test_reading_a_broken_off_video_warns(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, moving(30), 10)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.warns(UserWarning, match=r"a\.mp4 breaks off: .*; read as far as it goes"):
        assert 20 <= len(read_video(path)[0]) < 30


def unfragmented(path: Path, video: np.ndarray, stamps: list[int] | None = None, rate: int = 1000) -> None:
    """An ordinary MP4 (its index at the end) with time stamps of our choice, in 1 / rate seconds."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.options = {"crf": "8"}
        for number, picture in enumerate(video):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = stamps[number] if stamps else number * rate // 24
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_video_without_its_index_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    unfragmented(path, moving(30))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="no video or"):
        read_video(path)


def test_file_without_video_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="holds no video"):
        read_video(path)


def test_what_is_no_video_is_refused(tmp_path):
    write_video(tmp_path / "good.mp4", moving(3), 24)
    write_picture(tmp_path / "picture.png", moving(1)[0])
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    (tmp_path / "text.mp4").write_text("hello")
    for name in ("picture.png", "list.m3u8", "concat.mp4", "text.mp4", "missing.mp4", ""):
        with pytest.raises(ValueError, match=rf"cannot read {re.escape(str(tmp_path / name))}: "):
            read_video(tmp_path / name)


def rotated_copy(source: Path, target: Path, matrix: tuple[int, ...]) -> None:
    """Set the display matrix of an MP4's track header, as phones do (ISO 14496-12, 8.3.2)."""
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8  # version 0: up to layer, group, volume, reserved
    one, half = 0x10000, 0x40000000
    assert struct.unpack(">9i", data[start : start + 36]) == (one, 0, 0, 0, one, 0, 0, 0, half)
    a, b, c, d = matrix
    data[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, half)
    target.write_bytes(data)


@pytest.mark.parametrize(("matrix", "quarters"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_flag_is_applied(tmp_path, matrix, quarters):
    video = moving(4)
    write_video(tmp_path / "a.mp4", video, 24)
    rotated_copy(tmp_path / "a.mp4", tmp_path / "b.mp4", matrix)
    upright, _ = read_video(tmp_path / "a.mp4")
    turned, _ = read_video(tmp_path / "b.mp4")
    # (0, 1, -1, 0) sends the stored x axis downwards: a quarter turn clockwise
    assert np.array_equal(turned, np.rot90(upright, quarters, axes=(1, 2)))


def test_varying_rates_are_resampled_by_time_stamps(tmp_path):
    stamps = [0, 40, 80, 280, 300, 320, 520, 560]  # milliseconds; frame 2 and frame 5 stay for long
    unfragmented(tmp_path / "a.mp4", moving(8), stamps)
    stored, _ = read_video(tmp_path / "a.mp4")
    assert counts(stored) == list(range(8))
    read, rate = read_video(tmp_path / "a.mp4", fps=25)
    assert rate == 25
    assert counts(read)[:15] == [0, 1, 2, 2, 2, 2, 2, 3, 5, 5, 5, 5, 5, 6, 7]


def test_resample_shows_what_a_player_would():
    def at(times, fps, last):
        return list(resample(((time, str(i)) for i, time in enumerate(times)), fps, last))

    assert at([0, 1 / 30, 2 / 30, 3 / 30], 30, 1 / 30) == ["0", "1", "2", "3"]
    assert at([0, 1 / 30, 2 / 30, 3 / 30], 60, 1 / 30) == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert at([i / 30 for i in range(30)], 24, 1 / 30) == [str(int(i * 30 / 24)) for i in range(24)]
    assert at([5.0, 5.5], 4, 0.5) == ["0", "0", "1", "1"]  # time starts with the first frame
    assert at([0, 0.033, 0.067, 0.1], 30, 1 / 30) == ["0", "1", "2", "3"]  # rounded to milliseconds
    assert at([0.0], 10, 0.3) == ["0", "0", "0"]
    assert at([], 10, 0.3) == []


def test_the_longer_side_is_reduced_while_reading(tmp_path, monkeypatch):
    frames = np.zeros((6, 96, 192, 3), np.uint8)
    frames[:, :, 96:] = 200
    write_video(tmp_path / "a.mp4", frames, 24)
    assert read_video(tmp_path / "a.mp4", side=500, limit=1)[0].shape == (1, 96, 192, 3)
    monkeypatch.setattr(videos, "MAX_VIDEO_PIXELS", 6 * 32 * 64)  # what counts is what is kept
    read, _ = read_video(tmp_path / "a.mp4", side=64)
    assert read.shape == (6, 32, 64, 3)
    assert read[:, :, :28].max() < 20 and read[:, :, 36:].min() > 180
    with pytest.raises(ValueError, match="side = 0"):
        read_video(tmp_path / "a.mp4", side=0)


def test_limit_and_caps_on_frames(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", moving(9), 24)
    assert counts(read_video(tmp_path / "a.mp4", limit=4)[0]) == [0, 1, 2, 3]
    assert len(read_video(tmp_path / "a.mp4", limit=100)[0]) == 9
    monkeypatch.setattr(videos, "MAX_FRAMES", 9)
    assert len(read_video(tmp_path / "a.mp4")[0]) == 9
    monkeypatch.setattr(videos, "MAX_FRAMES", 8)
    with pytest.raises(ValueError, match="more than 8 frames; cut it"):
        read_video(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="more than 8 frames; cut it"):
        read_video(tmp_path / "a.mp4", fps=1000)
    assert len(read_video(tmp_path / "a.mp4", limit=8)[0]) == 8
    monkeypatch.setattr(videos, "MAX_VIDEO_PIXELS", 5 * 32 * 48)
    with pytest.raises(ValueError, match="more than 5 frames"):
        read_video(tmp_path / "a.mp4")
    monkeypatch.setattr(videos, "MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(ValueError, match="frames of 1536 pixels"):
        read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize("setting", [{"fps": 0}, {"fps": float("nan")}, {"limit": 0}])
def test_bad_reading_settings_are_refused(tmp_path, setting):
    with pytest.raises(ValueError, match="must be above 0"):
        read_video(tmp_path / "a.mp4", **setting)
