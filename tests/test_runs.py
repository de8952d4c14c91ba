"""The scripts of ``runs/``: the small one from end to end, the others as far as bash reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from motionstream.media import read_video

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))


@pytest.mark.timeout(900)
def test_from_videos_on_disk_to_a_streamed_video(tmp_path):
    environment = os.environ | {"FOLDER": str(tmp_path), "BIN": str(Path(sys.executable).parent)}
    done = subprocess.run(
        ["bash", str(ROOT / "runs" / "nano-debug.sh")], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
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


@pytest.mark.parametrize("missing", ["FUN", "OPENVID", "SYNTHETIC"])
def test_what_a_script_needs_is_named(missing):
    given = {name: "somewhere" for name in ("FUN", "OPENVID", "SYNTHETIC") if name != missing}
    kept = {name: value for name, value in os.environ.items() if name not in ("FUN", "OPENVID", "SYNTHETIC")}
    done = subprocess.run(
        ["bash", str(ROOT / "runs" / "wan2.1-1.3b.sh")], env=kept | given, capture_output=True, text=True
    )
    assert done.returncode != 0 and missing in done.stderr
