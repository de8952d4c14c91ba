import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from motionstream.cli import main
from motionstream.commands.video import KeptFrames, adapt_tracks, describe_corners
from motionstream.media.pictures import Fit, read_picture
from motionstream.media.videos import read_video, write_video
from motionstream.tracks import Tracks, drag_tracks, pin_tracks

DEBUG = ["--model", "debug", "--untrained"]


def texture(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a photograph in it."""
    Image.fromarray(texture(48, 96)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stream(*arguments: str) -> int:
    return main(["stream", "photo.png", *DEBUG, *arguments])


def refused(capsys, folder, code: int, *words: str) -> None:
    """One line on stderr with the words, exit code 2, and nothing written."""
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.count("\n") == 1 and "Traceback" not in said
    for word in words:
        assert word in said, said
    assert not list(folder.glob("*.mp4")) and not list(folder.glob(".*"))


def test_a_drag_becomes_a_video(folder, capsys):
    code = stream("--drag", "0.5,0.5:0.8,0.5", "-o", "out.mp4", "--seconds", "1")
    said = capsys.readouterr()
    assert code == 0, said.err
    video, fps = read_video(folder / "out.mp4")
    assert video.shape == (24, 64, 64, 3) and fps == 24, "shown twice as large"
    assert "cropped to the middle 32x32 of the 96x48 photograph scaled to 64x32" in said.out
    assert "24 frames" in said.out and "fps" in said.out and "corners moved" in said.out
    assert said.err == ""
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "photo.png"]


def test_the_name_comes_from_the_photograph_and_the_length_is_three_seconds(folder):
    assert stream() == 0
    assert len(read_video(folder / "photo.mp4")[0]) == 72
    (folder / "photo.mp4").write_bytes(b"somebody's own")
    for name in ("photo-2.mp4", "photo-3.mp4"):  # nobody has named it, so nothing is written over
        assert stream("--seconds", "0.5") == 0
        assert len(read_video(folder / name)[0]) == 12
    assert (folder / "photo.mp4").read_bytes() == b"somebody's own"


def test_drags_and_pins_are_merged_with_ids_of_their_own(folder):
    gestures = ["--drag", "8,8:20,8", "--drag", "0.5,0.5:-0.9,0.5", "--pin", "0,0", "--pin", "24,24", "--radius", "0"]
    assert stream(*gestures, "--seconds", "2", "--save-tracks", "all.npz", "-o", "out.mp4") == 0
    tracks = Tracks.load(folder / "all.npz")
    assert tracks.length == 48 and sorted(tracks.ids.tolist()) == [0, 1, 2, 3]
    first, last = tracks.positions[0].tolist(), tracks.positions[-1].tolist()
    assert first[0] == [8, 8] and last[0] == [20, 8]  # pixels
    assert first[1] == [15.5, 15.5]  # fractions
    assert not tracks.visible[-1, 1]  # it has left the picture
    assert first[3] == last[3] == [24, 24]


def test_a_drag_takes_the_whole_object_when_asked_to(folder):
    picture = np.full((64, 64, 3), 40, np.uint8)
    picture[20:44, 12:44] = (200, 60, 30)
    Image.fromarray(picture).save(folder / "photo.png")
    assert stream("--drag", "14,16:24,16", "--select", "--spacing", "2", "--save-tracks", "t.npz") == 0
    x, y = Tracks.load("t.npz").positions[0].T
    assert 5 <= x.min() <= 8 and 19 <= x.max() <= 22 and 9 <= y.min() <= 12 and 19 <= y.max() <= 22


def test_a_video_lends_its_motion(folder, capsys):
    wide = texture(64, 128)
    frames = np.stack([np.roll(wide, frame, axis=1)[:, 32:96] for frame in range(30)])
    write_video("source.mp4", frames, 24, crf=0)
    arguments = ["--transfer", "source.mp4", "--seconds", "1", "--save-tracks", "t.npz"]
    assert stream(*arguments, "--pin", "4,4", "--align", "10,10:5,5", "--align", "50,10:25,5") == 0
    said = capsys.readouterr().out
    assert "points of it move the picture" in said
    tracks = Tracks.load("t.npz")
    steps = np.diff(tracks.positions, axis=0)[tracks.visible[1:] & tracks.visible[:-1]]
    assert np.median(steps[:, 0]) == pytest.approx(0.5, abs=0.05)  # half the source's size, half its speed
    assert stream("--align", "1,1:2,2") == 2
    assert "--align has no effect" in capsys.readouterr().err
    assert stream(*arguments, "--align", "1,1") == 2
    assert "aligns nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("pattern", "starts"), [("c3s1w1", [0, 9, 21]), ("c2s1w1", [0, 5, 13, 21])])
def test_points_come_into_view_with_the_chunks_of_the_pattern(folder, pattern, starts):
    moving = np.stack([np.roll(texture(48, 96), 3 * frame, axis=1) for frame in range(24)])
    write_video("source.mp4", moving, 24)
    for asked in (["--pan", "1,0", "--camera-ease", "linear"], ["--transfer", "source.mp4"]):
        assert stream(*asked, "--causal", pattern, "--seconds", "1", "--save-tracks", "t.npz") == 0
        tracks = Tracks.load("t.npz")
        begins = np.unique(tracks.visible.argmax(axis=0)[tracks.visible.any(axis=0)])
        assert set(begins) <= set(starts) and len(begins) > 1, (asked, begins)


def test_a_drag_arrives_by_reach(folder):
    for reach, name in (("0.75", "a.npz"), ("0.5", "b.npz")):
        arguments = ["--drag", "4,16:24,16", "--radius", "0", "--reach", reach, "--save-tracks", name]
        assert stream(*arguments, "--seconds", "4", "-o", "out.mp4") == 0
        x = Tracks.load(folder / name).positions[:, 0, 0]
        arrived = np.flatnonzero(x > 23.99)[0] / (len(x) - 1)
        assert abs(arrived - float(reach)) < 0.03


def test_the_seed_fixes_the_frames(folder):
    for seed, name in (("3", "a.mp4"), ("3", "b.mp4")):
        assert stream("--drag", "16,16:20,16", "--seed", seed, "--seconds", "1", "-o", name) == 0
    first, second = (read_video(folder / name)[0] for name in ("a.mp4", "b.mp4"))
    assert np.array_equal(first, second)


def test_options_reach_the_pipeline(folder, monkeypatch):
    from motionstream.pipeline import MotionStreamPipeline

    asked, chunks = [], MotionStreamPipeline.chunks

    def spy(self, image, tracks, prompt, seed, *, size, scale):
        asked.append((str(self.config.causal), prompt, seed, tracks.length, size, scale))
        return chunks(self, image, tracks, prompt, seed, size=size, scale=scale)

    monkeypatch.setattr(MotionStreamPipeline, "chunks", spy)
    assert stream("--causal", "c3s1w2", "--prompt", "snow", "--seed", "-5", "--seconds", "0.5") == 0
    assert asked == [("c3s1w2", "snow", -5, 12, (32, 32), 2)]
    assert stream("--size", "48x64", "--scale", "1", "--seconds", "0.5") == 0
    assert asked[-1][-2:] == ((64, 48), 1)


def test_tracks_from_a_file_give_the_length_and_are_adapted(folder, capsys):
    # The photograph's own pixels: what is at its middle is at the frame's middle.
    drag_tracks((48, 24), (60, 24), 25, (48, 96), 12.0, radius=0).save("given.npz")
    assert stream("--tracks", "given.npz", "--save-tracks", "used.npz", "-o", "out.mp4") == 0
    said = capsys.readouterr().out
    assert "tracks of a 96x48 picture scaled and cropped to 32x32" in said
    assert "from 12 to 24 fps: 25 frames become 49" in said
    used = Tracks.load(folder / "used.npz")
    assert used.size == (32, 32) and used.fps == 24 and len(read_video("out.mp4")[0]) == used.length == 49
    assert np.allclose(used.positions[0, 0], [15.83, 15.83], atol=0.02)
    assert np.allclose(used.positions[-1, 0], [23.83, 15.83], atol=0.02)


def test_tracks_of_another_shape_are_stretched(capsys):
    tracks = Tracks(np.array([[[63.5, 31.5]]], np.float32), np.ones((1, 1), bool), (64, 128))
    adapted = adapt_tracks(tracks, Fit((48, 48), (32, 32)), 24.0)
    assert "stretched to 32x32" in capsys.readouterr().out
    assert np.allclose(adapted.positions[0, 0], [15.5, 15.5])


def test_tracks_and_drags_together(folder, capsys):
    drag_tracks((4, 4), (8, 4), 24, (32, 32), radius=0).save("given.npz")
    both = ["--tracks", "given.npz", "--drag", "20,20:24,20", "--radius", "0"]
    assert stream(*both, "--save-tracks", "used.npz", "-o", "out.mp4") == 0
    assert Tracks.load("used.npz").count == 2
    (folder / "out.mp4").unlink()
    capsys.readouterr()
    refused(capsys, folder, stream(*both, "--seconds", "3"), "--seconds 3 is 72 frames", "last 24")


def test_a_preview_shows_the_tracks(folder):
    arguments = ["--drag", "16,16:24,16", "--seconds", "1"]
    assert stream(*arguments, "--preview", "a.png", "-o", "out.mp4") == 0
    assert stream("--seconds", "1", "--preview", "b.png", "-o", "out.mp4") == 0
    with_tracks, without = read_picture("a.png"), read_picture("b.png")
    assert with_tracks.shape == without.shape == (2 * 256 + 2, 4 * 256 + 6, 3)
    assert (with_tracks != without).any(axis=-1).mean() > 0.005


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "-1"], ["--seconds is -1"]),
        (["--seconds", "0"], ["--seconds is 0"]),
        (["--seconds", "nan"], ["--seconds is nan"]),
        (["--seconds", "1e9"], ["--seconds is 1e+09", "at most"]),
        (["--seconds", "long"], ["--seconds", "long"]),
        (["--reach", "0"], ["--reach is 0"]),
        (["--drag", "40,5:5,5"], ["'40,5:5,5'", "outside the picture of 32 x 32", "x is in 0..31"]),
        (["--drag", "-0.1,0.2:0.5,0.5"], ["'-0.1,0.2:0.5,0.5'", "outside"]),
        (["--drag", "0.5,0.5"], ["'0.5,0.5' is not a drag", "x0,y0:x1,y1"]),
        (["--pin", "-3,4"], ["'-3,4'", "outside"]),
        (["--drag", "5,5:9,9", "--spacing", "0"], ["spacing is 0"]),
        (["--drag", "5,5:9,9", "--radius", "-1"], ["radius is -1"]),
        (["--tracks", "none.npz"], ["none.npz", "No such file"]),
        (["--tracks", "photo.png"], ["photo.png"]),
        (["--causal", "s1"], ["'s1'", "c3s1w1"]),
        (["--model", "huge"], ["'huge'"]),
        (["-o", "no/out.mp4"], ["no/out.mp4", "create it"]),
        (["-o", "out.avi"], ["out.avi", ".mp4"]),
        (["--preview", "sheet.txt"], ["sheet.txt", ".png"]),
        (["--preview", "photo.png"], ["photo.png", "another name"]),
        (["--save-tracks", "tracks.txt"], ["tracks.txt", ".npz"]),
        (["--select"], ["--select has no effect without --drag"]),
        (["--depth", "photo.png"], ["--depth has no effect without --pan"]),
        (["--camera-ease", "linear"], ["--camera-ease linear has no effect"]),
        (["--drag", "0.3,0.5:60,0.5"], ["fractions"]),
        (["--fast"], ["--fast", "motionstream stream --help"]),
    ],
)
def test_bad_values_are_one_line(folder, capsys, arguments, words):
    refused(capsys, folder, stream(*arguments), *words)


def test_bad_pictures_are_one_line(folder, capsys):
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = part(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    (folder / "vast.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", b""))
    (folder / "text.png").write_text("not a picture")
    for name, word in (("none.png", "no such file"), ("text.png", "no picture"), ("vast.png", "scale it down")):
        refused(capsys, folder, main(["stream", name, *DEBUG, "-o", "out.mp4"]), name, word)


def test_visible_nan_tracks_are_one_line(folder, capsys):
    positions = np.zeros((24, 2, 2), np.float32)
    positions[5, 1, 0] = np.nan
    np.savez("bad.npz", positions=positions, visible=np.ones((24, 2), bool), size=np.array([32, 32]), fps=24.0)
    refused(capsys, folder, stream("--tracks", "bad.npz"), "bad.npz", "frame 5, point 1", "nan")


def test_untrained_weights_need_to_be_asked_for(folder, capsys):
    refused(capsys, folder, main(["stream", "photo.png", "--model", "debug"]), "'debug'", "--untrained")


def test_a_damaged_model_is_the_users_mistake(folder, capsys):
    from motionstream.pipeline import MotionStreamPipeline

    MotionStreamPipeline.from_pretrained("debug", untrained=True).save_pretrained(folder / "model")
    (folder / "model" / "autoencoder.safetensors").write_bytes(b"broken")
    code = main(["stream", "photo.png", "--model", "model", "--untrained"])
    refused(capsys, folder, code, "autoencoder.safetensors", "damaged")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("lost\nmy way"), 1, "RuntimeError: lost my way; run it again with MOTIONSTREAM_DEBUG=1"),
        (MemoryError("out of memory at step 3"), 1, "motionstream: out of memory at step 3"),
        (FloatingPointError("the loss is nan"), 1, "motionstream: the loss is nan"),
    ],
)
def test_a_run_that_breaks_off_leaves_nothing(folder, capsys, monkeypatch, error, code, words):
    from motionstream.stream import Stream

    (folder / "out.mp4").write_bytes(b"older")
    step = Stream.step

    def broken(self, tracks):
        if self.chunk == 2:
            raise error
        return step(self, tracks)

    monkeypatch.setattr(Stream, "step", broken)
    assert stream("--seconds", "5", "-o", "out.mp4", "--preview", "sheet.png") == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "photo.png"]
    assert (folder / "out.mp4").read_bytes() == b"older"


def test_what_was_made_before_it_was_stopped_is_kept(folder, capsys, monkeypatch):
    from motionstream.stream import Stream

    step = Stream.step

    def stopped(self, tracks):
        if self.chunk == 2:
            raise KeyboardInterrupt
        return step(self, tracks)

    monkeypatch.setattr(Stream, "step", stopped)
    assert stream("--seconds", "5", "-o", "out.mp4", "--preview", "sheet.png") == 130
    said = capsys.readouterr()
    assert "out.mp4: stopped after 21 of 120 frames, which are kept" in said.out and "stopped" in said.err
    assert len(read_video(folder / "out.mp4")[0]) == 21
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "photo.png"]


def test_what_was_stopped_before_its_first_frame_leaves_nothing(folder, capsys, monkeypatch):
    from motionstream.stream import Stream

    def stopped(self, tracks):
        raise KeyboardInterrupt

    (folder / "out.mp4").write_bytes(b"older")
    monkeypatch.setattr(Stream, "step", stopped)
    assert stream("-o", "out.mp4") == 130
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "photo.png"]
    assert (folder / "out.mp4").read_bytes() == b"older"


def test_kept_frames_are_few_even_and_end_with_the_last():
    kept = KeptFrames(10)
    frames = np.arange(103, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    for start in range(0, 103, 12):
        kept.add(frames[start : start + 12])
    numbers, shown = kept.select()
    assert numbers.tolist() == [*range(0, 103, 16), 102]
    assert shown[:, 0, 0, 0].tolist() == numbers.tolist()
    assert kept.select(3)[0].tolist()[0] == 0 and kept.select(3)[0].tolist()[-1] == 102


def test_corners_tell_a_moved_picture_from_a_moved_thing():
    still = np.repeat(texture(64, 64)[None], 12, axis=0)
    drag = drag_tracks((32, 32), (44, 32), 12, (64, 64), radius=8)
    kept = KeptFrames(100)
    kept.add(still)
    assert describe_corners(kept, drag).count("0.0 px") == 4

    moved = np.stack([np.roll(texture(64, 128), frame // 2, axis=1)[:, 32:96] for frame in range(13)])
    kept = KeptFrames(100)
    kept.add(moved)
    said = describe_corners(kept, drag_tracks((32, 32), (44, 32), 13, (64, 64), radius=8))
    assert said.count("6.0 px") == 4, said


def test_corners_near_a_drag_do_not_count_but_pinned_ones_do():
    kept = KeptFrames(100)
    kept.add(np.repeat(texture(64, 64)[None], 12, axis=0))
    tracks = Tracks.merge(
        [drag_tracks((10, 10), (20, 10), 12, (64, 64), radius=0), pin_tracks([(52, 52)], 12, (64, 64))], renumber=True
    )
    said = describe_corners(kept, tracks)
    assert said.count("0.0 px") == 3 and said.endswith("(top left is near a drag)")
    assert describe_corners(kept, Tracks.empty(12, (64, 64))).count("0.0 px") == 4


def test_corners_without_texture_are_said():
    kept = KeptFrames(100)
    kept.add(np.full((12, 64, 64, 3), 90, np.uint8))
    assert "corners moved unknown (top left has no texture" in describe_corners(kept, Tracks.empty(12, (64, 64)))
