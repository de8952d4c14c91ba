"""Helper for worker processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have this process killed when the thread that started it ends, for whatever reason; now, if its parent has ended
    already.

    Otherwise a worker that waits for a queue, which it and its siblings keep open, would wait forever and keep its
    memory. On systems other than Linux this does nothing.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None and not is_running(parent.pid):
        os._exit(1)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
