"""Times the stages of a stream on devices that work asynchronously."""

from __future__ import annotations

import time

import torch


class StageClock:
    """Times consecutive stages: the first starts with the constructor, and ``mark`` ends a stage.

    On CUDA marks are events on the current stream, and the host waits only in ``read``, so stages overlap with its work
    as they do untimed. On MPS every mark waits for the device; on the CPU no waiting is needed.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._names: list[str] = []
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []
        self._record()

    def mark(self, name: str) -> None:
        """End the stage since the last mark or the start, and name it."""
        self._names.append(name)
        self._record()

    def read(self) -> dict[str, float]:
        """Seconds of every stage so far, in order; stages of the same name are summed."""
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
