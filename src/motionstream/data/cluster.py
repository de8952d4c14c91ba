"""Runs the units of ``data/prepare.py`` on a cluster with Ray Data."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from motionstream.components import Placement
from motionstream.conditioning.pretrained import optional_import
from motionstream.data.encode import PrepareSettings
from motionstream.data.prepare import Execution, Unit, UnitPreparer


class RayPreparer:
    """Actor of Ray Data: maps a row with a unit to a row with its record."""

    def __init__(self, settings: PrepareSettings, placement: Placement) -> None:
        import torch

        torch.set_num_threads(1)
        self.prepare = UnitPreparer(settings, placement)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Rows contain only bytes and strings, since they pass through Arrow."""
        unit: Unit = pickle.loads(row["unit"])  # safe: from ``run_on_ray``
        try:
            return {"number": unit.number, "record": json.dumps(self.prepare(unit)), "error": ""}
        except ValueError as error:  # a user error, which Ray would bury in its own
            return {"number": unit.number, "record": "", "error": str(error)}


def run_on_ray(
    units: list[Unit], settings: PrepareSettings, execution: Execution
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, record) of every unit. Joins the cluster at ``RAY_ADDRESS``, or starts one on this machine.

    Each actor has one CPU, and one GPU if the device is CUDA. Raises ValueError if ray is not installed.
    """
    data = optional_import("ray.data", 'pip install "ray[data]"')
    ray = optional_import("ray", 'pip install "ray[data]"')
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="warning")
    resources, placement = ray.cluster_resources(), execution.placement
    cuda = placement.device.startswith("cuda") or (placement.device == "auto" and resources.get("GPU", 0) > 0)
    if cuda:
        placement = replace(placement, device="cuda")  # Ray shows each actor only its own device
    workers = execution.workers or max(1, int(resources.get("GPU" if cuda else "CPU", 1)))
    data.DataContext.get_current().enable_progress_bars = False  # we have our own
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rows = [{"unit": pickle.dumps(unit)} for unit in units]
    made = data.from_items(rows, override_num_blocks=len(rows)).map(
        RayPreparer,
        fn_constructor_args=(settings, placement),
        compute=data.ActorPoolStrategy(size=min(workers, len(units))),
        num_cpus=1,
        num_gpus=1 if cuda else 0,
    )
    try:
        for row in made.iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            yield row["number"], json.loads(row["record"])
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"Ray gave up; finished shards are kept, run the same command again ({reason})") from error
