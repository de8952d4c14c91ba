"""The same bytes come out of one process, several, a Ray cluster, and a run that was killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from motionstream.data import prepare as module
from motionstream.data.prepare import prepare
from motionstream.data.sources import videos_of_folder

from .conftest import CPU, SETTINGS, contents, fill

SCRIPT = """
import sys
from pathlib import Path
from motionstream.components import Placement
from motionstream.data.encode import PrepareSettings
from motionstream.data.prepare import Execution, prepare
from motionstream.data.sources import videos_of_folder

import torch
torch.set_num_threads(1)
settings = PrepareSettings(model="debug", untrained=True, grid=6, unit_videos=2)
execution = Execution(placement=Placement(device="cpu"))
prepare(videos_of_folder(Path(sys.argv[1])), Path(sys.argv[2]), settings, execution)
"""


@pytest.fixture
def leaves_no_process() -> Iterator[None]:
    """Of its own: another file's data loaders may still wait to be collected, where both run in one process."""
    others = set(multiprocessing.active_children())
    yield
    assert not set(multiprocessing.active_children()) - others


@pytest.mark.slow
@pytest.mark.usefixtures("leaves_no_process")
def test_two_processes_make_what_one_makes(prepared, videos, tmp_path):
    prepare(videos_of_folder(videos), tmp_path / "set", SETTINGS, replace(CPU, workers=2))
    assert contents(tmp_path / "set") == contents(prepared)


def _die(unit):
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(unit):
    raise ValueError("the tracker's files are missing")


@pytest.mark.slow
@pytest.mark.usefixtures("leaves_no_process")
@pytest.mark.parametrize(("task", "words"), [(_die, "a worker process died.*fewer --workers"), (_fail, "tracker's")])
def test_a_worker_that_dies_or_fails_ends_the_run_with_one_line(videos, tmp_path, monkeypatch, task, words):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # a worker imports the task from this file
    monkeypatch.setattr(module, "_prepare_in_worker", task)
    with pytest.raises(ValueError, match=words):
        prepare(videos_of_folder(videos), tmp_path / "set", SETTINGS, replace(CPU, workers=1))
    assert not (tmp_path / "set/00000-00.tar").exists()


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    source = fill(tmp_path / "videos", (46,) * 8)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    prepare(videos_of_folder(source), straight, SETTINGS, CPU)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(source), str(killed)])
    deadline = time.monotonic() + 60
    while not (killed / "units/00000.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it finished before it could be killed"
    left = {name: data for name, data in contents(killed).items() if name.startswith("units/")}
    assert 1 <= len(left) < 4 and left.items() <= contents(straight).items()
    prepare(videos_of_folder(source), killed, SETTINGS, CPU)
    assert contents(killed) == contents(straight)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_local_ray_makes_what_one_process_makes(prepared, videos, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray", reason="ray is not installed: Ray Data was NOT tested; pip install 'ray[data]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        prepare(videos_of_folder(videos), tmp_path / "set", SETTINGS, replace(CPU, ray=True, workers=2))
        assert contents(tmp_path / "set") == contents(prepared)
        broken = replace(SETTINGS, tracker="cotracker", cotracker=("none", "none"), unit_videos=3)
        with pytest.raises(ValueError, match=r"^none has no hubconf\.py"):
            prepare(videos_of_folder(videos), tmp_path / "other", broken, replace(CPU, ray=True, workers=1))
    finally:
        ray.shutdown()
