"""`motionstream train` as torchrun starts it: two processes leave what one does, stage after stage."""

import contextlib
import json
import multiprocessing
import os
import socket
from datetime import timedelta

import pytest
import torch
from safetensors.torch import load_file

from motionstream.cli import main
from motionstream.training import stages
from motionstream.training.loop import distributed
from motionstream.training.recipes import recipe as recipes

STAGES = ("autoencoder", "tiny-decoder")  # the cheapest: two runs, one after the other in one process group
assert set(STAGES) <= set(stages.TRAINERS)  # imported once, before processes are forked


def run(arguments, rank, ranks, port, path):
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(1)
    with open(path, "w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["train", *arguments])
        print(f"exit code {code}")


def train(folder, ranks):
    """What every rank of ``train all`` says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["all", "--recipe", "debug", "--folder", str(folder)]
    paths = [folder.with_name(f"{folder.name}-{rank}.txt") for rank in range(ranks)]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run, args=(arguments, r, ranks, port, path)) for r, path in enumerate(paths)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()  # a rank that waits for one that failed
    said = [path.read_text() for path in paths]
    assert all(text.endswith("exit code 0\n") for text in said), "\n".join(said)
    return said


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_processes_train_stage_after_stage_what_one_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "STAGES", STAGES)
    train(tmp_path / "one", 1)
    first, second = train(tmp_path / "two", 2)
    for stage in STAGES:
        assert first.count(f"{stage}.safetensors: the {stage} stage is done") == 1
        one, two = log(tmp_path / "one" / stage), log(tmp_path / "two" / stage)
        assert [line["kind"] for line in one] == [line["kind"] for line in two]
        for name in ("loss", "gradient_norm", "l1"):
            expected = [line[name] for line in one if name in line]
            assert [line[name] for line in two if name in line] == pytest.approx(expected, abs=1e-5)
        weights = (load_file(tmp_path / name / f"{stage}.safetensors") for name in ("one", "two"))
        torch.testing.assert_close(*weights, atol=1e-4, rtol=0)
    assert "is done" not in second and "validate" not in second  # what is said is the first rank's


def test_ranks_wait_for_hours_for_one_that_still_solves_trajectories(monkeypatch):
    told = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *_, **options: told.update(options))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    with distributed.process_group():
        assert told["timeout"] >= timedelta(hours=6)  # half an hour, unless one says so
