"""The benchmarks for GPUs, as far as they are told: asked for help they measure nothing, and options reach the runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def call(script, *options):
    command = [sys.executable, str(FOLDER / script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("gpu_*.py")))
def test_help_is_told_and_nothing_measured(script, tmp_path):
    done = call(script, "--help", "--output", str(tmp_path / "results"))
    assert done.returncode == 0 and done.stdout.startswith("usage:")
    assert all(option in done.stdout for option in ("--presets", "--seconds", "--output"))
    assert not (tmp_path / "results").exists()


def test_training_is_measured_as_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_train

    ran = []

    def run(command, **rest):
        ran.append(command[4:])
        result = {"step_ms": {"p50": 1.0}, "compute": {}, "device_memory_mb": None, "memory_mb": {"peak": 2.0}}
        Path(command[-1]).write_text(json.dumps(result))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(gpu_train.subprocess, "run", run)
    monkeypatch.setattr(gpu_train, "RUNS", gpu_train.RUNS[:2])
    options = ["--presets", "debug", "wan2.1-debug", "--steps", "3", "--output", str(tmp_path / "results")]
    assert gpu_train.main(options) == 0
    assert [words[words.index("--preset") + 1] for words in ran] == ["debug", "wan2.1-debug"] * 2
    assert all(words[words.index("--steps") + 1] == "3" for words in ran)
    assert len(list((tmp_path / "results").iterdir())) == 4
    assert gpu_train.main([*options, "--seconds", "1"]) == 1
    assert len(ran) == 4 and capsys.readouterr().out.count("no time left") == 4
