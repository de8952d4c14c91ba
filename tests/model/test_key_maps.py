"""Names of Wan's transformer: against the official model's numbers, diffusers' converter and real layouts."""

import json
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import safe_open

from motionstream.model.key_maps import (
    LAYOUTS,
    PRESETS,
    guess_preset,
    recognise,
    strip_prefixes,
    to_diffusers,
    to_official,
)
from motionstream.model.transformer import MotionTransformer
from motionstream.presets import preset

VECTOR = Path(__file__).parents[1] / "data" / "official-2.1-t2v.safetensors"


def remade(shapes):
    """The weights behind a reference vector: seeded by name, so that only names and shapes need keeping."""
    weights = {}
    for name, shape in shapes.items():
        numbers = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        value = numbers.standard_normal(tuple(shape)).astype(np.float32) * 0.05
        weights[name] = torch.from_numpy(np.asarray(value + ("norm" in name and name.endswith("weight")), np.float32))
    return weights


def random_state(config):
    """A random state with diffusers' names, every parameter drawn."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in MotionTransformer(**asdict(config)).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def configs():
    """Tiny text-to-video, image-to-video with an image branch, and 2.2."""
    image = preset("wan2.1-debug").transformer
    text = replace(image, image_dim=None, added_kv_proj_dim=None, in_channels=16)
    return {"t2v": text, "i2v": replace(image, in_channels=36), "5b": preset("wan2.2-debug").transformer}


CONFIGS = configs()


def test_the_official_model_and_ours_give_the_same_numbers():
    with safe_open(VECTOR, "pt") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        x, text, t, out = (file.get_tensor(name) for name in ("x", "text", "t", "out"))
    settings = metadata["config"]
    ours = MotionTransformer(
        num_attention_heads=settings["num_heads"],
        attention_head_dim=settings["dim"] // settings["num_heads"],
        in_channels=settings["in_dim"],
        out_channels=settings["out_dim"],
        text_dim=settings["text_dim"],
        ffn_dim=settings["ffn_dim"],
        num_layers=settings["num_layers"],
    ).eval()
    state = to_diffusers(remade(metadata["shapes"]))
    ours.load_state_dict(state)
    padded = torch.nn.functional.pad(text, (0, 0, 0, 512 - text.shape[1]))
    with torch.no_grad():
        made = ours(x, t / 1000, padded)
        state["blocks.0.attn1.to_k.weight"], state["blocks.0.attn1.to_v.weight"] = (
            state["blocks.0.attn1.to_v.weight"],
            state["blocks.0.attn1.to_k.weight"],
        )
        ours.load_state_dict(state)
        swapped = ours(x, t / 1000, padded)
    assert out.std() > 0.05
    torch.testing.assert_close(made, out, atol=1e-4, rtol=1e-4)
    assert (swapped - out).abs().max() > 1e-3, "a wrong map must show"


@pytest.mark.parametrize("name", CONFIGS)
def test_official_names_go_round_and_agree_with_diffusers_own_converter(name):
    state = random_state(CONFIGS[name])
    official = to_official(state)
    assert "blocks.1.self_attn.q.weight" in official and "blocks.0.norm3.weight" in official
    assert not any("attn1" in key or "to_q" in key or "scale_shift" in key for key in official)
    back, theirs = to_diffusers(official), convert_wan_transformer_to_diffusers(dict(official))
    assert list(back) == list(state) and set(theirs) == set(state)
    assert all(back[key] is state[key] and theirs[key] is state[key] for key in state)
    assert to_diffusers(state) == state and to_official(official) == official


def test_names_the_map_does_not_know_survive():
    state = to_official(random_state(CONFIGS["t2v"])) | {"ref_conv.weight": torch.ones(1)}
    again = to_official(to_diffusers(state))
    assert set(again) == set(state) and "ref_conv.weight" in to_diffusers(state)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"num_attention_heads": 12, "ffn_dim": 8960}, 1_418_996_800),
        ({"num_attention_heads": 12, "ffn_dim": 8960, "in_channels": 36, "image_dim": 1280}, 1_564_428_608),
        ({"num_attention_heads": 12, "ffn_dim": 8960, "in_channels": 48, "image_dim": 1280}, 1_564_502_336),
        ({"num_attention_heads": 24, "ffn_dim": 14_336, "in_channels": 48, "out_channels": 48}, 4_999_787_712),
        ({"num_attention_heads": 24, "ffn_dim": 14_336, "in_channels": 148, "out_channels": 48}, 5_001_016_512),
    ],
)
def test_official_sizes_have_the_known_number_of_parameters_and_diffusers_names(settings, parameters):
    width = settings["num_attention_heads"] * 128
    settings = {"num_layers": 30, "added_kv_proj_dim": width if "image_dim" in settings else None} | settings
    with torch.device("meta"):
        ours, theirs = MotionTransformer(**settings), WanTransformer3DModel(**settings)
    assert sum(value.numel() for value in ours.parameters()) == parameters
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    found = recognise(to_official(ours.state_dict()))
    assert guess_preset(found) == ("wan2.2-5b" if width == 3072 else "wan2.1-1.3b")
    assert sum(size for _, size in found.layout) == settings.get("in_channels", 16)
    assert found.has_image_branch == ("image_dim" in settings) and found.extras == ()


def test_every_wan_preset_is_guessed_from_its_sizes():
    for name in PRESETS.values():
        config = preset(name)
        with torch.device("meta"):
            model = MotionTransformer(**asdict(config.transformer))
        assert guess_preset(recognise(model.state_dict())) == name
    assert guess_preset(recognise({"a": torch.ones(1)})) is None


@pytest.mark.parametrize(("out_channels", "in_channels"), LAYOUTS)
def test_layouts_add_up(out_channels, in_channels):
    layout = LAYOUTS[out_channels, in_channels]
    assert layout[0] == ("noise", out_channels) and sum(width for _, width in layout) == in_channels


@pytest.mark.parametrize(
    "prefix",
    ["", "model.", "generator.model.", "generator_ema.model._fsdp_wrapped_module.", "model.diffusion_model."],
)
def test_prefixes_are_stripped(prefix):
    state = to_official(random_state(CONFIGS["t2v"]))
    wrapped = {prefix + key.replace("blocks.1.", "blocks.1._fsdp_wrapped_module."): v for key, v in state.items()}
    inner, found = strip_prefixes(wrapped)
    assert inner == state and found == prefix.replace("_fsdp_wrapped_module.", "")
    assert recognise(wrapped).kind == ("student" if "generator" in prefix else "official")


def test_of_several_models_the_averaged_student_is_taken():
    state = to_official(random_state(CONFIGS["t2v"]))
    both = {f"{name}.model.{key}": value + i for i, name in enumerate(("critic", "generator", "generator_ema"))
            for key, value in state.items()}  # fmt: skip
    inner, prefix = strip_prefixes(both)
    assert prefix == "generator_ema.model."
    assert all(torch.equal(inner[key], value + 2) for key, value in state.items())
    without = {key: value for key, value in both.items() if not key.startswith("generator_ema")}
    assert strip_prefixes(without)[1] == "generator.model."


def test_kinds_are_told_apart():
    text = to_official(random_state(CONFIGS["t2v"]))
    assert recognise(text).kind == "official" and recognise(to_diffusers(text)).kind == "diffusers"
    found = recognise(text | {"ref_conv.weight": torch.ones(1), "blocks.0.extra.weight": torch.ones(1)})
    assert found.kind == "control" and found.extras == ("ref_conv", "blocks.N.extra")
    control = replace(CONFIGS["i2v"], in_channels=48)
    assert recognise(to_official(random_state(control))).kind == "control"
    odd = recognise(random_state(replace(CONFIGS["t2v"], in_channels=17)))
    assert odd.kind == "diffusers" and odd.layout is None and odd.in_channels == 17


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("lora", ["blocks.0.self_attn.q.lora_A.weight", "time_embedding.0.lora_B.weight"]),
        ("lora", ["lora_unet_blocks_0_self_attn_q.lora_down.weight"]),
        ("vae", ["encoder.downsamples.0.residual.0.gamma", "decoder.middle.0.residual.0.gamma", "conv2.weight"]),
        ("umt5", ["token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"]),
        ("umt5", ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"]),
        ("clip", ["visual.patch_embedding.weight", "textual.token_embedding.weight"]),
        ("clip", ["vision_model.embeddings.class_embedding"]),
        ("taehv", ["encoder.0.weight", "decoder.1.weight", "decoder.3.conv.0.weight"]),
        ("unknown", ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]),
    ],
)
def test_what_is_no_transformer_is_called_by_its_name(kind, names):
    found = recognise({name: torch.ones(1) for name in names})
    assert found.kind == kind and found.width == 0 and guess_preset(found) is None
    assert len(found.describe()) > 5


def test_diffusers_autoencoder_is_recognised():
    with torch.device("meta"):
        state = AutoencoderKLWan(base_dim=8).state_dict()
    assert recognise(state).kind == "vae"
