import json
import shlex

import pytest
import torch

from motionstream.cli import main
from motionstream.hardware import bfloat16_pays
from motionstream.training.planning.benchmark import WARM_UP, bench_train
from motionstream.training.planning.throughput import teacher_flops
from motionstream.training.planning.workload import SyntheticClips, Workload, make_clips, workload

TRAIN = ["bench", "train", "--preset", "debug", "--batch", "2", "--threads", "1", "--device", "cpu"]


def run(capsys, *arguments):
    assert main([*TRAIN, *arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_last_line_is_json(capsys, tmp_path):
    output = tmp_path / "result.json"
    assert main([*TRAIN, "--steps", "6", "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert any("share" in line or "of" in line for line in lines[:-1]) and json.loads(output.read_text()) == result
    assert (result["benchmark"], result["stage"], result["data"]) == ("train", "teacher", "rendered")
    assert (result["batch"], result["frames"], result["ranks"], result["threads"]) == (2, 45, 1, 1)
    assert result["steps"] == 6 and result["warm_up_steps"] == WARM_UP
    assert result["dtype"] == ("bfloat16" if bfloat16_pays(torch.device("cpu")) else "float32")
    spread = result["step_ms"]
    assert 0 < spread["p10"] <= spread["p50"] <= spread["p90"] and result["updates_ms"] == {"module": spread}
    # the mean is of the six updates that are counted
    assert result["samples_per_s"] == pytest.approx(2e3 / spread["mean"], rel=1e-3)
    assert result["frames_per_s"] == pytest.approx(45 * result["samples_per_s"], rel=1e-3)
    assert 0 <= result["data_wait"] <= 1 and result["memory_mb"]["peak"] > 50 and result["device_memory_mb"] is None
    compute = result["compute"]
    work = workload("debug", batch=2)
    flops = teacher_flops(work.config, work.latent_frames).times(2).model
    assert compute["tflop_per_step"]["module"] == pytest.approx(flops / 1e12, rel=1e-4)
    assert compute["tflops"] == pytest.approx(flops / 1e12 / (spread["mean"] / 1e3), rel=1e-2)
    assert compute["peak_source"] == "measured"
    assert compute["share"] == pytest.approx(compute["tflops"] / compute["peak_tflops"], abs=1e-3)
    assert {"motionstream", "python", "torch"} <= set(result["versions"]) and "commit" in result
    assert shlex.split(result["command"])[:3] == ["motionstream", "bench", "train"]


def test_the_options_reach_the_stage(capsys):
    arguments = ["bench", "train", "--preset", "wan2.1-debug", "--steps", "1", "--stage", "causal", "--frames", "9"]
    arguments += ["--size", "48x32", "--dtype", "float32", "--recompute", "--backend", "plain", "--device", "cpu"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"stage": "causal", "size": "48x32", "frames": 9, "dtype": "float32", "recompute": True}
    expected |= {"data": "synthetic", "batch": 1, "backend": "plain", "compile": False, "shard": False}
    assert {name: result[name] for name in expected} == expected
    assert result["trained_parameters"] < result["parameters"]  # the track head is frozen
    assert main(shlex.split(result["command"])[1:]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: again[name] for name in expected} == expected and again["command"] == result["command"]


@pytest.mark.parametrize("preset", ["debug", "wan2.2-debug"])
def test_self_forcing_tells_student_and_critic_apart(capsys, preset):
    result = run(capsys, "--preset", preset, "--stage", "self-forcing", "--steps", "4", "--frames", "45")
    assert set(result["updates_ms"]) == set(result["compute"]["tflop_per_step"]) == {"module", "opponent"}
    assert result["warm_up_steps"] >= 2
    steps = {name: spread["p50"] for name, spread in result["updates_ms"].items()}
    assert min(steps.values()) <= result["step_ms"]["p50"] <= max(steps.values())


def test_clips_are_what_the_model_is_trained_on():
    for name, rendered in (("debug", True), ("wan2.1-debug", False), ("wan2.2-debug", False)):
        work = workload(name, batch=2)
        assert work.rendered == rendered
        config, clips = work.config, make_clips(work).at(0, range(1))
        assert clips.latents.shape == (1, config.latent_channels, work.latent_frames, *config.latent_size)
        assert clips.positions.shape[1] == config.clip_frames and clips.visible.any()
        assert (clips.text is None) == rendered and (clips.image is None) == (config.image_encoder is None)
        made = SyntheticClips(config, batch=2, latent_frames=work.latent_frames).at(3, range(1))
        assert {k: v.shape[2:] for k, v in made.tensors().items() if k in ("latents", "candidates", "features")} == {
            k: v.shape[2:] for k, v in clips.tensors().items() if k in ("latents", "candidates", "features")
        }
        assert set(made.tensors()) == set(clips.tensors())


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before, updates = torch.get_num_threads(), []
    work = workload("wan2.2-debug", frames=9, recompute=True, bf16=False)
    bench_train(work, 2, device=torch.device("cpu"), threads=2, after_step=lambda: updates.append(1))
    assert len(updates) == WARM_UP + 2 and not list(tmp_path.iterdir()) and torch.get_num_threads() == before


def test_sharding_one_process_is_said_to_do_nothing():
    work = workload("wan2.2-debug", frames=9, shard=True, bf16=False)
    with pytest.warns(UserWarning, match="--shard has no effect"):
        bench_train(work, 1, device=torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("stage", ["teacher", "causal", "self-forcing"])
def test_a_cuda_device_is_measured(stage):
    work = workload("wan2.1-debug", stage=stage, frames=45)
    result = bench_train(work, 2, device=torch.device("cuda"))
    assert result["device_memory_mb"]["peak_allocated"] > 0 and 0 < result["compute"]["share"] < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chunks", "7"], "bench train takes no --chunks"),
        (["--untrained"], "bench train takes no --untrained"),
        (["--causal", "c3s1w2"], "bench train takes no --causal"),
        (["--decoder", "tiny"], "bench train takes no --decoder"),
        (["--steps", "0"], "--steps is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--batch", "0"], "batch = 0"),
        (["--frames", "10"], "--frames is 10: debug is trained on whole chunks, 9 frames"),
        (["--frames", "0"], "--frames is 0"),
        (["--size", "33x32"], "33x32"),
        (["--size", "big"], "'big'"),
        (["--preset", "huge"], "'huge'"),
        (["--preset", "wan2.1-debug", "--data", "rendered"], "too large to train on rendered video"),
        (["--device", "abacus"], "'abacus'"),
        (["--backend", "magic"], "'magic'"),
        (["--stage", "self-forcing", "--frames", "9"], "at least 3 chunks"),
        (["--output", "x.txt"], "x.txt"),
    ],
)
def test_bad_values_are_one_line(capsys, arguments, words):
    assert main([*TRAIN, *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize("option", [["--steps", "3"], ["--batch", "2"], ["--stage", "causal"], ["--recompute"]])
def test_streaming_takes_no_option_of_training(capsys, option):
    assert main(["bench", "stream", "--preset", "debug", "--untrained", *option]) == 2
    assert f"bench stream takes no {option[0]}; it is an option of train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "others"),
    [
        (["--chunks", "7"], "stream"),
        (["--decoder", "tiny"], "stream"),
        (["--threads", "1"], "stream, train"),
        (["--steps", "3"], "train"),
    ],
)
def test_serving_takes_no_option_of_the_others(capsys, option, others):
    assert main(["bench", "serve", "--preset", "debug", "--untrained", *option]) == 2
    assert f"bench serve takes no {option[0]}; it is an option of {others}" in capsys.readouterr().err


def test_serving_measures_as_asked(monkeypatch, capsys, tmp_path):
    from motionstream.server import measure

    asked = []

    def bench(*given, **options):
        asked.append((given, options["codec"]))
        return {"benchmark": "serve"}

    monkeypatch.setattr(measure, "bench_serve", bench)
    monkeypatch.setattr(measure, "print_serve", lambda result: None)
    output = tmp_path / "serve.json"
    arguments = ["--sessions", "1", "3", "--minutes", "0.5", "--codec", "jpeg", "--output", str(output)]
    assert main(["bench", "serve", *arguments]) == 0
    assert asked == [(("nano", (1, 3), 20.0, 0.5), "jpeg")]
    command = "motionstream bench serve --preset nano --seconds 20 --sessions 1 3 --minutes 0.5 --codec jpeg"
    assert json.loads(output.read_text()) == {"benchmark": "serve", "command": command}


def test_a_workload_checks_itself():
    config = workload("debug").config
    for wrong in ({"stage": "decoder"}, {"data": "dreamt"}, {"batch": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Workload(config, **wrong)
