"""Helper for worker processes."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have this process killed when the thread that started it ends, for whatever reason.

    Otherwise a worker that waits for a queue, which it and its siblings keep open, would wait forever and keep its
    memory. On systems other than Linux this does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
