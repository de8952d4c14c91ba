"""Engines on Ray Serve: one per device, monitored and restarted by it, behind the usual server.

Every engine is an application with a single replica, so that its handle always reaches the same one: Serve would
balance the calls of a session among the replicas of one application. Serve's HTTP proxies are not started.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.fleet import Fleet
from motionstream.server.replica import News, Order, Replica
from motionstream.server.session import Limits
from motionstream.session.library import Library

NAME = "motionstream"
REMEDY = 'pip install -e ".[ray]"'

LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray listen only at 127.0.0.1, on any system
    "RAY_AUTH_MODE": "token",  # otherwise other users of this machine could run programs as us
}
OBJECTS = 512 * 2**20  # bytes of shared memory per replica, for frames in transit
OPTIONS = {
    "num_replicas": 1,
    "max_ongoing_requests": 16,
    "health_check_period_s": 2,
    "health_check_timeout_s": 30,
    "graceful_shutdown_timeout_s": 5,
    "graceful_shutdown_wait_loop_s": 0.5,
}


@contextmanager
def fleet_on_ray(
    load: Callable[[], MotionStreamPipeline],
    limits: Limits,
    library: Library,
    *,
    device: str = "auto",
    replicas: int | None = None,
) -> Iterator[Fleet]:
    """Run engines on the cluster that ``RAY_ADDRESS`` names, or else on a local Ray for this user only.

    ``load`` runs in each replica, which has one GPU if ``device`` is CUDA, or "auto" and Ray has any. ``replicas``: by
    default one per GPU, or one without GPUs. ``limits``: of each replica. All record in the library's folder.

    Raises:
        ValueError: Ray is not installed or has too few devices, another server runs on the cluster, or the replicas do
            not start.
    """
    if device.startswith("cuda:"):
        raise ValueError(f"--device is {device}; say cuda, for Ray gives each replica a GPU of its own")
    own = "RAY_ADDRESS" not in os.environ
    ray, serve = _start(own, replicas)
    try:
        count, resources = _resources(ray, device, replicas)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # serve.start has just changed it
        names = [f"{NAME}-{number}" for number in range(count)]
        _check_free(serve)
        engine = serve.deployment(RayReplica).options(name="engine", ray_actor_options=resources, **OPTIONS)
        targets = [
            serve.RunTarget(engine.bind(load, limits, library.folder.resolve(), own), name, route_prefix=None)
            for name in names
        ]
        try:
            try:
                handles = serve.run_many(targets)
            except RuntimeError as error:
                raise ValueError(f"Ray Serve could not start the replicas: {' '.join(str(error).split())}") from error
            with Fleet([RemoteReplica(handle) for handle in handles], limits, library) as fleet:
                yield fleet
        finally:
            if not own:
                for name in names:
                    serve.delete(name)
    finally:
        ray.shutdown()  # also ends a local Ray with everything that runs on it


class RayReplica(Replica):
    """The replica that Ray Serve runs."""

    def __init__(self, load: Callable[[], MotionStreamPipeline], limits: Limits, folder: Path, locally: bool) -> None:
        if locally:
            _listen_locally()
        super().__init__(load, limits, folder)

    def __del__(self) -> None:  # called by Serve when the replica ends
        self.close()


class RemoteReplica:
    """A replica, used by its handle. All calls raise Ray's errors if it is lost."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def events(self) -> AsyncGenerator[News]:
        """See `Replica`; the first event waits until the replica is running."""
        answers = self._handle.options(stream=True).events.remote()
        try:
            async for news in answers:
                yield news
        finally:
            answers.cancel()

    async def tell(self, now: float, orders: dict[str, Order]) -> None:
        """See `Replica`."""
        await self._handle.tell.remote(now, orders)

    async def leave(self) -> None:
        """See `Replica`."""
        await self._handle.leave.remote()


def _start(own: bool, replicas: int | None) -> tuple[Any, Any]:
    """Import Ray and Ray Serve and connect to a cluster, or start a local one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports to Ray's makers
    if own:
        os.environ.update(LOCAL, RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        ray, serve = importlib.import_module("ray"), importlib.import_module("ray.serve")
    except ImportError as error:
        raise ValueError(f"--ray needs Ray Serve ({error}): {REMEDY}") from error
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if own:
        objects = OBJECTS * (replicas or 8)
        ray.init("local", include_dashboard=False, object_store_memory=objects, **quiet)
        return ray, serve
    try:
        ray.init(**quiet)
    except ConnectionError as error:
        raise ValueError(f"RAY_ADDRESS is {os.environ['RAY_ADDRESS']}, and no Ray answers there: {error}") from error
    return ray, serve


def _resources(ray: Any, device: str, replicas: int | None) -> tuple[int, dict[str, int]]:
    """The number of replicas, and the resources of each. ValueError if the cluster has too few."""
    there = ray.cluster_resources()
    cpus, gpus = (int(there.get(kind, 0)) for kind in ("CPU", "GPU"))
    if device == "cuda" or (device == "auto" and gpus):
        count = replicas or max(1, gpus)
        if count > gpus:
            raise ValueError(f"{count} replicas need a GPU each, and Ray has {gpus}; give --replicas, or --device cpu")
        return count, {"num_gpus": 1, "num_cpus": min(1, cpus // count)}
    count = replicas or 1
    if count > cpus:
        raise ValueError(f"{count} replicas need a processor core each, and Ray has {cpus}; give fewer --replicas")
    # Ray gives torch as many threads. On several machines the distribution of cores is unknown, so take one.
    return count, {"num_gpus": 0, "num_cpus": cpus // count if len(ray.nodes()) == 1 else 1}


def _check_free(serve: Any) -> None:
    """Refuse to run beside another server on the cluster: the two would take each other's replicas."""
    others = [name for name in serve.status().applications if name.startswith(f"{NAME}-")]
    if others:
        raise ValueError(
            f"{', '.join(others)} run on this Ray already; stop that server, or what it left: serve shutdown"
        )


def _listen_locally() -> None:
    """Bind Serve's gRPC server in a replica to 127.0.0.1.

    It is for calls between deployments, which are not used here, and listens at every address regardless of Ray's
    settings. Versions of Ray without it need no change.
    """
    module = importlib.import_module("ray.serve._private.replica")
    add_port = getattr(module, "add_port_to_grpc_server", None)
    if add_port is not None:
        module.add_port_to_grpc_server = lambda server, address: add_port(  # type: ignore[attr-defined]
            server, address.replace("[::]", "127.0.0.1")
        )
