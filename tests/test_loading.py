"""``from_pretrained``: what it finds, what it refuses, and with which words."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from motionstream import MotionStreamPipeline
from motionstream.cli import main
from motionstream.components import Placement
from motionstream.loading import locate
from motionstream.model.key_maps import to_official
from motionstream.model.precision import is_island
from motionstream.presets import preset

CPU = Placement(device="cpu")
NAME = "wan2.1-debug"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Our folder, with random weights."""
    folder = tmp_path_factory.mktemp("models") / "ours"
    MotionStreamPipeline.from_pretrained(NAME, untrained=True, placement=CPU).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def stock(saved, tmp_path) -> Path:
    """A diffusers repository of a text-to-video model: no tracks, no picture, no image branch."""
    target = Path(shutil.copytree(saved, tmp_path / "stock"))
    for name in ("model.json", "conditioning.safetensors"):
        (target / name).unlink()
    shutil.rmtree(target / "transformer")
    sizes = {**asdict(preset(NAME).transformer), "in_channels": 16, "image_dim": None, "added_kv_proj_dim": None}
    torch.manual_seed(0)
    WanTransformer3DModel(**sizes).save_pretrained(target / "transformer")
    return target


def load(path: Path, **options) -> MotionStreamPipeline:
    return MotionStreamPipeline.from_pretrained(path, untrained=True, placement=CPU, **options)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert re.search(word, message), (word, message)


def test_a_stock_model_is_refused_with_what_it_lacks_and_taken_when_asked(stock):
    with pytest.raises(ValueError, match=r"teacher, causal \(no trained track head, not distilled.*--untrained"):
        MotionStreamPipeline.from_pretrained(stock)
    with pytest.raises(ValueError, match=r"teacher \(no trained track head\)"):
        MotionStreamPipeline.from_pretrained(stock, needs=("teacher",))
    with pytest.warns(UserWarning, match=r"'tracks' \(16\), at zero[\s\S]*image branch, its output at zero"):
        pipeline = load(stock)
    assert pipeline.stages == () and pipeline.config.name == NAME
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    assert pipeline.stream(picture).step().shape == (9, 64, 96, 3)
    weight = pipeline.model.transformer.patch_embedding.weight
    assert weight[:, 16:].abs().max() == 0 and weight[:, :16].abs().max() > 0


def test_a_repository_converts_with_all_its_parts(stock, tmp_path):
    assert main(["convert", "motionstream", str(stock), str(tmp_path / "out")]) == 0
    pipeline = load(tmp_path / "out")
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    assert pipeline.stream(picture, "a dog").step().std() > 0
    with pytest.raises(ValueError, match="has not been through: teacher, causal"):
        MotionStreamPipeline.from_pretrained(tmp_path / "out")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_official_names_give_the_same_model(stock):
    diffusers = load(stock)
    state = load_file(stock / "transformer" / "diffusion_pytorch_model.safetensors")
    shutil.rmtree(stock / "transformer")
    save_file({k: v.contiguous() for k, v in to_official(state).items()}, stock / "model.safetensors")
    official = load(stock)
    for name, value in diffusers.model.state_dict().items():
        torch.testing.assert_close(official.model.state_dict()[name], value, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_foreign_model_in_half_precision_keeps_its_islands(stock):
    model = load_half(stock)
    for name, parameter in model.model.named_parameters():
        assert parameter.dtype == (torch.float32 if is_island(name) else torch.bfloat16), name


def load_half(path: Path) -> MotionStreamPipeline:
    return MotionStreamPipeline.from_pretrained(path, untrained=True, placement=replace(CPU, dtype="bfloat16"))


def weights_of(folder: Path) -> Path:
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def test_truncated(folder):
    path = weights_of(folder)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(folder, "diffusion_pytorch_model.safetensors", "damaged or not fully downloaded")


def test_renamed(folder):
    state = load_file(weights_of(folder))
    state["blocks.0.attn1.to_query.weight"] = state.pop("blocks.0.attn1.to_q.weight")
    save_file(state, weights_of(folder))
    refused(folder, r"blocks\.0\.attn1\.to_q\.weight", r"blocks\.0\.attn1\.to_query\.weight")


def test_wrong_shape(folder):
    state = load_file(weights_of(folder))
    state["blocks.1.ffn.net.2.weight"] = state["blocks.1.ffn.net.2.weight"][:, :-1].contiguous()
    save_file(state, weights_of(folder))
    refused(folder, r"blocks\.1\.ffn\.net\.2\.weight", r"48, 63", r"48, 64")


def test_pickled(folder):
    state = load_file(weights_of(folder))
    weights_of(folder).unlink()
    torch.save(state, folder / "transformer" / "diffusion_pytorch_model.bin")
    refused(folder, "pickle", "motionstream convert")


def test_half_downloaded(folder):
    path = weights_of(folder)
    state = load_file(path)
    names = sorted(state)
    shards = {
        "diffusion_pytorch_model-00001-of-00002.safetensors": names[::2],
        "diffusion_pytorch_model-00002-of-00002.safetensors": names[1::2],
    }
    for shard, keys in shards.items():
        save_file({key: state[key] for key in keys}, path.with_name(shard))
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))
    path.unlink()
    load(folder)  # whole
    path.with_name("diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    refused(folder, r"lacks 1 of 2 shards", "00002-of-00002")
    path.with_name(f"{path.name}.index.json").unlink()
    refused(folder, "no .*index.json")


@pytest.mark.parametrize("part", ["conditioning.safetensors", "vae", "text_encoder", "tokenizer", "image_encoder"])
def test_a_missing_part_is_named(folder, part):
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if part == "tokenizer":  # needed at the first sentence only, but told at once
        refused(folder, "tokenizer")
    else:
        refused(folder, part)


def test_a_damaged_part_is_named(folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(folder, "vae", "damaged")
    (folder / "model.json").write_text("{")
    refused(folder, "model.json is damaged")


def test_something_else_is_told_what_it_looks_like(saved, tmp_path):
    refused(saved / "vae", "video autoencoder")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", r"weights are \.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no preset"):
        load(tmp_path / "empty")


def test_a_repository_of_the_hub(monkeypatch, saved):
    asked = []

    def snapshot(name, **_):
        asked.append(name)
        if name != "somebody/model":
            raise OSError("401 Client Error:\nno such repository")
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = locate("somebody/model")
    assert found is not None and found.config.name == NAME and asked == ["somebody/model"]
    with pytest.raises(ValueError, match="there is no folder 'some/thing', and the hub gave none"):
        MotionStreamPipeline.from_pretrained("some/thing")
    assert locate("nowhere") is None
