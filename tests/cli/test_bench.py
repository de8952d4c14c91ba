import json
import mmap
import shlex

import numpy as np
import pytest
import torch

from motionstream.bench import WARM_UP, bench_pipeline, bench_stream
from motionstream.cli import main
from motionstream.components import Placement
from motionstream.flops import chunk_flops
from motionstream.hardware import memory_mb, peak_memory_mb
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import preset

DEBUG = ["--preset", "debug", "--untrained"]


def test_the_last_line_is_json(capsys, tmp_path):
    output = tmp_path / "result.json"
    arguments = ["bench", "stream", *DEBUG, "--chunks", "24", "--threads", "1", "--output", str(output)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert any("step to first frame" in line for line in lines[:-1])
    assert json.loads(output.read_text()) == result
    assert result["frames"] == 9 + 23 * 12 and result["warm_up_chunks"] == WARM_UP
    assert set(result["stages_ms"]) == {"conditions", "generate", "decode", "settle"}
    latency = result["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p95"] <= latency["max"]
    # Frames over latency and settling; the medians cannot be far from the means by more than the extremes.
    slowest = (latency["max"] + result["stages_ms"]["settle"]["max"]) / 1e3
    fastest = (latency["min"] + result["stages_ms"]["settle"]["min"]) / 1e3
    assert 12 / slowest <= result["fps"] + 0.01 and result["fps"] <= 12 / fastest + 0.01
    assert result["memory_mb"]["peak"] > 50
    assert result["late_over_early"] is None and result["threads"] == 1 and not result["trained"]
    assert {"motionstream", "python", "torch"} <= set(result["versions"])
    assert shlex.split(result["command"])[:3] == ["motionstream", "bench", "stream"]
    stages = result["stages_ms"]
    assert result["first_frame_ms"]["min"] > stages["conditions"]["min"] + stages["generate"]["min"]
    assert sum(stages[name]["min"] for name in ("conditions", "generate", "decode")) <= latency["max"]


def test_operations_are_those_of_the_model_over_the_measured_time():
    result = bench_stream("debug", chunks=4, untrained=True, threads=1)
    flops, compute = chunk_flops(preset("debug")), result["compute"]
    assert compute["tflop"]["total"] == pytest.approx(flops.total / 1e12, rel=1e-4)
    assert compute["tflop"]["decode"] == pytest.approx(flops.decode / 1e12, rel=1e-4)
    seconds = result["stages_ms"]["generate"]["p50"] / 1e3
    assert compute["tflops"]["generate"] == pytest.approx(flops.generate / 1e12 / seconds, rel=1e-3)
    # nothing is known of this processor's peak, and it is no CUDA device
    assert compute["share"] is compute["of_matmul"] is compute["peak_tflops"] is result["device_memory_mb"] is None


def test_the_options_reach_the_model(capsys):
    arguments = ["bench", "stream", "--preset", "wan2.1-debug", "--untrained", "--chunks", "2"]
    arguments += ["--size", "48x32", "--causal", "c1s1w2", "--decoder", "tiny", "--backend", "plain"]
    assert main([*arguments, "--device", "cpu", "--dtype", "bfloat16"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"size": "48x32", "attention": "c1s1w2", "decoder": "tiny", "backend": "plain", "dtype": "bfloat16"}
    assert {name: result[name] for name in expected} == expected
    assert result["frames"] == 1 + 4
    assert main(shlex.split(result["command"])[1:]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: again[name] for name in expected} == expected and again["command"] == result["command"]


def test_a_loaded_pipeline_is_measured_too():
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    chunks = []
    result = bench_pipeline(pipeline, 3, after_chunk=lambda: chunks.append(1))
    assert len(chunks) == result["chunks"] == 3 and result["backend"] == "sdpa" and result["decoder"] == "full"
    assert "load_average_before" not in result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_is_measured():
    result = bench_stream("wan2.1-debug", chunks=4, untrained=True, placement=Placement("cuda", "bfloat16", "tiny"))
    memory = result["device_memory_mb"]
    assert memory["peak_reserved"] >= memory["peak_allocated"] >= memory["streaming"] > 0
    assert result["compute"]["matmul_tflops"] > 1 and 0 < result["compute"]["of_matmul"] < 1
    assert result["device"] == torch.cuda.get_device_name()


def test_late_chunks_are_compared_in_long_runs(monkeypatch):
    monkeypatch.setattr("motionstream.bench.COMPARED", 8)
    assert bench_stream("debug", chunks=25, untrained=True, threads=1)["late_over_early"] is None
    result = bench_stream("debug", chunks=26, untrained=True, threads=1)
    assert 0.1 < result["late_over_early"] < 10


def test_threads_are_put_back():
    before = torch.get_num_threads()
    assert bench_stream("debug", chunks=2, untrained=True, threads=2)["threads"] == 2
    assert torch.get_num_threads() == before


def test_memory_is_in_megabytes():
    before = memory_mb()
    held = mmap.mmap(-1, 50_000_000)  # of the system itself: an allocator may have as much left from other tests
    np.frombuffer(held, np.uint8)[:] = 1
    assert 40 < memory_mb() - before < 60
    assert peak_memory_mb() >= before + 40
    del held


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*DEBUG, "--chunks", "1"], "--chunks is 1"),
        ([*DEBUG, "--threads", "0"], "--threads is 0"),
        (["--preset", "debug"], "--untrained"),
        (["--preset", "huge", "--untrained"], "'huge'"),
        ([*DEBUG, "--output", "x.txt"], "x.txt"),
        ([*DEBUG, "--size", "33x32"], "33x32"),
        ([*DEBUG, "--size", "big"], "'big'"),
        ([*DEBUG, "--backend", "magic"], "'magic'"),
        ([*DEBUG, "--causal", "c3"], "'c3'"),
        ([*DEBUG, "--device", "abacus"], "'abacus'"),
    ],
)
def test_bad_values_are_one_line(capsys, arguments, words):
    assert main(["bench", "stream", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""
