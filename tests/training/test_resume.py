"""Checkpoints survive what happens to them, and a killed run goes on as if nothing had happened."""

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from motionstream.training import sources, stages
from motionstream.training.diffusion.teacher import TeacherStage
from motionstream.training.loop import checkpoint
from motionstream.training.loop.checkpoint import Checkpoints, damage, previous, save_file
from motionstream.training.loop.run import Run, TrainConfig
from motionstream.training.loop.stage import Stage
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes import recipe as recipes

fork = multiprocessing.get_context("fork")


def quiet(text):
    pass


def state(step, size=50_000):
    return {"weights": torch.full((size,), float(step))}, {"step": step}


def read(folder):
    loaded = Checkpoints(folder).load(dict)
    if loaded is None:
        return None
    tensors, rest = loaded
    assert (tensors["weights"] == rest["step"]).all()
    return rest["step"]


def inode(path):
    """Which file it is; None in the moment in which there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def save_forever(folder, first, background):
    checkpoints = Checkpoints(folder, background=background)
    for step in range(first, first + 100_000):
        checkpoints.save(*state(step))


@pytest.mark.parametrize("background", [False, True])
def test_kill_9_while_saving_never_leaves_a_folder_that_cannot_resume(tmp_path, background):
    moments = random.Random(0)
    reached, interrupted = 0, 0
    Checkpoints(tmp_path).save(*state(0))
    for _ in range(20):
        before = inode(tmp_path / "checkpoint.pt")
        process = fork.Process(target=save_forever, args=(tmp_path, reached + 1, background))
        process.start()
        while process.is_alive() and inode(tmp_path / "checkpoint.pt") == before:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        interrupted += (tmp_path / "checkpoint.pt.tmp").exists()
        step = read(tmp_path)
        assert step is not None and step >= reached - 1  # the newest, or the one before
        assert not list(tmp_path.glob("*.damaged"))
        reached = max(reached, step)
    assert reached > 1 and interrupted > 0


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("sharded", [False, True])
def test_a_crash_between_any_two_steps_of_moving_into_place_leaves_a_checkpoint(tmp_path, monkeypatch, sharded):
    """What os.replace and rmtree leave undone when the process dies at each of their calls."""

    def write(folder, step):
        if not sharded:
            save_file(folder / "checkpoint.pt", dict(zip(("tensors", "rest"), state(step), strict=True)))
            return
        temporary = folder / "checkpoint.sharded.tmp"
        temporary.mkdir()
        (temporary / "part").write_text(str(step))
        (temporary / "sizes.json").write_text(json.dumps({"part": 1}))
        checkpoint.move_into_place(temporary, folder / "checkpoint.sharded")

    def newest(folder):
        found = checkpoint._choose(folder)
        assert found is not None
        return int(open(found + "/part").read()) if sharded else read(folder)

    calls = 0
    for dies_at in range(6):
        folder = tmp_path / str(dies_at)
        folder.mkdir()
        for step in (1, 2):
            write(folder, step)
        count = 0

        def counted(real, dies_at=dies_at):
            def call(*args, **kwargs):
                nonlocal count
                if count == dies_at:
                    raise Crash
                count += 1
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, "replace", counted(os.replace))
            patch.setattr(checkpoint.shutil, "rmtree", counted(checkpoint.shutil.rmtree))
            try:
                write(folder, 3)
                calls = count
            except Crash:
                assert newest(folder) == 2
                continue
        assert newest(folder) == 3
    assert calls == (3 if sharded else 2)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_never_becomes_the_last_good(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for step in (1, 2):
        Checkpoints(tmp_path).save(*state(step))
    assert damage(path) is None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged .*going back to an older one"):
        assert read(tmp_path) == 1
    assert (tmp_path / "checkpoint.pt.damaged").exists()
    Checkpoints(tmp_path).save(*state(3))
    assert read(tmp_path) == 3 and damage(previous(path)) is None

    for broken in (path, previous(path)):
        broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"no checkpoint in .* can be read: copy one back"):
        read(tmp_path)


def test_no_checkpoint_is_none(tmp_path):
    assert read(tmp_path) is None


@contextmanager
def room(size):
    """No file can grow beyond ``size`` bytes: the disk is full in the middle of one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_said_and_leaves_the_old_checkpoint(tmp_path, background):
    checkpoints = Checkpoints(tmp_path, background=background)
    checkpoints.save(*state(1))
    checkpoints.wait()
    whole = (tmp_path / "checkpoint.pt").stat().st_size
    with room(whole // 2), pytest.raises(OSError, match="the checkpoint before it is intact: make room") as caught:
        checkpoints.save(*state(2))
        checkpoints.wait()
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "checkpoint.pt")
    assert read(tmp_path) == 1 and [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    checkpoints.save(*state(3))  # there is room again
    checkpoints.wait()
    assert read(tmp_path) == 3


class Counter(Stage):
    """A stage with everything that must survive: weights, moments, two generators, a list of its own."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)))
        self.rng.manual_seed(0)
        self.replay = []

    def loss(self, step):
        x = torch.randn(8, 3, generator=self.rng) * (1 + random.random())
        self.replay.append(x.mean().item())
        return (self.module(x) - x.sum(1, keepdim=True)).square().mean() * (1 + self.replay[step // 2]), {}

    def validate(self, module):
        return {}

    def state_dict(self):
        return {"replay": self.replay}

    def load_state_dict(self, state):
        self.replay = state["replay"]


@pytest.mark.parametrize("background", [False, True])
def test_every_part_of_a_run_is_restored(tmp_path, background):
    config = TrainConfig(steps=12, lr=0.1, background_checkpoints=background)
    random.seed(3)
    whole = Run(Counter(), config, tmp_path / "whole")
    losses = [whole.update()["loss"] for _ in range(12)]
    random.seed(3)
    cut = Run(Counter(), config, tmp_path / "cut")
    first = [cut.update()["loss"] for _ in range(5)]
    cut.save()
    lost = cut.update()["loss"]  # while a background save is being written: it must not see this
    cut.checkpoints.wait()
    random.seed(99)
    resumed = Run(Counter(), config, tmp_path / "cut")
    assert resumed.step == 5 and lost == losses[5]
    assert first + [resumed.update()["loss"] for _ in range(7)] == losses
    assert len(set(losses)) == 12
    torch.testing.assert_close(resumed.average, whole.average, atol=0, rtol=0)
    assert (resumed.average["0.weight"] - resumed.stage.module[0].weight).abs().max() > 0


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    save_file(tmp_path / "checkpoint.pt", {"module": {}, "step": 3})
    with pytest.raises(ValueError, match="of another version: train into another folder"):
        Run(Counter(), TrainConfig(steps=1), tmp_path)


def teacher(recipe, folder):
    torch.manual_seed(recipe.seed)
    trainee = sources.Trainee(recipe.model)
    pool = sources.clip_source(recipe, folder, recipes.TrackMix(), seed=3)
    validation = sources.validation_clips(recipe, folder)
    return TeacherStage(trainee, pool, validation, seed=1)


def run_teacher(folder, target, background=False):
    recipe = nano_recipes.debug()
    config = replace(recipe.teacher[0].train, steps=20, checkpoint_every=10, log_every=1, validate_every=100)
    config = replace(config, background_checkpoints=background)
    return stages.train(teacher(recipe, folder), config, target, say=quiet)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if line.endswith("}")]
    return {line["step"]: (line["loss"], line["gradient_norm"]) for line in lines if line["kind"] == "train"}


@pytest.mark.parametrize("background", [False, True])
def test_twenty_steps_are_ten_a_kill_and_ten_more_bit_for_bit(tmp_path, background):
    for train in (stages.train_autoencoder, stages.train_mixer):
        train(nano_recipes.debug(), tmp_path, say=quiet)
    process = fork.Process(target=run_teacher, args=(tmp_path, tmp_path / "cut", background))
    process.start()
    while process.is_alive() and not (
        (tmp_path / "cut" / "log.jsonl").exists() and max(losses(tmp_path / "cut"), default=0) >= 13
    ):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = losses(tmp_path / "cut")
    resumed = run_teacher(tmp_path, tmp_path / "cut", background)
    straight = run_teacher(tmp_path, tmp_path / "straight")
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")
    assert {step: before[step] for step in range(1, 11)} == {s: losses(tmp_path / "cut")[s] for s in range(1, 11)}
    assert len(set(losses(tmp_path / "straight").values())) == 20
    for a, b in ((resumed.average, straight.average), (resumed.stage.module, straight.stage.module)):
        a, b = (x.state_dict() if isinstance(x, nn.Module) else x for x in (a, b))
        torch.testing.assert_close(a, b, atol=0, rtol=0)
