"""Processes that work for another one."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """From now on this process is killed once the thread that began it has ended, however that came about.

    One that waits for a queue which it and its siblings hold open would otherwise wait for ever, with all of its
    memory. On systems other than Linux this does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
