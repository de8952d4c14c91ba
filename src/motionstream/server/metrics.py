"""The server's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from motionstream.server.host import Host
from motionstream.server.session import Chunk

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
STATUSES = ("loading", "ready", "broken")


class Metrics:
    """Counts on the event loop; ``GET /metrics`` returns `text`.

    Each server has its own registry, so that two servers in one process count separately.
    """

    def __init__(self, host: Host) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def gauge(name: str, what: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"motionstream_{name}", what, labels, registry=registry)

        self._frames = Counter("motionstream_frames", "Frames generated", registry=registry)
        self._dropped = Counter("motionstream_dropped_frames", "Frames a slow viewer was not sent", registry=registry)
        self._bytes = Counter("motionstream_sent_bytes", "Bytes of media sent", registry=registry)
        self._stages = Histogram(
            "motionstream_stage_seconds", "What a chunk took, by stage", ("stage",), registry=registry, buckets=SECONDS
        )
        self._latency = Histogram(
            "motionstream_step_to_first_frame_seconds",
            "From the cut of the tracks to the chunk's frames",
            registry=registry,
            buckets=SECONDS,
        )
        self._delay = Histogram(
            "motionstream_pointer_to_pixel_seconds",
            "From a pointer sample to the pixels that show it, as viewers report it",
            registry=registry,
            buckets=SECONDS,
        )
        status = gauge("status", "1 for what the engine is: loading, ready or broken", ("status",))
        for each in STATUSES:
            status.labels(each).set_function(lambda each=each: float(host.status == each))  # type: ignore[misc]
        gauge("sessions", "Open sessions").set_function(lambda: host.session_count)
        gauge("sessions_limit", "Sessions at a time").set_function(lambda: host.limits.sessions)
        gauge("queued", "Viewers that wait for a free stream").set_function(lambda: host.queue_length)
        registry.register(_Replicas(host))
        self.viewers = gauge("viewers", "Open connections, watching ones included")
        if torch.cuda.is_available():
            gauge("device_memory_bytes", "What torch holds on the device").set_function(torch.cuda.memory_reserved)

    def made(self, chunk: Chunk, encoding: float) -> None:
        """Count a generated chunk and its encoding time in seconds."""
        self._frames.inc(len(chunk.frames))
        self._latency.observe(chunk.latency)
        for stage, seconds in {**chunk.stages, "encode": encoding}.items():
            self._stages.labels(stage).observe(seconds)

    def dropped(self, frames: int) -> None:
        """Count frames that were not sent to one viewer."""
        self._dropped.inc(frames)

    def sent(self, size: int) -> None:
        """Count bytes of media sent to a viewer."""
        self._bytes.inc(size)

    def delayed(self, seconds: float) -> None:
        """Record a viewer's delay from its pointer to its pixels."""
        self._delay.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' format."""
        return generate_latest(self.registry)


class _Replicas(Collector):
    """States of several engines, labelled by their numbers."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's ``Collector``."""
        if not (states := self._host.replicas):
            return
        name, label = "motionstream_replica_", ["replica"]
        status = GaugeMetricFamily(f"{name}status", "1 for what it is", labels=[*label, "status"])
        sessions = GaugeMetricFamily(f"{name}sessions", "Its open sessions", labels=label)
        losses = CounterMetricFamily(f"{name}losses", "How often it was lost", labels=label)
        memory = GaugeMetricFamily(f"{name}resident_memory_bytes", "Its resident memory", labels=label)
        device = GaugeMetricFamily(f"{name}device_memory_bytes", "What torch holds on its device", labels=label)
        for number, state in enumerate(states):
            own = [str(number)]
            for each in STATUSES:
                status.add_metric([*own, each], float(state.status == each))
            sessions.add_metric(own, state.sessions)
            losses.add_metric(own, state.losses)
            memory.add_metric(own, 1e6 * state.memory)
            device.add_metric(own, 1e6 * state.device_memory)
        yield from (status, sessions, losses, memory, device)
