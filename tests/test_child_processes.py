"""What works for a process that is killed does not outlive it."""

import itertools
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from motionstream.training.clips.keyed_loader import KeyedLoader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")


class Large:
    """Items that fill a pipe which nobody reads any more."""

    def __getitem__(self, key: int) -> bytes:
        return bytes(1_000_000)


def load(pids) -> None:
    items: KeyedLoader = KeyedLoader(Large(), workers=2, ahead=8)
    items.get(0, lambda: itertools.count(0))
    pids.send([child.pid for child in multiprocessing.active_children()])
    signal.pause()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_workers_of_a_killed_loader_end():
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=load, args=(theirs,))
    process.start()
    workers = ours.recv()
    assert len(workers) == 2 and all(map(is_running, workers))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "they wait for ever"
        time.sleep(0.05)
