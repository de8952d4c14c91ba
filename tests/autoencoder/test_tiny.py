"""The tiny autoencoder against the community's (recorded vectors, and a twin written out here), streams, files."""

import json
import pickle
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from motionstream.autoencoder.tiny import TinyAutoencoder, TinyState, recognise
from motionstream.component_config import TinyAutoencoderConfig
from motionstream.presets import preset

VECTORS = Path(__file__).parents[1] / "data" / "taehv-2.1.safetensors"
SMALL = TinyAutoencoderConfig(latent_channels=6, encoder_channels=5, decoder_channels=(12, 10, 8, 6), blocks=2)
SMALL_PATCHED = replace(SMALL, patch_size=2)


def named_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The weights of the recorded vectors: normal(0, 0.05), the seed is the name."""

    def draw(name: str, shape: list[int]) -> Tensor:
        random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32) * np.float32(0.05))

    return {name: draw(name, shape) for name, shape in shapes.items()}


def small(config: TinyAutoencoderConfig = SMALL) -> TinyAutoencoder:
    """Random weights, large enough for every layer to matter and small enough for pictures within the range."""
    torch.manual_seed(0)
    model = TinyAutoencoder(config).requires_grad_(False)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
        parameter.normal_(0, fan_in**-0.5)
    model.decoder[-1].bias.fill_(0.5)
    model.decoder[-1].weight.mul_(0.2)
    return model


def latents_of(config: TinyAutoencoderConfig, frames: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, config.latent_channels, frames, 3, 4, generator=generator)


def clip(frames: int, size: tuple[int, int] = (32, 48), batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, frames, *size, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def community_clip(weights: dict[str, Tensor], part: str, x: Tensor, config: TinyAutoencoderConfig) -> Tensor:
    """A whole clip (N, T, C, H, W) through ``part``, straight from the parameter table: the community's algorithm.

    What a layer is can be read off its parameters' names and shapes; what has none off its index.
    """
    n, where = x.shape[0], 0
    upsample_before_grow = part == "decoder"
    x = x.flatten(0, 1)
    if part == "decoder":
        x = 3 * (x / 3).tanh()
    last = max(int(name.split(".")[1]) for name in weights if name.startswith(part))
    for where in range(last + 1):
        at = f"{part}.{where}"
        if f"{at}.conv.0.weight" in weights:
            clips = x.unflatten(0, (n, -1))
            past = torch.cat([torch.zeros_like(clips[:, :1]), clips[:, :-1]], dim=1).flatten(0, 1)
            y = torch.cat([x, past], dim=1)
            for step in (0, 2, 4):
                y = F.conv2d(y, weights[f"{at}.conv.{step}.weight"], weights[f"{at}.conv.{step}.bias"], padding=1)
                y = y.relu() if step < 4 else y
            x = (x + y).relu()
        elif f"{at}.conv.weight" in weights:  # pools or grows in time
            kernel = weights[f"{at}.conv.weight"]
            channels = x.shape[1]
            if upsample_before_grow:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = F.conv2d(x, kernel)
                x = x.reshape(-1, channels, *x.shape[2:])
            else:
                x = F.conv2d(x.reshape(-1, kernel.shape[1], *x.shape[2:]), kernel)
        elif f"{at}.weight" in weights:
            bias = weights.get(f"{at}.bias")
            stride = 2 if part == "encoder" and bias is None else 1
            if part == "decoder" and where == last:
                x = x.relu()
            x = F.conv2d(x, weights[f"{at}.weight"], bias, stride=stride, padding=1)
            if bias is not None and where < last:  # the first of each part
                x = x.relu()
    return x.unflatten(0, (n, -1))


def zero_state(state: TinyState) -> TinyState:
    """Nothing remembered: what the community's code begins with."""
    return replace(state, memory=tuple(torch.zeros_like(x) for x in state.memory))


@torch.no_grad()
def test_agrees_with_the_communitys_code():
    with safe_open(VECTORS, "pt") as file:
        vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = named_weights(json.loads(file.metadata()["shapes"]))
    model = TinyAutoencoder(recognise(weights))
    model.load_state_dict(weights)
    assert model.config == TinyAutoencoderConfig()

    frames, _ = model.decode(vectors["z"].transpose(1, 2))
    expected = vectors["frames"].transpose(1, 2) * 2 - 1
    assert frames.shape == (1, 3, 17, 32, 48)
    # with these weights the values before the clamp are in the hundreds: the recorded pictures are black and white but
    # for a hundred values, which show the rounding of the hundreds. The twin below compares within the range.
    assert 0.1 < (expected == 1).float().mean() < 0.9 and (expected.abs() < 1).sum() > 50
    torch.testing.assert_close(frames, expected, atol=0.01, rtol=0)
    twin = community_clip(weights, "decoder", vectors["z"], model.config).clamp(0, 1)[:, 3:]
    torch.testing.assert_close(twin, vectors["frames"], atol=0.005, rtol=0)

    video = vectors["x"].transpose(1, 2) * 2 - 1
    _, state = model.encode(video[:, :, :1])
    latents, _ = model.encode(video, zero_state(state))
    expected = vectors["latents"].transpose(1, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, SMALL_PATCHED])
def test_agrees_with_the_twin_at_other_sizes(config):
    model, latents, video = small(config), latents_of(config, 3), clip(9)
    weights = model.state_dict()
    frames, _ = model.decode(latents)
    pictures = F.pixel_shuffle(community_clip(weights, "decoder", latents.transpose(1, 2), config), config.patch_size)
    assert ((pictures > 0) & (pictures < 1)).float().mean() > 0.8 and pictures.std() > 0.02
    torch.testing.assert_close(frames, (pictures.clamp(0, 1) * 2 - 1)[:, 3:].transpose(1, 2), atol=1e-5, rtol=0)

    padded = torch.cat([video[:, :, :1].repeat(1, 1, 3, 1, 1), video], dim=2).transpose(1, 2)
    expected = community_clip(weights, "encoder", F.pixel_unshuffle((padded + 1) / 2, config.patch_size), config)
    encoded, _ = model.encode(video)
    assert encoded.shape[2] == 3 and expected.std() > 0.05
    torch.testing.assert_close(encoded, expected.transpose(1, 2), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, SMALL_PATCHED])
def test_chunk_by_chunk_equals_whole_bit_for_bit(config):
    model, latents, video = small(config), latents_of(config, 7), clip(25)
    whole, _ = model.decode(latents)
    parts, state = [], None
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        chunk, state = model.decode(latents[:, :, start:stop], state)
        parts.append(chunk)
    assert [part.shape[2] for part in parts] == [9, 4, 12]
    assert torch.equal(torch.cat(parts, dim=2), whole)
    assert not torch.allclose(model.decode(latents[:, :, 3:4])[0], whole[:, :, 12:13], atol=1e-3), "no memory at all"

    encoded, _ = model.encode(video)
    first, state = model.encode(video[:, :, :9])
    rest, _ = model.encode(video[:, :, 9:], state)
    assert torch.equal(torch.cat([first, rest], dim=2), encoded)
    assert not torch.allclose(model.encode(video[:, :, 9:10])[0], encoded[:, :, 3:4], atol=1e-3), "no memory at all"


@torch.no_grad()
def test_streams_share_the_weights_and_states_are_never_changed():
    model, first, second = small(), latents_of(SMALL, 6), latents_of(SMALL, 5)
    _, a = model.decode(first[:, :, :3])
    _, b = model.decode(second[:, :, :3])
    kept = [x.clone() for x in a.memory]
    once, after = model.decode(first[:, :, 3:], a)
    model.decode(second[:, :, 3:], b)
    again, _ = model.decode(first[:, :, 3:], a)
    assert torch.equal(once, again)
    assert all(torch.equal(x, y) for x, y in zip(a.memory, kept, strict=True))
    assert once.std() > 0.02 and after.nbytes == a.nbytes
    assert after.nbytes == sum(x.untyped_storage().nbytes() for x in after.memory), "a view keeps more alive"

    _, one = model.decode(first[:1, :, :3])  # a batch is as many streams
    alone, _ = model.decode(first[:1, :, 3:], one)
    torch.testing.assert_close(alone, once[:1], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_latent_frame_codes_the_four_frames_it_decodes_to():
    """Latent frame k stands for frames 4k − 3 … 4k, as Wan's does: earlier ones ignore a change there."""
    model, video = small(), clip(13)
    before, _ = model.encode(video)
    video[:, :, 5] *= -1  # the first frame of latent frame 2
    changed = (model.encode(video)[0] - before).abs().amax(dim=(0, 1, 3, 4))
    assert (changed[:2] == 0).all() and (changed[2:] > 1e-3).all()

    latents = latents_of(SMALL, 4)
    before, _ = model.decode(latents)
    latents[:, :, 2] += 1
    changed = (model.decode(latents)[0] - before).abs().amax(dim=(0, 1, 3, 4))
    assert (changed[:5] == 0).all() and (changed[5:] > 1e-3).all()


def test_gradients_reach_the_call_but_not_its_state():
    model = small().requires_grad_(True)
    latents = latents_of(SMALL, 2).requires_grad_(True)
    video, state = model.decode(latents)
    assert not any(x.requires_grad for x in state.memory)
    # the last frame hears of the first latent frame only through the memory
    (gradient,) = torch.autograd.grad(video[:, :, -1].sum(), latents)
    assert gradient[:, :, 0].abs().max() > 0


def test_dtypes_are_the_callers():
    model = small().to(torch.bfloat16)
    video, state = model.decode(latents_of(SMALL, 2))
    assert video.dtype == torch.float32 and state.memory[0].dtype == torch.bfloat16
    assert 0 < (video - small().decode(latents_of(SMALL, 2))[0]).abs().max() < 0.1
    assert model.encode(video)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (preset("wan2.1-1.3b").tiny_decoder, 9_844_611),
        (TinyAutoencoderConfig(latent_channels=48, patch_size=2), 9_923_532),
        # the paper's 56.7M; it does not say how they are made up
        (TinyAutoencoderConfig(48, 2, decoder_channels=(576, 352, 192, 96)), 56_716_844),
    ],
)
def test_decoders_have_the_papers_sizes(config, parameters):
    with torch.device("meta"):
        model = TinyAutoencoder(config)
    assert sum(p.numel() for p in model.decoder.parameters()) == parameters
    assert recognise(model.state_dict()) == config


def test_wrong_inputs_are_refused():
    model = small()
    _, state = model.decode(latents_of(SMALL, 1))
    with pytest.raises(ValueError, match=r"10 frames cannot be encoded: 1 \+ 4k frames begin"):
        model.encode(clip(10))
    _, encoder_state = model.encode(clip(1))
    with pytest.raises(ValueError, match="9 frames cannot be encoded: 4k frames go on"):
        model.encode(clip(9), encoder_state)
    with pytest.raises(ValueError, match="36×48 pixels cannot be encoded: it needs multiples of 8"):
        model.encode(clip(1, (36, 48)))
    with pytest.raises(ValueError, match="latents of 5 channels"):
        model.decode(latents_of(replace(SMALL, latent_channels=5), 1))
    with pytest.raises(ValueError, match="state is of the encoder"):
        model.decode(torch.zeros(2, 6, 1, 4, 6), encoder_state)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) latent cells, the input of the decoder and \(1, 3, 4\)"):
        model.decode(latents_of(SMALL, 1, batch=1), state)


@torch.no_grad()
def test_files_round_trip(tmp_path):
    model = small(SMALL_PATCHED)
    model.save(tmp_path / "tiny.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]
    for config in (None, SMALL_PATCHED):
        loaded = TinyAutoencoder.load(tmp_path / "tiny.safetensors", config)
        assert loaded.config == SMALL_PATCHED
        assert torch.equal(loaded.decode(latents_of(SMALL, 2))[0], model.decode(latents_of(SMALL, 2))[0])
    half = TinyAutoencoder.load(tmp_path / "tiny.safetensors", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_pickles_need_permission(tmp_path):
    model, path = small(), tmp_path / "taew2_1.pth"
    torch.save({name: x.half() for name, x in model.state_dict().items()}, path)
    with pytest.raises(ValueError, match=r"is a pickle.*motionstream convert"):
        TinyAutoencoder.load(path)
    loaded = TinyAutoencoder.load(path, allow_pickle=True)
    assert loaded.config == SMALL and loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.decoder[1].weight, model.decoder[1].weight, atol=1e-3, rtol=1e-3)

    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    path.write_bytes(pickle.dumps({"encoder.0.weight": Code()}, protocol=2))
    with pytest.raises(ValueError, match="refused as unsafe"):
        TinyAutoencoder.load(path, allow_pickle=True)
    assert not (tmp_path / "run").exists()
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="no tensors by name"):
        TinyAutoencoder.load(path, allow_pickle=True)


def test_files_that_do_not_fit_say_why(tmp_path):
    path = tmp_path / "tiny.safetensors"
    whole = small().state_dict()

    def refused(tensors: dict[str, Tensor], config: TinyAutoencoderConfig | None, match: str) -> None:
        save_file(tensors, path)
        with pytest.raises(ValueError, match=match) as caught:
            TinyAutoencoder.load(path, config)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    with pytest.raises(ValueError, match="there is no such file"):
        TinyAutoencoder.load(tmp_path / "absent.safetensors")
    without = {name: x for name, x in whole.items() if not name.startswith("decoder.4.")}
    refused(without, SMALL, r"lacks decoder.4.conv.0.bias, .* and 3 more")
    refused({name: x for name, x in whole.items() if name != "decoder.7.weight"}, None, "lacks decoder.7.weight")
    refused({**whole, "decoder.99.weight": torch.zeros(1)}, SMALL, "unknown decoder.99.weight")
    refused({**whole, "decoder.7.weight": torch.zeros(7, 12, 3, 3)}, SMALL, r"\(7, 12, 3, 3\) instead of \(10, 12")
    refused({"blocks.0.attn1.to_q.weight": torch.zeros(1)}, None, "no tiny autoencoder in TAEHV's layout.*blocks.0")
    config = replace(SMALL, latent_channels=48)
    refused(small(config).state_dict(), TinyAutoencoderConfig(), "48 channels .*taew2_2.*have 16: give it taew2_1")

    save_file(whole, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or not fully downloaded"):
        TinyAutoencoder.load(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git-lfs pointer"):
        TinyAutoencoder.load(path)
