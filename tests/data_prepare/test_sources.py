import inspect
import json
from dataclasses import replace

import numpy as np
import pytest

from motionstream.data.sources import (
    WIDESCREEN,
    Filters,
    SourceVideo,
    WanTextToVideo,
    fingerprint,
    generate_videos,
    read_prompts,
    videos_of_folder,
    videos_of_table,
)
from motionstream.media.videos import read_video

# The columns of OpenVid-1M's own table.
HEADER = "video,caption,aesthetic score,motion score,frame,fps,seconds\n"


def table(folder, rows, header=HEADER):
    (folder / "t.csv").write_text(header + rows, encoding="utf-8-sig")
    return folder / "t.csv"


def test_a_table_gives_videos_captions_and_the_other_columns(tmp_path):
    rows = 'a.mp4,"a cat, a dog\nand snow",5.5,1.0,120,30,4\nsub/b.mp4,,4.0,2.0,80,24,3.3\n'
    first, second = videos_of_table(table(tmp_path, rows), tmp_path / ".")
    assert (first.name, first.caption) == ("a.mp4", "a cat, a dog\nand snow")
    assert first.path == tmp_path / "a.mp4" and second.path == tmp_path / "sub/b.mp4"
    assert first.columns["aesthetic score"] == "5.5" and first.columns["frame"] == "120"
    assert second.caption == "" and "video" not in second.columns


@pytest.mark.parametrize(
    ("rows", "header", "needs", "words"),
    [
        ("a.mp4,x\n", "path,caption\n", (), "no column 'video'; it has path, caption"),
        ("a.mp4,x\n", "video,text\n", (), "no column 'caption'"),
        ("a.mp4,x\n", "video,caption\n", ("motion score",), "no column 'motion score'"),
        ("", "video,caption\n", (), "lists no videos"),
        ("", "", (), "it has none"),
    ],
)
def test_a_table_that_lacks_something_is_refused_by_name(tmp_path, rows, header, needs, words):
    with pytest.raises(ValueError, match=words):
        videos_of_table(table(tmp_path, rows, header), tmp_path, needs)


def test_no_table_no_text_no_folder(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        videos_of_table(tmp_path / "none.csv", tmp_path)
    (tmp_path / "t.csv").write_bytes(b"video,caption\n\xff\xfe.mp4,x\n")
    with pytest.raises(ValueError, match="no CSV file in UTF-8"):
        videos_of_table(tmp_path / "t.csv", tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        videos_of_folder(tmp_path / "none")


def test_a_folder_is_listed_by_name_with_captions_beside(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "a.MOV", "deep/c.webm", ".hidden.mp4", "notes.pdf"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b.txt").write_text("  a boat \n")
    found = videos_of_folder(tmp_path)
    assert [(video.name, video.caption) for video in found] == [("a.MOV", ""), ("b.mp4", "a boat"), ("deep/c.webm", "")]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no videos"):
        videos_of_folder(empty)


def test_filters_say_why():
    openvid = Filters(min_frames=81, aspect=WIDESCREEN, at_least=(("aesthetic score", 5.0),), require_caption=True)
    video = SourceVideo(None, "a.mp4", "a cat", {"frame": "81", "aesthetic score": "5"})
    assert openvid.refuse(video) is None
    assert openvid.refuse(replace(video, caption=" ")) == "it has no caption"
    assert "frame is 80" in openvid.refuse(replace(video, columns={**video.columns, "frame": "80"}))
    assert "aesthetic score is 4.9" in openvid.refuse(replace(video, columns={"aesthetic score": "4.9"}))
    for wrong in ("", "many", "nan"):
        assert "aesthetic score" in openvid.refuse(replace(video, columns={"aesthetic score": wrong}))
    assert Filters().refuse(SourceVideo(None, "a.mp4", "")) is None


def test_shapes_within_a_tolerance():
    openvid = Filters(aspect=WIDESCREEN, min_fps=12)
    for height, width in ((1080, 1920), (720, 1280), (480, 854), (1088, 1920)):
        assert openvid.refuse_shape(height, width, 24) is None
    for height, width in ((1920, 1080), (480, 640), (480, 832), (800, 1920)):
        assert "1.778 is asked for" in openvid.refuse_shape(height, width, 24)
    assert Filters().refuse_shape(1920, 1080, 24) is None
    assert "10 fps" in openvid.refuse_shape(1080, 1920, 10)


@pytest.mark.parametrize(
    "values", [{"min_frames": -1}, {"min_fps": -1}, {"aspect": 0}, {"aspect_tolerance": 1.0}, {"min_fps": float("nan")}]
)
def test_filters_that_mean_nothing_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Filters(**values)


def test_the_fingerprint_is_of_names_and_captions():
    videos = [SourceVideo(None, "a.mp4", "x"), SourceVideo(None, "b.mp4", "y")]
    others = [videos[::-1], videos[:1], [videos[0], replace(videos[1], caption="z")]]
    assert fingerprint(videos) == fingerprint([replace(video, columns={"n": "1"}) for video in videos])
    assert all(fingerprint(other) != fingerprint(videos) for other in others)


class FakePipeline:
    """Takes what diffusers' WanPipeline takes and gives what it gives: float pictures in [0, 1]."""

    def __init__(self):
        self.calls = []

    def __call__(self, **arguments):
        from types import SimpleNamespace

        self.calls.append(arguments)
        number = np.random.default_rng(arguments["generator"].initial_seed()).random()
        shape = (1, arguments["num_frames"], arguments["height"], arguments["width"], 3)
        return SimpleNamespace(frames=np.full(shape, number, np.float32))


@pytest.fixture
def wan():
    return WanTextToVideo(FakePipeline(), size=(32, 48), frames=9, steps=7, guidance=4.5, name="fake")


def test_videos_are_generated_once_and_listed(tmp_path, wan):
    done = []
    videos = generate_videos(["a cat", "a dog"], tmp_path / "v", wan, 16, seed=5, say=done.append)
    assert done == [1, 2] and [video.caption for video in videos] == ["a cat", "a dog"]
    assert [call["generator"].initial_seed() for call in wan.pipeline.calls] == [5, 6]
    assert wan.pipeline.calls[0]["prompt"] == "a cat" and wan.pipeline.calls[0]["guidance_scale"] == 4.5
    assert videos_of_folder(tmp_path / "v") == videos
    frames, fps = read_video(videos[1].path)
    assert frames.shape == (9, 32, 48, 3) and fps == 16
    assert abs(frames.mean() - 255 * np.random.default_rng(6).random()) < 3
    # one is lost: it alone is made again
    before = videos[1].path.read_bytes()
    videos[1].path.unlink()
    generate_videos(["a cat", "a dog", "snow"], tmp_path / "v", wan, 16, seed=5)
    assert [call["prompt"] for call in wan.pipeline.calls[2:]] == ["a dog", "snow"]
    assert videos[1].path.read_bytes() == before


def test_a_folder_of_other_prompts_or_settings_is_refused(tmp_path, wan):
    generate_videos(["a cat"], tmp_path / "v", wan, 16)
    with pytest.raises(ValueError, match="another prompt"):
        generate_videos(["a dog"], tmp_path / "v", wan, 16)
    with pytest.raises(ValueError, match="steps = 7, now 8"):
        generate_videos(["a cat"], tmp_path / "v", replace(wan, steps=8), 16)
    with pytest.raises(ValueError, match="seed = 0, now 1"):
        generate_videos(["a cat"], tmp_path / "v", wan, 16, seed=1)
    assert json.loads((tmp_path / "v/generation.json").read_text())["size"] == [32, 48]


def test_a_generation_that_fails_leaves_no_video(tmp_path, wan):
    def broken(prompt, seed):
        raise RuntimeError("no memory")

    broken.settings = {}
    with pytest.raises(RuntimeError):
        generate_videos(["a cat"], tmp_path / "v", broken, 16)
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["generation.json"]


def test_prompts_are_lines(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n  a dog  \n")
    assert read_prompts(tmp_path / "p.txt") == ["a cat", "a dog"]
    (tmp_path / "p.txt").write_text("\n")
    with pytest.raises(ValueError, match="no prompts"):
        read_prompts(tmp_path / "p.txt")
    with pytest.raises(ValueError, match="No such file"):
        read_prompts(tmp_path / "none.txt")


def test_the_real_pipeline_takes_these_arguments(tmp_path, wan):
    from diffusers import WanPipeline

    wan("a cat", 0)
    inspect.signature(WanPipeline.__call__).bind(None, **wan.pipeline.calls[0])
    with pytest.raises(ValueError, match="no folder of a WanPipeline"):
        WanTextToVideo.from_folder(tmp_path, "cpu", size=(32, 48), frames=9)
