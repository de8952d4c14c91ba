import json
from types import SimpleNamespace

import numpy as np
import pytest

from motionstream import cli
from motionstream.commands.prepare import PrepareCommand
from motionstream.data.shards import open_shards
from motionstream.media.videos import write_video

from .conftest import moving

DEBUG = ["--model", "debug", "--untrained", "--grid", "4", "--device", "cpu"]


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.setitem(cli.COMMANDS, "prepare", PrepareCommand)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def openvid(here):
    """An OpenVid-style folder: wide and square videos, with and without caption, short and beautiful ones."""
    (here / "video").mkdir()
    rows = ["video,caption,aesthetic score,frame"]
    for name, size, caption, score, frame in (
        ("wide", (36, 64), "a cat", 6, 90),
        ("square", (64, 64), "a dog", 6, 90),
        ("mute", (36, 64), "", 6, 90),
        ("ugly", (36, 64), "a fish", 3, 90),
        ("short", (36, 64), "snow", 6, 80),
    ):
        write_video(f"video/{name}.mp4", moving(46, size=size), 24)
        rows.append(f"{name}.mp4,{caption},{score},{frame}")
    rows.append("lost.mp4,a bird,6,90")
    (here / "t.csv").write_text("\n".join(rows) + "\n")


def test_a_table_with_the_papers_filters(openvid, here, capsys):
    arguments = ["prepare", "video", "set", "--csv", "t.csv", "--at-least", "aesthetic score=5", *DEBUG]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "set: 1 clips in 1 shards" in said and "5 of 6 videos skipped (set/report.jsonl says why)" in said
    (sample,) = open_shards("set", epochs=1, verify=True)
    assert sample.caption == "a cat" and sample.source["columns"]["frame"] == "90"
    reasons = {r["video"]: r["reason"] for r in map(json.loads, (here / "set/report.jsonl").read_text().splitlines())}
    for name, words in {
        "square.mp4": "1.778 is asked for",
        "mute.mp4": "no caption",
        "ugly.mp4": "aesthetic score is 3",
        "short.mp4": "frame is 80",
        "lost.mp4": "no such file",
    }.items():
        assert words in reasons[name]
    assert cli.main(arguments) == 0  # finished: nothing more to do
    assert cli.main([*arguments, "--aspect", "any"]) == 2
    assert "filters.aspect" in capsys.readouterr().err


def test_filters_are_options(openvid):
    arguments = ["--aspect", "any", "--captions", "optional", "--min-frames", "0", "--size", "32x64"]
    assert cli.main(["prepare", "video", "set", "--csv", "t.csv", *arguments, *DEBUG]) == 0
    samples = list(open_shards("set", epochs=1))
    assert len(samples) == 5 and {sample.size for sample in samples} == {(64, 32)}


def test_prompts_become_videos_become_shards(here, monkeypatch, capsys):
    from diffusers import WanPipeline

    class Pipeline:
        to = staticmethod(lambda device: Pipeline())
        set_progress_bar_config = staticmethod(lambda disable: None)

        def __call__(self, prompt, num_frames, height, width, **settings):
            frames = moving(num_frames, seed=len(prompt), size=(height, width)).astype(np.float32)
            return SimpleNamespace(frames=[frames / 255])

    monkeypatch.setattr(WanPipeline, "from_pretrained", lambda folder, **settings: Pipeline())
    (here / "p.txt").write_text("a cat\na horse\n")
    arguments = ["prepare", "p.txt", "set", "--generate", "wan", "--size", "64x32", *DEBUG]
    assert cli.main(arguments) == 0
    assert "2 clips" in capsys.readouterr().out
    assert sorted(path.name for path in (here / "set-videos").glob("*.mp4")) == ["000000.mp4", "000001.mp4"]
    samples = list(open_shards("set", epochs=1, shuffle=False))
    assert [sample.caption for sample in samples] == ["a cat", "a horse"] and samples[0].size == (32, 64)
    assert cli.main([*arguments, "--steps", "9"]) == 2
    assert "steps = 50, now 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none", "set"], "none: there is no such folder"),
        (["empty", "set"], "empty holds no videos"),
        (["empty", "set", "--csv", "none.csv"], "none.csv: No such file"),
        (["empty", "set", "--csv", "bad.csv"], "no column 'caption'"),
        (["empty", "set", "--csv", "good.csv", "--at-least", "motion=1"], "no column 'motion'"),
        (["empty", "set", "--csv", "good.csv", "--at-least", "motion"], "--at-least is 'motion'"),
        (["empty", "set", "--at-least", "motion=1"], "name it with --csv"),
        (["empty", "set", "--aspect", "wide"], "--aspect is 'wide'"),
        (["empty", "set", "--aspect", "0:9"], "--aspect is '0:9'"),
        (["empty", "set", "--size", "big"], "--size is 'big'"),
        (["empty", "set", "--grid", "0"], "grid = 0"),
        (["empty", "set", "--unit", "0"], "unit_videos = 0"),
        (["empty", "set", "--shard-size", "0"], "--shard-size is 0"),
        (["empty", "set", "--workers", "-1"], "workers = -1"),
        (["empty", "set", "--tracker", "magic"], "'magic'"),
        (["empty", "set", "--cotracker", "a", "b"], "add --tracker cotracker"),
        (["empty", "set", "--device", "abacus"], "abacus"),
        (["empty", "set", "--videos", "v"], "--videos is where --generate writes"),
        (["good.csv", "set", "--generate", "empty", "--csv", "good.csv"], "leave out --csv"),
        (["good.csv", "set", "--generate", "empty"], "empty is no folder of a WanPipeline"),
        (["empty", "set", "--model", "magic"], "'magic'"),
    ],
)
def test_bad_values_are_one_line(here, capsys, arguments, words):
    (here / "empty").mkdir()
    (here / "bad.csv").write_text("video,text\na.mp4,x\n")
    (here / "good.csv").write_text("video,caption\na.mp4,x\n")
    assert cli.main(["prepare", *DEBUG, *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == ["bad.csv", "empty", "good.csv"]


def test_the_help_has_examples(capsys):
    assert cli.main(["prepare", "--help"]) == 0
    said = capsys.readouterr().out
    assert "motionstream prepare videos data/nano" in said and "--clips-per-video" in said
