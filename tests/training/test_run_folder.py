"""Two runs do not train one stage in one folder, a run that was killed does not stand in the way of the next, and none
goes on where the stages before have been trained anew."""

import multiprocessing
import os
import signal
import time

import pytest

from motionstream.training.recipes.recipe import STAGES
from motionstream.training.run_folder import STARTS_FROM, stage_run
from motionstream.training.sources import weights_path
from motionstream.training.stages import TRAINERS

fork = multiprocessing.get_context("fork")


def train_forever(folder, held):
    """A run with a data worker, which outlives it."""
    with stage_run(folder, "teacher"):
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        held.set()
        time.sleep(60)


def test_a_second_run_is_refused_until_the_first_has_ended_however_it_ends(tmp_path):
    held = fork.Event()
    process = fork.Process(target=train_forever, args=(tmp_path, held))
    process.start()
    try:
        assert held.wait(30)
        with (
            pytest.raises(ValueError, match=r"another run trains the teacher stage in .*: let it end or stop it"),
            stage_run(tmp_path, "teacher"),
        ):
            pass
        with stage_run(tmp_path, "causal"):  # another stage is another run
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    for _ in range(2):
        with stage_run(tmp_path, "teacher"):
            pass


@pytest.mark.parametrize(("stage", "place"), [("teacher", "teacher_phase1"), ("causal", "causal")])
def test_a_stage_does_not_go_on_with_other_weights_than_it_was_begun_with(tmp_path, stage, place):
    def call():
        with stage_run(tmp_path, stage):
            pass

    before = weights_path(tmp_path, STARTS_FROM[stage][-1] if stage == "teacher" else "teacher")
    before.write_bytes(b"one")
    call()
    before.write_bytes(b"two")
    call()  # nothing was trained with the others
    (tmp_path / place).mkdir()
    checkpoint = tmp_path / place / "checkpoint.pt"
    checkpoint.write_bytes(b"")
    call()
    for change in (lambda: before.write_bytes(b"three"), before.unlink):
        change()
        with pytest.raises(ValueError, match=rf"{stage} stage in .* was begun with another {before.name}: delete .*\*"):
            call()
    before.write_bytes(b"two")
    call()
    before.write_bytes(b"three")
    checkpoint.unlink()
    call()


def test_every_stage_says_what_it_starts_from():
    assert set(STARTS_FROM) == set(TRAINERS)
    for stage, before in STARTS_FROM.items():
        assert stage not in STAGES or all(
            b == "teacher-forcing" or STAGES.index(b) < STAGES.index(stage) for b in before
        )
