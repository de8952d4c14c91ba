"""The loop on stages small enough to know the answer: players, accumulation, failures, pictures, logs."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from motionstream.media.pictures import read_picture
from motionstream.training.loop import logs
from motionstream.training.loop import run as loop
from motionstream.training.loop.distributed import SampleDraws, keyed_generator, micro_batch, shard
from motionstream.training.loop.run import Run, TrainConfig, train
from motionstream.training.loop.shortage import explain
from motionstream.training.loop.stage import Stage

BATCH = 8
CONFIG = TrainConfig(steps=6, lr=0.05, checkpoint_every=3)


def quiet(text):
    pass


class Line(Stage):
    """Fits y = Σx on samples drawn by (seed, step, sample); ``spoil`` may change the loss of a step."""

    def __init__(self, spoil=None, keyed=True):
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 1))
        self.rng.manual_seed(0)
        self.spoil, self.keyed = spoil, keyed
        self.seen = []

    def loss(self, step):
        samples = shard(BATCH)
        if self.keyed:
            x = SampleDraws(7, step, samples).randn(3)
        else:
            x = torch.randn(len(samples), 3, generator=self.rng)
        self._last = {"x": x, "samples": list(samples)}
        self.seen.append(x)
        loss = (self.module(x) - x.sum(1, keepdim=True)).square().mean()
        if self.spoil is not None:
            loss = self.spoil(step, loss)
        return loss, {"largest": x.max().item()}

    def last_batch(self):
        return self._last

    def validate(self, module):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(5))
        return {"error": (module(x) - x.sum(1, keepdim=True)).square().mean().item()}


def weights(run):
    return {k: v.clone() for k, v in run.stage.module.state_dict().items()}


def test_accumulated_micro_batches_are_the_whole_batch(tmp_path):
    runs = {
        n: train(Line(), TrainConfig(steps=5, lr=0.05, accumulate=n, log_every=1), tmp_path / str(n), say=quiet)
        for n in (1, 2, 4)
    }
    records = {n: read_log(tmp_path / str(n), "train") for n in runs}
    losses = {n: [r["loss"] for r in found] for n, found in records.items()}
    assert len(set(losses[1])) == 5
    for n in (2, 4):
        assert losses[n] == pytest.approx(losses[1], abs=1e-5)
        assert [len(x) for x in runs[n].stage.seen[:n]] == [BATCH // n] * n
        torch.testing.assert_close(torch.cat(runs[n].stage.seen[:n]), runs[1].stage.seen[0], atol=0, rtol=0)
        torch.testing.assert_close(weights(runs[n]), weights(runs[1]), atol=1e-5, rtol=0)
    other = train(Line(keyed=False), TrainConfig(steps=5, lr=0.05, log_every=1), tmp_path / "unkeyed", say=quiet)
    assert (weights(other)["weight"] - weights(runs[1])["weight"]).abs().max() > 1e-4


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch of 8 .* accumulate 3: choose a multiple of 3"):
        train(Line(), TrainConfig(steps=1, accumulate=3), tmp_path, say=quiet)


def test_sample_draws_depend_on_seed_step_sample_and_purpose_alone():
    whole = SampleDraws(1, 2, range(4)).randn(5)
    torch.testing.assert_close(SampleDraws(1, 2, range(2, 4)).randn(5), whole[2:], atol=0, rtol=0)
    for other in (SampleDraws(2, 2, range(4)), SampleDraws(1, 3, range(4)), SampleDraws(1, 2, range(4), "noise")):
        assert (other.randn(5) - whole).abs().min() > 0
    assert SampleDraws(1, 2, range(300)).randint(3).bincount().tolist() == pytest.approx([100] * 3, abs=30)
    first, second = (torch.rand((), generator=keyed_generator(1, step)) for step in (0, 1))
    assert first != second
    with micro_batch(1, 4):
        assert shard(8) == range(2, 4)
    assert shard(8) == range(8)


class Duel(Stage):
    """The module follows the opponent's number, the opponent runs away from the module's."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(1, 1))
        self.opponent = nn.Linear(1, 1)
        self.history = []

    def turn(self, step):
        return "module" if step % 3 == 2 else "opponent"

    def loss(self, step):
        self.history.append((self.turn(step), self.module.weight.item(), self.opponent.weight.item()))
        gap = (self.module(torch.ones(1)) - self.opponent(torch.ones(1))).square().sum()
        return (gap if self.turn(step) == "module" else -gap), {}

    def validate(self, module):
        return {}


def test_players_take_turns_each_with_its_own_rate(tmp_path):
    config = TrainConfig(steps=7, lr=0.01, opponent_lr=0.03, warmup=1, weight_decay=0.0, log_every=1)
    run = train(Duel(), config, tmp_path / "straight", say=quiet)
    history = [*run.stage.history, (None, run.stage.module.weight.item(), run.stage.opponent.weight.item())]
    for (turn, module, opponent), (_, later_module, later_opponent) in pairwise(history):
        assert (module != later_module) == (turn == "module")
        assert (opponent != later_opponent) == (turn == "opponent")
    # Adam's first step is as long as its rate
    assert abs(history[1][2] - history[0][2]) == pytest.approx(0.03, rel=0.05)
    assert abs(history[3][1] - history[2][1]) == pytest.approx(0.01, rel=0.3)
    assert set(run.average) == set(run.stage.module.state_dict())
    assert {name: p.updates for name, p in run.players.items()} == {"module": 2, "opponent": 5}
    assert Run(Duel(), TrainConfig(steps=1, lr=0.5), tmp_path / "default").players["opponent"].lr == 1.0


def test_both_players_resume(tmp_path):
    config = TrainConfig(steps=9, lr=0.01, warmup=1, log_every=1)
    straight = train(Duel(), config, tmp_path / "straight", say=quiet)
    first = Run(Duel(), config, tmp_path / "cut")
    for _ in range(4):
        first.update()
    first.save()
    resumed = train(Duel(), config, tmp_path / "cut", say=quiet)
    assert resumed.stage.history == straight.stage.history[4:]
    torch.testing.assert_close(
        resumed.stage.opponent.state_dict(), straight.stage.opponent.state_dict(), atol=0, rtol=0
    )
    with pytest.raises(ValueError, match="of another stage"):
        Run(Line(), config, tmp_path / "cut")


class Blocks(Line):
    """The same by two layers, the first a block's matrix."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.ModuleDict({"blocks": nn.Linear(3, 3)}), nn.Linear(3, 1))
        self.module.forward = lambda x: self.module[1](self.module[0]["blocks"](x))


def test_muon_takes_the_blocks_matrices_and_resumes(tmp_path):
    config = replace(CONFIG, steps=6, warmup=0, final_lr=1.0, optimiser="muon", weight_decay=0.1, clip=1e9)
    run = Run(Blocks(), config, tmp_path / "hand")
    matrix = run.stage.module[0]["blocks"].weight
    by_hand = nn.Parameter(matrix.detach().clone())
    muon = torch.optim.Muon([by_hand], lr=config.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw, own = run.players["module"].optimisers
    assert [p.shape for group in own.param_groups for p in group["params"]] == [matrix.shape]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 3
    for _ in range(3):
        run.update()
        by_hand.grad = matrix.grad.clone()
        muon.step()
        assert torch.equal(matrix, by_hand)

    straight = train(Blocks(), config, tmp_path / "straight", say=quiet)
    cut = Run(Blocks(), config, tmp_path / "cut")
    for _ in range(3):
        cut.update()
    cut.save()
    resumed = train(Blocks(), config, tmp_path / "cut", say=quiet)
    for name, value in straight.average.items():
        assert torch.equal(value, resumed.average[name])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_the_batch_saved_and_the_weights_untouched(tmp_path, what, accumulate):
    def spoil(step, loss):
        if step != 6:
            return loss
        return loss * float("nan") if what == "loss" else loss.detach() + (loss - loss.detach()).sqrt()

    config = TrainConfig(steps=10, lr=0.05, warmup=1, accumulate=accumulate, checkpoint_every=4)
    straight = train(Line(keyed=False), config, tmp_path / "straight", say=quiet)
    cut = tmp_path / "cut"
    stage = Line(spoil, keyed=False)
    message = "the loss is nan" if what == "loss" else "the gradient's norm is (nan|inf)"
    with pytest.raises(
        FloatingPointError, match=rf"{message} at step 6; its batch is in .*bad_batch\.pt.*learning rate"
    ):
        train(stage, config, cut, say=quiet)
    bad = torch.load(cut / "bad_batch.pt", weights_only=True)
    assert bad["step"] == 6 and len(bad["batches"]) == accumulate
    torch.testing.assert_close(bad["batches"][-1]["x"], stage.seen[-1], atol=0, rtol=0)
    # six good updates and no more; the seventh is tried again with the same batch
    assert torch.isfinite(stage.module.weight).all()
    healed = Line(keyed=False)
    resumed = train(healed, config, cut, say=quiet)
    torch.testing.assert_close(healed.seen[:accumulate], stage.seen[-accumulate:], atol=0, rtol=0)
    torch.testing.assert_close(weights(resumed), weights(straight), atol=0, rtol=0)


def test_nothing_to_train_is_said(tmp_path):
    stage = Line()
    stage.module.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        Run(stage, TrainConfig(steps=1), tmp_path)


def test_settings_are_checked():
    for name in ("accumulate", "log_every", "checkpoint_every"):
        with pytest.raises(ValueError, match=f"{name} = 0"):
            TrainConfig(steps=1, **{name: 0})


class Shown(Line):
    """Shows its weight as a grey picture, as it is while it validates."""

    def pictures(self):
        grey = int(128 + 50 * self.module.weight[0, 0].item())
        return {"weight": np.full((4, 6, 3), grey, np.uint8), "black": np.zeros((2, 2, 3), np.uint8)}


def test_optimisers_are_checked():
    with pytest.raises(ValueError, match="optimiser = 'lion': give adamw or muon"):
        replace(CONFIG, optimiser="lion")
    with pytest.raises(ValueError, match="needs whole matrices"):
        replace(CONFIG, optimiser="muon", shard=True)


def test_pictures_of_the_averaged_weights_are_written(tmp_path):
    config = TrainConfig(steps=6, lr=0.1, warmup=1, ema=0.5, validate_every=4)
    run = train(Shown(), config, tmp_path, say=quiet)
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert names == ["000004-black.png", "000004-weight.png", "000006-black.png", "000006-weight.png"]
    picture = read_picture(tmp_path / "validation" / "000006-weight.png")
    averaged, trained = (int(128 + 50 * w[0, 0].item()) for w in (run.average["weight"], run.stage.module.weight))
    assert (picture == averaged).all() and averaged != trained and picture.shape == (4, 6, 3)
    train(Line(), TrainConfig(steps=1), tmp_path / "none", say=quiet)
    assert not (tmp_path / "none" / "validation").exists()


def test_tensorboard_has_the_scalars_and_the_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(steps=4, lr=0.1, warmup=1, log_every=2, validate_every=4)
    train(Shown(), config, tmp_path, say=quiet)
    # a resumed run goes on in the same place
    train(Shown(), TrainConfig(steps=6, log_every=2, validate_every=6), tmp_path, say=quiet)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for kind, names in {"train": ("loss", "lr", "gradient_norm", "largest"), "validate": ("error",)}.items():
        records = read_log(tmp_path, kind)
        for name in names:
            scalars = events.Scalars(f"{kind}/{name}")
            assert [scalar.step for scalar in scalars] == [r["step"] for r in records]
            assert [s.value for s in scalars] == pytest.approx([r[name] for r in records], rel=1e-5)
    image = events.Images("validate/weight")[0]
    written = tmp_path / "validation" / "000004-weight.png"
    assert image.step == 4 and (image.height, image.width) == (4, 6)
    (tmp_path / "image.png").write_bytes(image.encoded_image_string)
    np.testing.assert_array_equal(read_picture(tmp_path / "image.png"), read_picture(written))


def test_the_share_of_the_peak_is_logged_where_flops_and_peak_are_known(tmp_path, monkeypatch):
    def records(stage, flops, tflops, **changes):
        asked = []
        monkeypatch.setattr(loop, "data_sheet_tflops", lambda *about: (asked.append(about), tflops)[1])
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        train(stage, TrainConfig(steps=4, log_every=2, **changes), folder, flops=flops, say=quiet)
        assert asked == [(torch.device("cpu"), torch.bfloat16 if changes else torch.float32)]
        return read_log(folder, "train")

    # of steps 0 to 3 the module's is step 2
    for record, done in zip(records(Duel(), {"module": 1e6, "opponent": 1e5}, 1e-3), (2e5, 1.1e6), strict=True):
        assert record["share_of_peak"] == pytest.approx(done / (2 * record["step_seconds"] * 1e9))
    assert all("share_of_peak" in record for record in records(Line(), {"module": 1e6}, 1e-3, bf16=True))
    for flops, tflops in ((None, 1e-3), ({"module": 1e6}, None)):
        assert all("share_of_peak" not in record for record in records(Line(), flops, tflops))


def test_peak_memory_of_a_gpu_is_that_since_the_last_line(monkeypatch):
    held = [3e9]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max(held))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: held.__setitem__(slice(None), [1e9]))
    pace = logs.Pace(torch.device("cuda", 0))
    held.append(5e9)
    pace.add(0, 0.5)
    pace.add(1, 1.5)
    first = pace.take()
    assert first["peak_memory_gb"] == 5 and first["step_seconds"] == 1
    assert pace.take()["peak_memory_gb"] == 1
    assert "peak_memory_gb" not in logs.Pace(torch.device("cpu")).take()


def short_of_memory(kind):
    if kind == "allocator":  # what PyTorch says on the CPU; on GPUs it is an error of its own
        torch.empty(2**60, dtype=torch.uint8)
    raise {"gpu": torch.OutOfMemoryError, "python": MemoryError}[kind]("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("kind", ["gpu", "python", "allocator"])
def test_out_of_memory_names_the_remedies_and_loses_nothing(tmp_path, kind):
    def spoil(step, loss):
        if step == 6:
            loss.backward(retain_graph=True)
            short_of_memory(kind)
        return loss

    config = TrainConfig(steps=10, lr=0.05, warmup=1, accumulate=2, checkpoint_every=4)
    straight = train(Line(keyed=False), config, tmp_path / "straight", say=quiet)
    stage, cut = Line(spoil, keyed=False), tmp_path / "cut"
    with pytest.raises(MemoryError, match="out of memory at step 6") as caught:
        train(stage, config, cut, say=quiet)
    message = str(caught.value)
    assert "took 4 samples at a time (accumulate = 2, recompute = False, shard = False)" in message
    for remedy in ("accumulate = 4", "recompute = True", "shard = True", "a smaller batch"):
        assert remedy in message
    assert "its state before the step is in its checkpoint" in message
    assert all(p.grad is None for p in stage.module.parameters())
    # the steps since the last checkpoint are not lost, nor the random numbers of the one that failed
    healed = Line(keyed=False)
    resumed = train(healed, config, cut, say=quiet)
    torch.testing.assert_close(healed.seen[0], stage.seen[-1], atol=0, rtol=0)
    torch.testing.assert_close(weights(resumed), weights(straight), atol=0, rtol=0)


def test_out_of_memory_in_the_optimiser_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    config = TrainConfig(steps=10, lr=0.05, warmup=1, checkpoint_every=4)
    straight = train(Line(), config, tmp_path / "straight", say=quiet)
    run = Run(Line(), config, tmp_path / "cut")
    for _ in range(5):
        run.update()
        if run.step == 4:
            run.save()

    def half_done():
        run.stage.module.weight.data.add_(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.players["module"].optimisers[0], "step", half_done)
    with pytest.raises(MemoryError, match="nothing newer could be saved: its last checkpoint is intact"):
        run.update()
    resumed = train(Line(), config, tmp_path / "cut", say=quiet)
    torch.testing.assert_close(weights(resumed), weights(straight), atol=0, rtol=0)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path):
    def spoil(step, loss):
        raise RuntimeError("the sizes of tensors must match")

    with pytest.raises(RuntimeError, match="sizes of tensors"):
        train(Line(spoil), TrainConfig(steps=1), tmp_path, say=quiet)


def test_remedies_are_those_that_are_left():
    config = TrainConfig(steps=1, accumulate=4, recompute=True)
    assert "accumulate = 12, or" in explain(config, range(8, 17), 1)  # 9 samples divide by 3
    single = explain(config, range(1), 2)
    assert "took 1 sample at a time" in single and single.endswith("less at a time: shard = True, or a smaller batch")
    assert explain(replace(config, shard=True), range(1), 2).endswith("less at a time: a smaller batch")


def read_log(folder, kind):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_the_log_tells_the_pace_and_is_cut_back_on_resume(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append(("open", purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append(("close", None))

    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(logs, "find_spec", lambda name: object())

    class Waiting(Line):
        def loss(self, step):
            with logs.data_wait:
                SampleDraws(0, 0, range(200)).randn(10)
            return super().loss(step)

    config = TrainConfig(steps=4, log_every=2, validate_every=3, checkpoint_every=2)
    train(Waiting(), config, tmp_path, say=quiet)
    records = read_log(tmp_path, "train")
    assert [r["step"] for r in records] == [2, 4]
    assert all(0.1 < r["data_wait"] < 1 and r["step_seconds"] > 0 for r in records)
    assert [r["step"] for r in read_log(tmp_path, "validate")] == [3, 4]
    assert ("open", 1) in written and ("train/loss", 2) in written and ("validate/error", 4) in written
    assert written[-1] == ("close", None)

    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 9, "kind": "train"}\n{"step": 5, "ki')
    train(Waiting(), TrainConfig(steps=6, log_every=2, validate_every=3), tmp_path, say=quiet)
    assert [r["step"] for r in read_log(tmp_path, "train")] == [2, 4, 6]
