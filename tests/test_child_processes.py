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


def late(pids) -> None:
    """Asks to end with its parent when that has ended already."""
    parent = os.getppid()
    pids.send([os.getpid()])
    while is_running(parent):
        time.sleep(0.01)
    end_with_parent()
    signal.pause()


def start_late(pids) -> None:
    multiprocessing.get_context("fork").Process(target=late, args=(pids,)).start()
    signal.pause()


@pytest.mark.parametrize(("target", "count"), [(load, 2), (start_late, 1)])
def test_the_children_of_who_is_killed_end(target, count):
    """The workers of a loader, and one that asks too late."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=target, args=(theirs,))
    process.start()
    children = ours.recv()
    assert len(children) == count and all(map(is_running, children))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 60
    try:
        while any(map(is_running, children)):
            assert time.monotonic() < deadline, "they wait for ever"
            time.sleep(0.05)
    finally:  # or pytest would wait for them, too
        for child in filter(is_running, children):
            os.kill(child, signal.SIGKILL)
