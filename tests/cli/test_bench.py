import json
import shlex

import pytest
import torch

from motionstream.bench import WARM_UP, bench_stream, memory_mb, peak_memory_mb
from motionstream.cli import main

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
    assert {"motionstream", "python", "torch"} == set(result["versions"])
    assert shlex.split(result["command"])[:3] == ["motionstream", "bench", "stream"]


def test_late_chunks_are_compared_in_long_runs():
    result = bench_stream("debug", chunks=210, untrained=True, threads=1)
    assert 0.1 < result["late_over_early"] < 10


def test_threads_are_put_back():
    before = torch.get_num_threads()
    assert bench_stream("debug", chunks=2, untrained=True, threads=2)["threads"] == 2
    assert torch.get_num_threads() == before


def test_memory_is_in_megabytes():
    before = memory_mb()
    held = torch.ones(50_000_000 // 4)  # 50 MB
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
    ],
)
def test_bad_values_are_one_line(capsys, arguments, words):
    assert main(["bench", "stream", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""
