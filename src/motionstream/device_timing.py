"""How long the stages of a stream take on a device that works asynchronously."""

from __future__ import annotations

import time

import torch


class StageClock:
    """Times consecutive stages: it starts when made, and ``mark`` ends a stage.

    On CUDA marks are events on the current stream, and the host waits for nothing before ``read``: stages overlap with
    the host's work as they do untimed. MPS is waited for at every mark, the CPU needs no waiting.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._names: list[str] = []
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []
        self._record()

    def mark(self, name: str) -> None:
        """The stage since the last mark, or since the start, is over and is called ``name``."""
        self._names.append(name)
        self._record()

    def read(self) -> dict[str, float]:
        """Seconds of every stage marked so far, in order; stages of one name add up."""
        if self._events:
            self._events[-1].synchronize()
            times = [self._events[0].elapsed_time(event) / 1e3 for event in self._events]
        else:
            times = self._times
        seconds: dict[str, float] = {}
        for name, began, ended in zip(self._names, times[:-1], times[1:], strict=True):
            seconds[name] = seconds.get(name, 0.0) + ended - began
        return seconds

    def _record(self) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            self._events.append(event)
            return
        if self.device.type == "mps":
            torch.mps.synchronize()
        self._times.append(time.perf_counter())
