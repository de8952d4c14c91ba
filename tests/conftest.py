"""What every test shares: fixed seeds, one thread, no network."""

import os

# Before torch and the hub's client are imported, since they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import gc
import importlib.util
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from motionstream.hardware import bfloat16_pays
from motionstream.pipeline import MotionStreamPipeline

torch.set_num_threads(1)

SEED = 0


LONGEST = "test_runs.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file begins, so that no process is left with it when the others have done."""
    items.sort(key=lambda item: item.path.name != LONGEST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("bfloat16") and not bfloat16_pays(torch.device("cpu")):
        pytest.skip("this processor computes bfloat16 by way of float32: slow, and with copies that no GPU makes")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What is dropped has to end by itself: the garbage collector would do it some day, and hide a circle."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to anything but this machine fail, naming the address."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise OSError(f"tests must not use the network: connection to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """Imports a script of ``benchmarks/``, which is no package, by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "benchmarks" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def lively_pipeline() -> MotionStreamPipeline:
    """The debug model. Untrained weights begin at zero where it matters and make grey frames, all alike: these ones do
    not. Nobody may change it."""
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    generator = torch.Generator().manual_seed(SEED)
    for module in (pipeline.model, pipeline.parts.autoencoder):
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    pipeline.model.transformer.proj_out.weight.mul_(100)  # of noise the light of the whole frame is but a small part
    picture = np.random.default_rng(SEED).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    frames = [pipeline.stream(picture, seed=seed).step() for seed in (0, 1)]
    assert frames[0].std() > 5 and np.abs(np.subtract(*frames, dtype=np.float32)).mean() > 5
    return pipeline


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """A picture of another shape than the model's."""
    return np.random.default_rng(3).integers(0, 256, (40, 48, 3), dtype=np.uint8)
