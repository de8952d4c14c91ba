"""What a step is counted to take, against torch's counter on the real stages; and what follows from it."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from motionstream.config import CausalConfig
from motionstream.flops import causal_clip_flops, clip_flops, condition_flops
from motionstream.hardware import PEAK_TFLOPS, data_sheet_tflops, matmul_tflops, peak
from motionstream.model.attention import BlockCausal
from motionstream.model.backends import use_backend
from motionstream.model.motion_model import Conditions, MotionModel
from motionstream.presets import preset
from motionstream.training.diffusion.self_forcing import SelfForcingConfig
from motionstream.training.planning.throughput import (
    causal_flops,
    estimate_hours,
    self_forcing_flops,
    stage_flops,
    teacher_flops,
)
from motionstream.training.planning.workload import make_stage, workload

CPU = torch.device("cpu")
FIXED = {"sinks": (1,), "windows": (1,)}


def counted(stage, step):
    """Operations of the forward and of the backward pass of a step, and what the stage says of it."""
    with use_backend("plain"):  # torch counts nothing of its fused attention on the CPU
        with FlopCounterMode(display=False) as forward:
            loss, numbers = stage.loss(step)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops(), numbers


@pytest.mark.parametrize("name", ["debug", "wan2.1-debug", "wan2.2-debug"])
def test_a_teachers_step_is_what_torch_counts(name, tmp_path):
    work = workload(name, batch=2, data="synthetic")
    forward, backward, _ = counted(make_stage(work, CPU, tmp_path), 0)
    flops = teacher_flops(work.config, work.latent_frames).times(2)
    # sentences do not fill all tokens, and nobody asks for the gradient of the very first inputs
    assert 0.995 <= forward / flops.trained <= 1
    assert 0.95 <= (forward + backward) / flops.model <= 1
    assert work.flops == {"module": flops.model}


def test_nothing_of_the_backward_pass_is_missed_at_nanos_size(tmp_path):
    work = workload("nano", batch=1, frames=9, data="synthetic")
    forward, backward, _ = counted(make_stage(work, CPU, tmp_path), 0)
    assert 0.99 <= (forward + backward) / work.flops["module"] <= 1


@pytest.mark.parametrize("pattern", ["c3s1w1", "c3s0w2", "c3s2w3"])
def test_a_block_causal_clip_is_what_torch_counts(pattern):
    config, causal = preset("wan2.1-debug"), CausalConfig.parse(pattern)
    with torch.device("meta"):
        model = MotionModel(config)
        latents = [torch.empty(1, channels, 12, *config.latent_size) for channels in (16, 32)]
        conditions = Conditions(torch.empty(1, 512, 32), latents[1], torch.empty(1, config.image_encoder.tokens, 24))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(latents[0], torch.empty(1, 12), conditions, BlockCausal(causal))
    assert causal_clip_flops(config, 12, causal).total == counter.get_total_flops() > 0
    cached = causal_clip_flops(config, 12, causal, cached=True)
    assert cached.context == 4 * causal_clip_flops(config, 12, causal).context  # once a chunk


def test_the_causal_stages_mean_lies_between_its_patterns():
    config = preset("wan2.1-debug")
    least, most = (causal_clip_flops(config, 21, CausalConfig.parse(p)).total for p in ("c3s0w1", "c3s2w3"))
    mean = causal_flops(config, 21)
    assert least < mean.trained < most < clip_flops(config, 21).total
    assert mean.inference == condition_flops(config, 21)


@pytest.mark.parametrize("name", ["debug", "wan2.2-debug"])
@pytest.mark.parametrize("guided", [False, True])
def test_both_steps_of_self_forcing_are_what_torch_counts(name, guided, tmp_path):
    rollouts = SelfForcingConfig(critic_updates=1, guided=guided, own_content=False, **FIXED)
    work = workload(name, batch=1, frames=45, data="synthetic", stage="self-forcing", rollouts=rollouts)
    stage = make_stage(work, CPU, tmp_path)
    for step in range(4):
        forward, backward, numbers = counted(stage, step)
        exits = [int(numbers["exit_step"])] if "exit_step" in numbers else range(3)  # the critic's step does not tell
        flops = [self_forcing_flops(work.config, 12, rollouts, exit_step=e) for e in exits]
        flops = [both.critic if stage.turn(step) == "opponent" else both.student for both in flops]
        assert any(0.99 <= forward / (one.inference + one.trained) <= 1 for one in flops)
        assert any(0.95 <= (forward + backward) / one.model <= 1 for one in flops)


def test_means_are_over_what_is_drawn():
    config = preset("wan2.1-debug")
    rollouts = SelfForcingConfig(critic_updates=5, sinks=(0, 1), windows=(1, 2))
    exits = [self_forcing_flops(config, 21, rollouts, exit_step=e).student.model for e in range(3)]
    both = self_forcing_flops(config, 21, rollouts)
    assert exits[0] < exits[1] < exits[2] and both.student.model == pytest.approx(sum(exits) / 3)
    patterns = [
        self_forcing_flops(config, 21, replace(rollouts, sinks=(s,), windows=(w,))).critic.model
        for s in (0, 1)
        for w in (1, 2)
    ]
    assert both.critic.model == pytest.approx(sum(patterns) / 4)
    assert both.mean(5) == pytest.approx((both.student.model + 5 * both.critic.model) / 6)
    guided, plain = (self_forcing_flops(config, 21, replace(rollouts, guided=g)).student for g in (True, False))
    assert guided.inference - plain.inference == 2 * clip_flops(config, 21).total + condition_flops(config, 21)
    alone = self_forcing_flops(config, 21, replace(rollouts, score_weight=0, regression_weight=1)).student
    assert plain.inference - alone.inference == 2 * clip_flops(config, 21).total + condition_flops(config, 21)
    players = stage_flops("self-forcing", config, 21, rollouts, batch=4)
    assert players == {"module": 4 * both.student.model, "opponent": 4 * both.critic.model}


def test_a_full_size_step_is_of_the_size_it_should_be():
    flops = teacher_flops(preset("wan2.1-1.3b"), 21)
    assert flops.trained == flops.model / 3
    assert 0.5e15 < flops.model < 1.5e15  # 1.3 billion parameters see 32,760 tokens


def test_hours_follow_from_operations():
    # 1 TFLOP a step, ten of ten TFLOP/s, half of the peak, two GPUs: 0.1 s a step
    assert estimate_hours(1e12, 36_000, gpus=2, peak=10e12, share=0.5) == pytest.approx(1.0)
    assert estimate_hours(1e12, 36_000, gpus=4, peak=10e12, share=0.5) == pytest.approx(0.5)
    for wrong in ({"gpus": 0}, {"share": 0.0}, {"share": 1.2}, {"peak": 0.0}):
        with pytest.raises(ValueError, match="share"):
            estimate_hours(1e12, 10, **{"gpus": 1, "peak": 1e12, "share": 0.4, **wrong})


def test_the_peak_of_an_unknown_device_is_measured(monkeypatch):
    found = peak(CPU, torch.float32)
    assert found.source == "measured" and 1e9 < found.flops < 1e14
    assert matmul_tflops(CPU, torch.float32, side=64, repeats=2) > 0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    gpu = torch.device("cuda", 0)
    known = peak(gpu, torch.bfloat16)
    assert known.source == "data sheet" and known.flops == PEAK_TFLOPS["NVIDIA H200"] * 1e12
    assert data_sheet_tflops(gpu, torch.float32) is None and data_sheet_tflops(CPU, torch.bfloat16) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Abacus 9000")
    assert data_sheet_tflops(gpu, torch.bfloat16) is None
