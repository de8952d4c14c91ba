"""What works for a process that is killed does not outlive it."""

import itertools
import multiprocessing
import os
import signal
import sys
import time

import pytest

from motionstream.child_processes import end_with_parent, is_running
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


def late(pids) -> None:
    """Asks to end with its parent when that has ended already."""
    parent = os.getppid()
    pids.send(os.getpid())
    while is_running(parent):
        time.sleep(0.01)
    end_with_parent()
    signal.pause()


def start_late(pids) -> None:
    multiprocessing.get_context("fork").Process(target=late, args=(pids,)).start()
    signal.pause()


def test_who_asks_too_late_ends_at_once():
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=start_late, args=(theirs,))
    process.start()
    child = ours.recv()
    assert is_running(child)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline, "it waits for ever"
        time.sleep(0.05)
