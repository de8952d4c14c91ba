import time

import pytest
import torch

from motionstream.device_timing import StageClock


def test_stages_are_timed_one_after_another():
    clock = StageClock("cpu")
    time.sleep(0.02)
    clock.mark("first")
    time.sleep(0.05)
    clock.mark("second")
    seconds = clock.read()
    assert list(seconds) == ["first", "second"]
    assert 0.02 <= seconds["first"] < 0.05 <= seconds["second"] < 0.5


def test_stages_of_one_name_add_up():
    clock = StageClock("cpu")
    assert clock.read() == {}
    for _ in range(3):
        time.sleep(0.01)
        clock.mark("step")
    seconds = clock.read()
    assert list(seconds) == ["step"] and seconds["step"] >= 0.03


def test_on_cuda_the_host_waits_only_when_it_reads(monkeypatch):
    said = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.place = len([word for word in said if word == "record"])

        def record(self, stream: object) -> None:
            said.append("record")

        def synchronize(self) -> None:
            said.append(f"wait for {self.place}")

        def elapsed_time(self, other: "Event") -> float:
            return 1000.0 * (other.place**2 - self.place**2)  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    clock = StageClock("cuda")
    clock.mark("a")
    clock.mark("b")
    assert said == ["record"] * 3
    assert clock.read() == {"a": 1.0, "b": 3.0}
    assert said == ["record"] * 3 + ["wait for 2"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_s_own_time_is_measured():
    a = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    clock = StageClock("cuda")
    clock.mark("nothing")
    for _ in range(20):
        a @ a
    began = time.perf_counter()
    clock.mark("products")
    asked = time.perf_counter() - began
    seconds = clock.read()
    assert seconds["products"] > 10 * seconds["nothing"] and asked < seconds["products"]
