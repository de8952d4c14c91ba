"""The UMT5 text encoder against transformers run directly, and against a second writing of the official forward."""

import json
import math
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from motionstream.component_config import UMT5Config
from motionstream.conditioning import umt5
from motionstream.conditioning.text import clean_text
from motionstream.conditioning.umt5 import UMT5TextEncoder, from_official, transformers_config

CONFIG = UMT5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
LONG = "a fox runs over the hill, " * 9
SENTENCES = ["a fox runs", LONG, ""]


def official_state(config: UMT5Config, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of Wan-Video/Wan2.1, wan/modules/t5.py."""
    d, inner, hidden, heads = config.d_model, config.num_heads * config.d_kv, config.d_ff, config.num_heads
    shapes: dict[str, tuple[int, ...]] = {"token_embedding": (config.vocab_size, d), "norm": (d,)}
    for n in range(config.num_layers):
        block = {"norm1": (d,), "norm2": (d,), "pos_embedding.embedding": (32, heads)}
        block |= {f"attn.{k}": (inner, d) for k in "qkv"} | {"attn.o": (d, inner)}
        block |= {"ffn.gate.0": (hidden, d), "ffn.fc1": (hidden, d), "ffn.fc2": (d, hidden)}
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    numbers = torch.Generator().manual_seed(seed)
    return {f"{k}.weight": 0.3 * torch.randn(shape, generator=numbers) + 0.1 for k, shape in shapes.items()}


def distance_bucket(distance: int) -> int:
    """Key minus query → row of the bias table: 16 rows a side, the first 8 exact, logarithmic up to 128."""
    side, distance = (16 if distance > 0 else 0), abs(distance)
    if distance < 8:
        return side + distance
    return side + min(15, 8 + int(math.log(distance / 8) / math.log(128 / 8) * 8))


def official_forward(state: dict[str, Tensor], ids: Tensor, mask: Tensor, config: UMT5Config) -> Tensor:
    """What the official code computes: a bias table in every block, tanh-GELU gate, logits not scaled."""

    def rms(x: Tensor, name: str) -> Tensor:
        return state[name] * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (config.num_heads, config.d_kv)).transpose(1, 2)

    x = state["token_embedding.weight"][ids]
    length = ids.shape[1]
    buckets = torch.tensor([[distance_bucket(j - i) for j in range(length)] for i in range(length)])
    for n in range(config.num_layers):
        w = {k[len(f"blocks.{n}.") : -len(".weight")]: v for k, v in state.items() if k.startswith(f"blocks.{n}.")}
        y = rms(x, f"blocks.{n}.norm1.weight")
        q, k, v = (heads(y @ w[f"attn.{name}"].T) for name in "qkv")
        logits = q @ k.transpose(-1, -2) + w["pos_embedding.embedding"][buckets].permute(2, 0, 1)
        logits = logits.masked_fill(mask[:, None, None] == 0, -torch.inf)
        x = x + (logits.softmax(-1) @ v).transpose(1, 2).flatten(2) @ w["attn.o"].T
        y = rms(x, f"blocks.{n}.norm2.weight")
        gate = F.gelu(y @ w["ffn.gate.0"].T, approximate="tanh")
        x = x + (gate * (y @ w["ffn.fc1"].T)) @ w["ffn.fc2"].T
    return rms(x, "norm.weight")


def write_folders(folder: Path, state: dict[str, Tensor], config: UMT5Config = CONFIG) -> tuple[Path, Path]:
    """text_encoder/ and tokenizer/ with weights under transformers' names."""
    encoder, tokenizer = folder / "text_encoder", folder / "tokenizer"
    encoder.mkdir(parents=True)
    save_file(state, encoder / "model.safetensors", metadata={"format": "pt"})
    transformers_config(config).save_pretrained(encoder)
    transformers.ByT5Tokenizer().save_pretrained(tokenizer)
    return encoder, tokenizer


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_folders(tmp_path, from_official(official_state(CONFIG), CONFIG))


def padded(sentences: list[str], tokens: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (B, tokens), as the official code makes them."""
    both = transformers.ByT5Tokenizer()(
        [clean_text(s) for s in sentences],
        padding="max_length",
        max_length=tokens,
        truncation=True,
        return_tensors="pt",
    )
    return both.input_ids, both.attention_mask


def test_equals_the_official_arrangement(folders):
    state = official_state(CONFIG)
    ids, mask = padded(SENTENCES, CONFIG.tokens)
    wanted = official_forward(state, ids, mask, CONFIG) * mask[..., None]
    found = UMT5TextEncoder.from_folder(*folders, CONFIG, torch.float32).encode(SENTENCES)
    assert found.shape == (3, 512, 32) and wanted[1, : mask[1].sum()].std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    # mistakes that the comparison must notice: the two branches of the gate, and layers sharing one bias table
    gates = {"blocks.0.ffn.gate.0.weight": state["blocks.0.ffn.fc1.weight"]}
    gates["blocks.0.ffn.fc1.weight"] = state["blocks.0.ffn.gate.0.weight"]
    bias = {"blocks.1.pos_embedding.embedding.weight": state["blocks.0.pos_embedding.embedding.weight"]}
    for mistake in (gates, bias):
        other = official_forward(state | mistake, ids, mask, CONFIG) * mask[..., None]
        assert (other - wanted).abs().max() > 1e-2


def test_equals_transformers_with_padding_and_mask(folders):
    model = transformers.UMT5EncoderModel.from_pretrained(folders[0]).eval()
    ids, mask = padded(SENTENCES, 512)
    with torch.no_grad():
        hidden = model(ids, mask).last_hidden_state
    found = UMT5TextEncoder.from_folder(*folders, CONFIG, torch.float32).encode(SENTENCES)
    for row, length in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(found[row, :length], hidden[row, :length], atol=1e-5, rtol=1e-5)
        assert found[row, length:].abs().max() == 0 < found[row, :length].abs().min()
        assert hidden[row, length:].abs().max() > 0.1  # transformers does not zero the padding, Wan's pipeline does
    assert mask.sum(1).tolist() == [len("a fox runs") + 1, len(LONG.strip()) + 1, 1]


def test_one_by_one_equals_together_and_long_sentences_are_cut():
    sentences = ["a fox", "x" * 700, "a longer sentence", "a fox"]
    together = UMT5TextEncoder.random(CONFIG).encode(sentences)
    alone = UMT5TextEncoder.random(CONFIG)
    assert torch.equal(together, torch.cat([alone.encode([sentence]) for sentence in sentences]))
    assert torch.equal(together[1], alone.encode(["x" * 900])[0])  # 511 letters and the end
    assert together[1].abs().amin(-1).min() > 0 and not torch.equal(together[0, :5], together[2, :5])
    assert alone.encode([]).shape == (0, 512, 32)
    assert UMT5TextEncoder.random(replace(CONFIG, tokens=7)).encode(["a longer sentence"]).shape == (1, 7, 32)


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("  a &amp;amp; b\n\t c ", "a & b c"),
        ("schÃ¶n cafÃ©", "schön café"),
        ("it&#39;s &lt;here&gt;", "it's <here>"),
        ("wide ｆｏｘ “quoted”", 'wide fox "quoted"'),
    ],
)
def test_cleaning(written, clean):
    assert clean_text(written, fix_encoding=True) == clean
    encoder = UMT5TextEncoder.random(CONFIG, keep=True)
    assert torch.equal(encoder.encode([written]), encoder.encode([clean]))
    assert not torch.equal(encoder.encode([written]), encoder.encode([clean + "x"]))


def test_the_small_encoder_needs_no_ftfy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert clean_text("schÃ¶n &amp; ") == "schÃ¶n &"
    with pytest.raises(ValueError, match=r'ftfy .*pip install -e "\.\[wan\]"'):
        clean_text("a fox", fix_encoding=True)


def count_loads(encoder: UMT5TextEncoder) -> list[weakref.ref]:
    """References to every model that is loaded from now on."""
    made: list[weakref.ref] = []
    load = encoder._resident._load

    def counted():
        model = load()
        made.append(weakref.ref(model))
        return model

    encoder._resident._load = counted
    return made


def test_the_model_goes_and_sentences_stay():
    encoder = UMT5TextEncoder.random(CONFIG)
    made = count_loads(encoder)
    assert not encoder.resident and not made
    first = encoder.encode(["a fox", "", "a fox"])
    assert len(made) == 1 and not encoder.resident and made[0]() is None, "the model must be freed"
    first.zero_()  # the caller's copy, not the remembered one
    again = encoder.encode(["", "a  fox"])
    assert len(made) == 1 and again.abs().amax((1, 2)).min() > 0
    # rebuilt from the seed: as if it had never gone
    assert torch.equal(encoder.encode(["another"]), UMT5TextEncoder.random(CONFIG).encode(["another"]))
    assert len(made) == 2
    assert not torch.equal(UMT5TextEncoder.random(CONFIG, seed=1).encode(["another"]), encoder.encode(["another"]))


def test_the_last_sixteen_are_remembered():
    encoder = UMT5TextEncoder.random(CONFIG)
    made = count_loads(encoder)
    assert encoder.encode([f"sentence {n}" for n in range(20)]).shape[0] == 20 and len(made) == 1
    encoder.encode([f"sentence {n}" for n in range(4, 20)])
    assert len(made) == 1
    encoder.encode(["sentence 4"])  # used again, so number 5 is now the oldest
    encoder.encode(["another"])
    assert len(made) == 2
    encoder.encode(["sentence 4", "sentence 19"])
    assert len(made) == 2
    encoder.encode(["sentence 5"])
    assert len(made) == 3


def test_keep_and_release():
    encoder = UMT5TextEncoder.random(CONFIG, keep=True)
    made = count_loads(encoder)
    encoder.encode(["a"])
    encoder.encode(["b"])
    assert encoder.resident and len(made) == 1
    encoder.release()
    assert not encoder.resident and made[0]() is None
    encoder.encode(["b"])
    assert not encoder.resident


def test_dtype_and_output_device():
    half = UMT5TextEncoder.random(CONFIG, dtype=torch.bfloat16, keep=True)
    tokens = half.encode(["a fox runs over the hill"])
    assert tokens.dtype == torch.bfloat16 and tokens.isfinite().all() and tokens.float().std() > 0.05
    assert {p.dtype for p in half._resident._model.parameters()} == {torch.bfloat16}
    assert UMT5TextEncoder.random(CONFIG, output_device="meta").encode(["a"]).is_meta


def test_eight_bits(folders):
    exact = UMT5TextEncoder.from_folder(*folders, CONFIG, torch.float32).encode(["a fox runs"])
    encoder = UMT5TextEncoder.from_folder(*folders, CONFIG, torch.float32, quantise="int8", keep=True)
    rough = encoder.encode(["a fox runs"])
    error = (rough - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.05, error
    layer = encoder._resident._model.encoder.block[0].layer[1].DenseReluDense.wo
    assert layer.weight.dtype == torch.int8 and layer.scale.dtype == torch.float32
    with pytest.raises(ValueError, match="quantise = 'int4': 'none' or 'int8'"):
        UMT5TextEncoder.random(CONFIG, quantise="int4")


def test_missing_libraries(monkeypatch, folders):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'transformers .*pip install -e "\.\[wan\]"'):
        UMT5TextEncoder.from_folder(*folders, CONFIG)


def test_shards_and_both_names_of_the_table(folders):
    weights = folders[0] / "model.safetensors"
    wanted = UMT5TextEncoder.from_folder(*folders, CONFIG, torch.float32).encode(["a fox"])
    state = load_file(weights)
    state["encoder.embed_tokens.weight"] = state.pop("shared.weight")
    weights.unlink()
    parts = {"model-1.safetensors": sorted(state)[::2], "model-2.safetensors": sorted(state)[1::2]}
    for name, keys in parts.items():
        save_file({key: state[key] for key in keys}, folders[0] / name)
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (folders[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(UMT5TextEncoder.from_folder(*folders, CONFIG, torch.float32).encode(["a fox"]), wanted)
    (folders[0] / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-2.safetensors is missing: the folder is not whole"):
        UMT5TextEncoder.from_folder(*folders, CONFIG)


def test_saved_folders_load_again(tmp_path):
    made = UMT5TextEncoder.random(CONFIG, seed=3)
    here = tmp_path / "text_encoder", tmp_path / "tokenizer"
    made.save(*here)
    assert not made.resident
    transformers.UMT5EncoderModel.from_pretrained(here[0])
    loaded = UMT5TextEncoder.from_folder(*here, CONFIG, torch.float32, keep=True)
    assert torch.equal(loaded.encode(["a fox"]), made.encode(["a fox"]))
    (here[0] / "model.safetensors.index.json").write_text("{}")
    loaded.save(*here)  # over the file that its own weights are mapped from, and over an index of older shards
    assert sorted(path.name for path in here[0].iterdir()) == ["config.json", "model.safetensors"]
    again = UMT5TextEncoder.from_folder(*here, CONFIG, torch.float32)
    assert torch.equal(again.encode(["a fox"]), made.encode(["a fox"]))
    other = UMT5TextEncoder.random(CONFIG, seed=4)
    other.save(*here)
    assert torch.equal(loaded.encode(["another"]), made.encode(["another"])), "weights in use must not change"
    assert not torch.equal(other.encode(["another"]), made.encode(["another"]))
    with pytest.raises(ValueError, match="quantise = 'int8' cannot be saved"):
        UMT5TextEncoder.random(CONFIG, quantise="int8").save(*here)


def test_broken_folders(folders, tmp_path):
    def refused(match: str, config: UMT5Config = CONFIG, tokenizer: Path = folders[1]) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            UMT5TextEncoder.from_folder(folders[0], tokenizer, config)
        assert "\n" not in str(caught.value)

    refused("there is no folder .*none: give the folder of the tokenizer", tokenizer=tmp_path / "none")
    refused("num_heads = 4, but the model needs 8", replace(CONFIG, num_heads=8, d_kv=4))
    refused(r"encoder.* is \(48, 32\), \(64, 32\) is needed", replace(CONFIG, d_ff=64))
    refused("it lacks encoder.block.2.*and 9 more", replace(CONFIG, num_layers=3))
    refused("it has unknown encoder.block.1", replace(CONFIG, num_layers=1))
    weights = folders[0] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    refused("damaged or half downloaded")
    (folders[0] / "config.json").write_text("{")
    refused("config.json cannot be read")
    (folders[0] / "config.json").unlink()  # not needed: the shapes tell nearly all
    weights.write_bytes(whole)
    UMT5TextEncoder.from_folder(*folders, CONFIG)
    weights.rename(folders[0] / "pytorch_model.bin")
    refused("only pickled weights")


def test_tokenizer_folders(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    encoder = UMT5TextEncoder.from_folder(folders[0], tmp_path / "empty", CONFIG, torch.float32)
    with pytest.raises(ValueError, match="empty holds no tokenizer") as caught:
        encoder.encode(["a fox"])
    assert "\n" not in str(caught.value) and not encoder.resident
    # the published tokenizer is a T5 one: pieces of words, </s> behind them
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁fox", -2.0), ("▁", -3.0), ("f", -4.0)]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(tmp_path / "t5")
    tokens = UMT5TextEncoder.from_folder(folders[0], tmp_path / "t5", CONFIG, torch.float32).encode(["a fox"])[0]
    model = transformers.UMT5EncoderModel.from_pretrained(folders[0]).eval()
    with torch.no_grad():
        wanted = model(torch.tensor([[3, 4, 1]])).last_hidden_state[0]
    torch.testing.assert_close(tokens[:3], wanted, atol=1e-5, rtol=1e-5)
    assert tokens[3:].abs().max() == 0
    many = [*pieces, *((f"word{n}", -9.0) for n in range(400))]
    transformers.T5Tokenizer(vocab=many, extra_ids=0).save_pretrained(tmp_path / "many")
    with pytest.raises(ValueError, match=r"has 407 entries, the text encoder 384"):
        UMT5TextEncoder.from_folder(folders[0], tmp_path / "many", CONFIG).encode(["a"])


def test_official_states_of_other_models_are_refused():
    state = official_state(CONFIG)
    with pytest.raises(ValueError, match=r"not the official UMT5 encoder of Wan: it has 'blocks.0.self_attn.q.weight'"):
        from_official({"blocks.0.self_attn.q.weight": torch.ones(1)}, CONFIG)
    with pytest.raises(ValueError, match=r"official UMT5 state does not fit .*lacks encoder.final_layer_norm.weight"):
        from_official({k: v for k, v in state.items() if k != "norm.weight"}, CONFIG)
    with pytest.raises(ValueError, match="is needed"):
        from_official(state, replace(CONFIG, d_model=64))


def test_the_published_size():
    model = umt5._skeleton(UMT5Config())
    assert sum(p.numel() for p in model.parameters()) == 5_680_910_336
