"""The scripts of ``runs/``: the small one from end to end, of the others what they would call."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from motionstream.cli import main
from motionstream.media.videos import read_video

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
WAN = ("wan2.1-1.3b.sh", "wan2.2-5b.sh", "affordable.sh")
INPUTS = {"FUN": "fun", "OPENVID": "openvid", "SYNTHETIC": "synthetic", "RENDEZVOUS": "first:29500"}


@pytest.mark.timeout(900)
def test_from_videos_on_disk_to_a_streamed_video(tmp_path, monkeypatch):
    calls, done = run_script("nano-debug.sh", tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(ROOT)
    for program, *words in calls:
        if program == "python":
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        else:
            assert program == "motionstream" and main(words) == 0, words
    tmp_path = tmp_path / "run"
    frames, fps = read_video(tmp_path / "video.mp4")
    assert frames.shape == (48, 256, 256, 3) and fps == 24  # twice the model's size, as streams are shown
    settings = json.loads((tmp_path / "model" / "model.json").read_text())
    assert settings["stages"] == ["teacher", "causal", "self-forcing"]
    for stage in ("teacher_phase1", "teacher_phase2", "causal", "self-forcing"):
        lines = [json.loads(line) for line in (tmp_path / "run" / stage / "log.jsonl").read_text().splitlines()]
        assert {line["kind"] for line in lines} == {"train", "validate"} and "epe_px" in lines[-1]
        assert list((tmp_path / "run" / stage / "validation").glob("*.png"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_every_script(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    assert os.access(script, os.X_OK)


def run_script(script, tmp_path, *options, **variables):
    """What a script of Wan calls, as words, where every program only notes how it was called; and what it says."""
    for program in ("motionstream", "torchrun", "python"):
        path = tmp_path / program
        path.write_text(f'#!/usr/bin/env bash\n(printf "%q " {program} "$@"; echo) >> "{tmp_path}/calls"\n')
        path.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "BIN": str(tmp_path), "FOLDER": str(tmp_path / "run")} | variables
    command = ["bash", str(ROOT / "runs" / script), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    calls = tmp_path / "calls"
    return [shlex.split(line) for line in calls.read_text().splitlines()] if calls.exists() else [], done


@pytest.mark.parametrize("missing", ["FUN", "OPENVID", "SYNTHETIC"])
def test_what_a_script_needs_is_named(missing, tmp_path):
    given = {name: value for name, value in INPUTS.items() if name != missing}
    calls, done = run_script("wan2.1-1.3b.sh", tmp_path, **given)
    assert done.returncode != 0 and missing in done.stderr and not calls


@pytest.mark.parametrize("script", WAN)
def test_the_gpus_a_script_takes_by_itself_hold_what_it_trains(script, tmp_path, capsys):
    if script == "affordable.sh":
        pytest.importorskip("peft")
    calls, done = run_script(script, tmp_path, **INPUTS)
    assert done.returncode == 0, done.stderr
    called = re.search(r"GPUs of (\d+) GB", (ROOT / "runs" / script).read_text())
    assert called is not None
    told = 0
    for words in calls:
        if "--nproc-per-node" in words and "tiny-decoder" not in words:
            nodes = int(words[words.index("--nnodes") + 1]) if "--nnodes" in words else 1
            gpus = nodes * int(words[words.index("--nproc-per-node") + 1])
            train = words[words.index("motionstream") + 1 :]
            options = ["--dry-run", "--gpus", str(gpus), "--gpu", "A100", "--gpu-memory", called[1]]
            assert main([*train, *options]) == 0
            said = capsys.readouterr().out
            assert "it needs" not in said
            told += said.count("it fits")
    assert told == 4  # the teacher has two phases


def test_options_reach_every_stage_and_machines_meet(tmp_path):
    calls, done = run_script("affordable.sh", tmp_path, "--minutes", "60", **INPUTS, STUDENT="student.pt")
    assert done.returncode == 0, done.stderr
    trained = [words for words in calls if words[0] == "torchrun"]
    assert [words[words.index("train") + 1] for words in trained] == [
        "teacher",
        "causal",
        "self-forcing",
        "tiny-decoder",
    ]
    assert all(words[-2:] == ["--minutes", "60"] and words[1] == "--standalone" for words in trained)
    assert [words[:2] for words in calls if words[0] == "motionstream"] == [
        ["motionstream", "convert"],
        ["motionstream", "prepare"],
        ["motionstream", "prepare"],
        ["motionstream", "train"],
    ]
    (tmp_path / "calls").unlink()
    calls, done = run_script("wan2.1-1.3b.sh", tmp_path, NODES="4", RENDEZVOUS="first:29500")
    assert done.returncode == 0, done.stderr
    assert [words[words.index("train") + 1] for words in calls] == ["teacher", "causal", "self-forcing"]
    for words in calls:
        assert "--standalone" not in words and words[1:3] == ["--nnodes", "4"]
        assert words[words.index("--rdzv-endpoint") + 1] == "first:29500"
    (tmp_path / "calls").unlink()
    calls, done = run_script("wan2.2-5b.sh", tmp_path)
    assert done.returncode != 0 and "RENDEZVOUS" in done.stderr and not calls
