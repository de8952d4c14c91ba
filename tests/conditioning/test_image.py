"""The CLIP image encoder against transformers run directly, and against a second writing of the official forward."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from motionstream.component_config import CLIPConfig
from motionstream.conditioning import image
from motionstream.conditioning.image import MEAN, STD, CLIPImageEncoder, from_official, preprocess, transformers_config

CONFIG = CLIPConfig(image_size=56, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)


def pictures(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Noise over a slope, in [−1, 1] and in 8-bit levels."""
    numbers = np.random.default_rng(seed)
    slope = np.linspace(0, 160, width)[None, None, :, None] + np.linspace(0, 40, height)[None, :, None, None]
    levels = (slope + numbers.integers(0, 56, (batch, height, width, 3))).astype(np.uint8)
    return torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 127.5 - 1


def official_state(config: CLIPConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of Wan-Video/Wan2.1, wan/modules/clip.py."""
    d, hidden, side = config.hidden_size, config.intermediate_size, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "log_scale": (),
        "textual.token_embedding.weight": (7, 5),
        "visual.cls_embedding": (1, 1, d),
        "visual.pos_embedding": (1, config.tokens, d),
        "visual.patch_embedding.weight": (d, 3, side, side),
        "visual.head": (d, config.projection_dim),
    }
    layers = {"visual.pre_norm": (d,), "visual.post_norm": (d,)}
    for n in range(config.num_hidden_layers):
        block = {"norm1": (d,), "norm2": (d,), "attn.to_qkv": (3 * d, d), "attn.proj": (d, d)}
        block |= {"mlp.0": (hidden, d), "mlp.2": (d, hidden)}
        layers |= {f"visual.transformer.{n}.{name}": shape for name, shape in block.items()}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    numbers = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=numbers) + 0.1 for name, shape in shapes.items()}


def official_forward(state: dict[str, Tensor], pixels: Tensor, config: CLIPConfig) -> Tensor:
    """The official ViT up to the layer before the last (use_31_block), exact GELU, norms before the branches."""
    state = {name.removeprefix("visual."): value for name, value in state.items()}
    d = config.hidden_size

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (d,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.conv2d(pixels, state["patch_embedding.weight"], stride=config.patch_size).flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_embedding"].expand(len(x), 1, d), x], dim=1) + state["pos_embedding"]
    x = norm(x, "pre_norm")
    for n in range(config.num_hidden_layers - 1):
        block = f"transformer.{n}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.to_qkv")
        q, k, v = qkv.unflatten(-1, (3, config.num_attention_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((scores @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.0")), f"{block}.mlp.2")
    return x


def write_folder(folder: Path, state: dict[str, Tensor]) -> Path:
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    transformers_config(CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "image_encoder", from_official(official_state(CONFIG), CONFIG))


def test_equals_the_official_arrangement(folder):
    state, shown = official_state(CONFIG), pictures(2, 60, 90)
    found = CLIPImageEncoder.from_folder(folder, CONFIG, torch.float32).encode(shown)
    pixels = preprocess(shown, CONFIG)
    wanted = official_forward(state, pixels, CONFIG)
    assert found.shape == (2, 17, 24) and wanted.std() > 0.3 and (wanted[0] - wanted[1]).abs().max() > 0.05
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    # mistakes that the comparison must notice: queries for keys, and one layer more
    name = "visual.transformer.0.attn.to_qkv.weight"
    q, k, v = state[name].chunk(3)
    assert (official_forward(state | {name: torch.cat([k, v, q])}, pixels, CONFIG) - wanted).abs().max() > 1e-2
    last = transformers.CLIPVisionModel.from_pretrained(folder).eval()(pixel_values=pixels).last_hidden_state
    assert (last - wanted).abs().max() > 1e-2


def test_equals_transformers(folder):
    shown, weights = pictures(1, 70, 56), folder / "model.safetensors"
    model = transformers.CLIPVisionModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = model(pixel_values=preprocess(shown, CONFIG), output_hidden_states=True).hidden_states[-2]
    encoder = CLIPImageEncoder.from_folder(folder, CONFIG, torch.float32)
    assert torch.equal(encoder.encode(shown), wanted)
    # transformers 5 drops "vision_model." from the names, other exporters write the projection and the indices too
    renamed = {name.removeprefix("vision_model."): value for name, value in load_file(weights).items()}
    assert "embeddings.class_embedding" in renamed
    extra = {"visual_projection.weight": torch.ones(3, 24), "vision_model.embeddings.position_ids": torch.ones(1, 17)}
    save_file(renamed | extra, weights)
    assert torch.equal(CLIPImageEncoder.from_folder(folder, CONFIG, torch.float32).encode(shown), wanted)


@pytest.mark.parametrize("size", [(480, 832), (832, 480), (150, 170), (97, 300)])
def test_squash_is_the_official_resize(size):
    shown = pictures(1, *size)
    small = F.interpolate(shown, size=(224, 224), mode="bicubic", align_corners=False).mul(0.5).add(0.5)
    wanted = torch.stack([(small[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    found = preprocess(shown, CLIPConfig())
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (found - preprocess(shown, CLIPConfig(preprocess="crop"))).abs().max() > 0.1


@pytest.mark.parametrize("size", [(480, 832), (832, 480), (704, 1280), (224, 301), (97, 300)])
def test_crop_is_the_processors(size):
    shown = pictures(1, *size)
    levels = ((shown[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    processor = transformers.CLIPImageProcessor()
    wanted = processor(images=levels, return_tensors="pt").pixel_values
    found = preprocess(shown, CLIPConfig(preprocess="crop"))
    assert found.shape == wanted.shape == (1, 3, 224, 224)
    # both round to 8-bit levels, between the two passes of the resize too, where a few fall to the other side
    off = ((found - wanted) * torch.tensor(STD)[:, None, None] * 255).abs()
    assert off.max() < 2.01 and off.mean() < 0.02, (off.max(), off.mean())
    shifted = preprocess(shown.roll(1, dims=-1), CLIPConfig(preprocess="crop"))
    assert (shifted - wanted).abs().mean() > 0.01


def test_the_model_goes_and_pictures_stay():
    encoder = CLIPImageEncoder.random(CONFIG)
    loads, load = [], encoder._resident._load

    def counted():
        loads.append(1)
        return load()

    encoder._resident._load = counted
    shown = pictures(2, 60, 90)
    both = encoder.encode(shown)
    assert len(loads) == 1 and not encoder.resident and both.std() > 0.3
    assert torch.equal(encoder.encode(shown[1:])[0], both[1]) and len(loads) == 1
    other = encoder.encode(pictures(1, 60, 90, seed=5))
    assert len(loads) == 2 and (other - both[:1]).abs().max() > 1e-3
    assert torch.equal(CLIPImageEncoder.random(CONFIG).encode(shown), both), "the same seed gives the same weights"
    assert not torch.equal(CLIPImageEncoder.random(CONFIG, seed=1).encode(shown), both)
    kept = CLIPImageEncoder.random(CONFIG, dtype=torch.bfloat16, keep=True)
    rough = kept.encode(shown)
    assert kept.resident and rough.dtype == torch.bfloat16 and rough.isfinite().all()
    kept.release()
    assert not kept.resident
    assert CLIPImageEncoder.random(CONFIG, output_device="meta").encode(shown).is_meta


def test_saved_folders_load_again(tmp_path):
    made, shown = CLIPImageEncoder.random(CONFIG, seed=3), pictures(1, 60, 90)
    made.save(tmp_path / "image_encoder")
    loaded = CLIPImageEncoder.from_folder(tmp_path / "image_encoder", CONFIG, torch.float32)
    assert torch.equal(loaded.encode(shown), made.encode(shown))
    transformers.CLIPVisionModel.from_pretrained(tmp_path / "image_encoder")


def test_broken_folders(folder, tmp_path):
    def refused(match: str, config: CLIPConfig = CONFIG, path: Path = folder) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            CLIPImageEncoder.from_folder(path, config)
        assert "\n" not in str(caught.value)

    refused("there is no folder .*none: give the folder of the image encoder", path=tmp_path / "none")
    refused("num_attention_heads = 2, but the model needs 4", replace(CONFIG, num_attention_heads=4))
    refused(r"is \(32,?.*\(48,?.* is needed", replace(CONFIG, intermediate_size=48))
    quick = transformers.CLIPVisionConfig.from_pretrained(folder)
    quick.hidden_act = "quick_gelu"  # OpenAI's own CLIP: the same shapes, other numbers
    quick.save_pretrained(folder)
    refused("hidden_act = 'quick_gelu', but the model needs 'gelu'")
    transformers_config(CONFIG).save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused("damaged or half downloaded")
    weights.unlink()
    refused("no safetensors file")


def test_missing_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'transformers .*pip install -e "\.\[wan\]"'):
        CLIPImageEncoder.random(CONFIG).encode(pictures(1, 60, 90))


def test_official_states_of_other_models_are_refused():
    state = official_state(CONFIG)
    assert not [name for name in from_official(state, CONFIG) if "textual" in name or "head" in name]
    with pytest.raises(ValueError, match=r"it has no 'visual.' \(first: 'blocks.0'\)"):
        from_official({"blocks.0": torch.ones(1)}, CONFIG)
    with pytest.raises(ValueError, match=r"it has 'visual.transformer.0.attn.to_q.weight'"):
        from_official({"visual.transformer.0.attn.to_q.weight": torch.ones(1)}, CONFIG)
    with pytest.raises(ValueError, match="official CLIP state does not fit CLIPVisionModel: it lacks post_layernorm"):
        from_official({k: v for k, v in state.items() if "post_norm" not in k}, CONFIG)
    with pytest.raises(ValueError, match="is needed"):
        from_official(state, replace(CONFIG, image_size=70))


def test_the_published_size():
    model = image._skeleton(CLIPConfig())
    assert sum(p.numel() for p in model.parameters()) == 630_766_080
    assert CLIPConfig().tokens == 257
