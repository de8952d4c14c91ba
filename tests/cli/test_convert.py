"""``motionstream convert``: folders of ours from others' checkpoints and back, whole or not at all."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer

from motionstream import cli
from motionstream.autoencoder import wan_checkpoint
from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.autoencoder.wan_checkpoint import diffusers_arguments
from motionstream.commands.convert import ConvertCommand
from motionstream.conditioning.image import CLIPImageEncoder
from motionstream.conditioning.track_head import TrackHead
from motionstream.conditioning.umt5 import UMT5TextEncoder
from motionstream.model.checkpoints import load_transformer, own_config
from motionstream.model.key_maps import to_official
from motionstream.presets import preset
from motionstream.training.parts.perceptual import LPIPS

WAN21, WAN22 = preset("wan2.1-debug"), preset("wan2.2-debug")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Everything happens in a folder of its own; the verb is there whether or not the command line lists it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "convert", ConvertCommand)
    return tmp_path


def transformer(config, **changes):
    model = WanTransformer3DModel(**(asdict(config.transformer) | changes))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape))
    return model


def official(name, config, **changes):
    """An official checkpoint of ``config``'s size as a file; returns its state."""
    state = to_official(transformer(config, **changes).state_dict())
    save_file({key: value.contiguous() for key, value in state.items()}, name)
    return state


def convert(*arguments):
    return cli.main(["convert", *map(str, arguments)])


def modes(folder):
    """The distinct permissions of the files in a folder."""
    return {oct(path.stat().st_mode) for path in Path(folder).rglob("*") if path.is_file()}


def test_an_official_file_becomes_a_folder_that_loads(here, capsys):
    state = official("wan.safetensors", WAN22, in_channels=48)
    assert convert("motionstream", "wan.safetensors", "out") == 0
    said = capsys.readouterr()
    assert "an official Wan transformer" in said.out and "'tracks' (48), at zero" in said.out
    assert said.out.endswith("out: written\n") and said.err == ""
    settings = json.loads((here / "out" / "model.json").read_text())
    assert settings["stages"] == [] and own_config("out") == WAN22
    ours, report = load_transformer("out", WAN22)
    assert report.track_head and torch.equal(ours.state_dict()["proj_out.weight"], state["head.head.weight"])
    head = TrackHead(WAN22.track_head, spatial=16, temporal=4)
    assert len(modes("out")) == 1, "whoever may read one file may read all"
    made = load_file("out/conditioning.safetensors")
    head.load_state_dict({name.removeprefix("track_head."): value for name, value in made.items()})
    assert head.project.weight.std() > 0
    assert sorted(path.name for path in here.iterdir()) == ["out", "wan.safetensors"]
    assert convert("motionstream", "wan.safetensors", "again") == 0
    again = load_file("again/conditioning.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in made.items())


def test_a_pickled_student_in_half_precision(here, capsys):
    state = to_official(transformer(WAN21, in_channels=16, image_dim=None, added_kv_proj_dim=None).state_dict())
    torch.save({"generator_ema": {f"model.{key}": value for key, value in state.items()}}, "student.pt")
    options = ("--preset", "wan2.1-debug", "--dtype", "bfloat16")
    assert convert("motionstream", "student.pt", "out", *options) == 0
    assert "image branch, its output at zero" in capsys.readouterr().out
    config = own_config("out")
    assert config.dtype == "bfloat16"
    ours, _ = load_transformer("out", config)
    assert ours.proj_out.weight.dtype == torch.bfloat16 and ours.scale_shift_table.dtype == torch.float32
    torch.testing.assert_close(ours.proj_out.weight.float(), state["head.head.weight"], atol=0.02, rtol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_to_diffusers_loads_strictly_there_and_is_exact(dtype):
    official("wan.safetensors", WAN21, in_channels=36)
    assert convert("motionstream", "wan.safetensors", "ours", "--dtype", dtype) == 0
    assert convert("diffusers", "ours", "theirs") == 0
    assert len(modes("theirs")) == 1
    model, info = WanTransformer3DModel.from_pretrained("theirs/transformer", output_loading_info=True)
    assert not any(info.values()), info
    expected, _ = load_transformer("ours", own_config("ours"))
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name].float(), value.float()), name
    assert json.loads(Path("theirs/transformer/config.json").read_text())["_class_name"] == "WanTransformer3DModel"


def umt5(config):
    """The official text encoder's names."""
    inner, width = config.num_heads * config.d_kv, config.d_model
    state = {"token_embedding.weight": torch.randn(config.vocab_size, width), "norm.weight": torch.randn(width)}
    for layer in range(config.num_layers):
        shapes = {
            "norm1": (width,),
            "norm2": (width,),
            "attn.o": (width, inner),
            **{f"attn.{name}": (inner, width) for name in "qkv"},
            "ffn.gate.0": (config.d_ff, width),
            "ffn.fc1": (config.d_ff, width),
            "ffn.fc2": (width, config.d_ff),
            "pos_embedding.embedding": (32, config.num_heads),
        }
        state |= {f"blocks.{layer}.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    return state


def clip(config):
    """The official image encoder's names, its text half left out."""
    width, hidden, patch = config.hidden_size, config.intermediate_size, config.patch_size
    shapes = {
        "patch_embedding.weight": (width, 3, patch, patch),
        "cls_embedding": (1, 1, width),
        "pos_embedding": (1, config.tokens, width),
        "head": (width, 8),
        **{f"{name}.{kind}": (width,) for name in ("pre_norm", "post_norm") for kind in ("weight", "bias")},
    }
    for layer in range(config.num_hidden_layers):
        parts = {
            "attn.to_qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.0": (hidden, width),
            "mlp.2": (width, hidden),
        }
        shapes |= {f"transformer.{layer}.{name}.weight": shape for name, shape in parts.items()}
        shapes |= {f"transformer.{layer}.{name}.bias": shape[:1] for name, shape in parts.items()}
        norms = [f"transformer.{layer}.{name}" for name in ("norm1", "norm2")]
        shapes |= {f"{name}.{kind}": (width,) for name in norms for kind in ("weight", "bias")}
    return {f"visual.{name}": torch.randn(shape) for name, shape in shapes.items()}


def test_every_part_is_taken_from_official_files(here, monkeypatch):
    official("wan.safetensors", WAN21, in_channels=48)
    # the autoencoder's names are mapped, and tested, elsewhere
    monkeypatch.setattr(wan_checkpoint, "from_official", lambda state: dict(state))
    vae = WanAutoencoder(WAN21.autoencoder).vae.state_dict()
    torch.save(vae, "vae.pth")
    torch.save(umt5(WAN21.text), "t5.pth")
    torch.save(clip(WAN21.image_encoder), "clip.pth")
    tiny = TinyAutoencoder(WAN21.tiny_decoder)
    torch.save(tiny.state_dict(), "taew2_1.pth")
    ByT5Tokenizer().save_pretrained("words")
    files = {"vae": "vae.pth", "text-encoder": "t5.pth", "image-encoder": "clip.pth", "tokenizer": "words"}
    files["tiny-decoder"] = "taew2_1.pth"
    parts = [word for option, path in files.items() for word in (f"--{option}", path)]
    assert convert("motionstream", "wan.safetensors", "out", *parts) == 0
    names = {"model.json", "conditioning.safetensors", "transformer", "tiny_decoder.safetensors"}
    assert {path.name for path in (here / "out").iterdir()} == names | {
        *("vae", "text_encoder", "image_encoder", "tokenizer"),
    }
    assert len(modes("out")) == 1
    loaded = AutoencoderKLWan.from_pretrained("out/vae")
    assert all(torch.equal(value, vae[name]) for name, value in loaded.state_dict().items())
    assert WanAutoencoder.load("out/vae", WAN21.autoencoder).latent_channels == 16
    text = UMT5TextEncoder.from_folder("out/text_encoder", "out/tokenizer", WAN21.text, dtype=torch.float32)
    assert text.encode(["a cat"]).abs().max() > 0
    image = CLIPImageEncoder.from_folder("out/image_encoder", WAN21.image_encoder, dtype=torch.float32)
    assert image.encode(torch.zeros(1, 3, 64, 96)).shape == (1, WAN21.image_encoder.tokens, 24)
    assert TinyAutoencoder.load("out/tiny_decoder.safetensors", WAN21.tiny_decoder).latent_channels == 16


def test_folders_of_other_libraries_are_taken_as_they_are(here):
    official("wan.safetensors", WAN22, in_channels=48)
    AutoencoderKLWan(**diffusers_arguments(WAN22.autoencoder)).save_pretrained("vae")
    assert convert("motionstream", "wan.safetensors", "out", "--vae", "vae") == 0
    assert {path.name: path.stat().st_size for path in (here / "out" / "vae").iterdir()} == {
        path.name: path.stat().st_size for path in (here / "vae").iterdir()
    }
    (here / "vae" / "config.json").write_text("changed")
    assert WanAutoencoder.load("out/vae", WAN22.autoencoder).latent_channels == 48


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("motionstream none out", "none: there is no such file or folder"),
        ("motionstream wan.safetensors out --vae none", "none: there is no such file or folder"),
        ("motionstream wan.safetensors there", "cannot write there: it exists; --overwrite replaces it"),
        ("motionstream wan.safetensors there --overwrite", "cannot overwrite there: it is no model's folder"),
        ("motionstream wan.safetensors no/out", "create it first"),
        ("motionstream there there/out", "it lies inside there"),
        ("motionstream there there", "it lies inside there"),
        ("motionstream there/words there --overwrite", "there/words, which is read, lies inside"),
        ("motionstream wan.safetensors . --overwrite", "name the folder to make"),
        ("motionstream wan.safetensors out --image-encoder there", "--image-encoder: wan2.2-debug has none"),
        ("motionstream wan.safetensors out --vae there", "its config.json is missing or damaged"),
        (
            "motionstream wan.safetensors out --vae there/text",
            "it holds UMT5EncoderModel; give one of AutoencoderKLWan",
        ),
        ("motionstream wan.safetensors out --tokenizer there", "there is no tokenizer in it"),
        ("motionstream wan.safetensors out --tokenizer wan.safetensors", "give the tokenizer's folder"),
        ("motionstream wan.safetensors out --vae wan.safetensors", "not an official Wan autoencoder"),
        ("motionstream wan.safetensors out --text-encoder wan.safetensors", "not the official UMT5 encoder"),
        ("motionstream wan.safetensors out --tiny-decoder wan.safetensors", "is no tiny autoencoder"),
        ("motionstream wan.safetensors out --preset wan2.1-debug", "it would fit the preset 'wan2.2-debug'"),
        ("motionstream wan.safetensors out --preset what", "there is no preset 'what'"),
        ("motionstream lora.safetensors out", "looks like a LoRA"),
        ("motionstream cut.safetensors out", "cut.safetensors is damaged or not fully downloaded"),
        ("diffusers wan.safetensors out", "is no MotionStream folder"),
        ("diffusers wan.safetensors out --vae there", "--vae has no meaning for convert diffusers"),
        ("else wan.safetensors out", "'else'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_left(here, capsys, arguments, words):
    official("wan.safetensors", WAN22, in_channels=48)
    (here / "cut.safetensors").write_bytes((here / "wan.safetensors").read_bytes()[:5000])
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.ones(1)}, "lora.safetensors")
    (here / "there" / "text").mkdir(parents=True)
    (here / "there" / "text" / "config.json").write_text('{"architectures": ["UMT5EncoderModel"]}')
    (here / "there" / "words").touch()
    before = sorted(here.rglob("*"))
    assert convert(*arguments.split()) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_overwriting_replaces_a_model_whole_or_leaves_it(here, capsys):
    official("wan.safetensors", WAN22, in_channels=48)
    assert convert("motionstream", "wan.safetensors", "out") == 0
    (here / "out" / "old").touch()
    save_file({"a": torch.ones(1)}, "bad.safetensors")
    assert convert("motionstream", "bad.safetensors", "out", "--overwrite", "--preset", "wan2.2-debug") == 2
    assert (here / "out" / "old").exists() and own_config("out") == WAN22
    assert convert("motionstream", "out", "ours-again") == 2
    assert "already is a MotionStream folder" in capsys.readouterr().err
    assert convert("motionstream", "wan.safetensors", "out", "--overwrite") == 0
    assert not (here / "out" / "old").exists() and own_config("out") == WAN22
    assert sorted(path.name for path in here.iterdir()) == ["bad.safetensors", "out", "wan.safetensors"]


def test_a_failure_half_way_leaves_nothing(here, monkeypatch):
    official("wan.safetensors", WAN22, in_channels=48)
    AutoencoderKLWan(**diffusers_arguments(WAN22.autoencoder)).save_pretrained("vae")

    def full(*_):
        raise OSError(28, "No space left on device", "out")

    monkeypatch.setattr("motionstream.commands.convert._link_or_copy", full)
    assert convert("motionstream", "wan.safetensors", "out", "--vae", "vae") != 0
    assert sorted(path.name for path in here.iterdir()) == ["vae", "wan.safetensors"]


def test_our_embedded_model_converts_to_diffusers(here):
    from motionstream.loading import WEIGHTS

    assert convert("diffusers", WEIGHTS / "nano", "theirs") == 0
    assert WanTransformer3DModel.from_pretrained("theirs/transformer").config["in_channels"] > 96


def lpips_files():
    """Of the right shapes, as they are published: AlexNet with its classifier, and the heads."""
    torch.manual_seed(0)
    state = LPIPS().state_dict()
    alexnet = {name: value for name, value in state.items() if name.startswith("features.")}
    heads = {name: value for name, value in state.items() if name.startswith("lin")}
    torch.save({**alexnet, "classifier.1.weight": torch.zeros(2, 2)}, "alexnet.pth")
    torch.save(heads, "alex.pth")
    return state


def test_lpips_is_made_of_its_two_files(here, capsys):
    state = lpips_files()
    command = ("lpips", "alexnet.pth", "lpips.safetensors", "--heads", "alex.pth")
    assert convert(*command) == 0
    assert "--lpips lpips.safetensors" in capsys.readouterr().out
    loaded = LPIPS.load("lpips.safetensors").state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], value) for name, value in state.items())
    (here / "lpips.safetensors").write_bytes(b"old")
    assert convert(*command) == 2 and (here / "lpips.safetensors").read_bytes() == b"old"
    assert convert(*command, "--overwrite") == 0 and LPIPS.load("lpips.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("lpips alexnet.pth out.safetensors", "needs --heads PATH"),
        ("lpips alexnet.pth out.safetensors --heads no.pth", "no.pth: there is no such file"),
        ("lpips no.pth out.safetensors --heads alex.pth", "no.pth: there is no such file"),
        ("lpips alexnet.pth out.pth --heads alex.pth", "end the name in .safetensors"),
        ("lpips alexnet.pth no/out.safetensors --heads alex.pth", "create it first"),
        ("lpips alexnet.pth alex.pth --heads alex.pth --overwrite", "cannot write alex.pth: it is an input"),
        ("lpips alex.pth out.safetensors --heads alexnet.pth", "holds no LPIPS v0.1 on AlexNet"),
        ("lpips alexnet.pth out.safetensors --heads alexnet.pth", "holds no LPIPS v0.1 on AlexNet"),
        ("lpips alexnet.pth out.safetensors --heads alex.pth --vae there", "--vae has no meaning for convert lpips"),
        ("motionstream alexnet.pth out --heads alex.pth", "--heads has no meaning for convert motionstream"),
    ],
)
def test_lpips_files_that_do_not_fit_are_named(here, capsys, arguments, words):
    lpips_files()
    before = {path: path.read_bytes() for path in here.iterdir()}
    assert convert(*arguments.split()) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert {path: path.read_bytes() for path in here.iterdir()} == before
