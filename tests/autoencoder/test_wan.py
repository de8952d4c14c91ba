"""Wan's autoencoders as streams, against diffusers' whole-clip calls; tiles; folders."""

import copy
import functools
import itertools
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from motionstream.autoencoder.tiling import TileGrid, blend_weights, tile_spans
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.autoencoder.wan_checkpoint import diffusers_arguments
from motionstream.component_config import WanAutoencoderConfig
from motionstream.presets import preset
from motionstream.wan_presets import WAN21_AUTOENCODER, WAN22_AUTOENCODER

VERSIONS = ("wan2.1-debug", "wan2.2-debug")
SPLITS = ([1] * 6, [3, 3], [2, 1, 3])  # in latent frames


def config(version: str) -> WanAutoencoderConfig:
    found = preset(version).autoencoder
    assert isinstance(found, WanAutoencoderConfig)
    return found


@functools.cache
def shared(version: str) -> WanAutoencoder:
    """Random in every parameter: of a size that keeps the values of all layers near one."""
    torch.manual_seed(1)
    model = WanAutoencoder.from_config(config(version)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.uniform_(0.5, 1.5)
        elif parameter.dim() > 1:
            parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
        else:
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture(params=VERSIONS)
def model(request: pytest.FixtureRequest) -> WanAutoencoder:
    return copy.copy(shared(request.param))  # a test may set its tiles


def latents_of(model: WanAutoencoder, frames: int = 6, size: tuple[int, int] = (3, 4), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, model.latent_channels, frames, *size, generator=generator)


def video_of(model: WanAutoencoder, frames: int, size: tuple[int, int] = (2, 3), seed: int = 0) -> torch.Tensor:
    height, width = (model.config.scale_factor_spatial * side for side in size)
    return torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1, 1)


def whole_decode(model: WanAutoencoder, latents: torch.Tensor) -> torch.Tensor:
    return model.vae.decode(latents * column(model.config.latents_std) + column(model.config.latents_mean)).sample


def whole_encode(model: WanAutoencoder, video: torch.Tensor) -> torch.Tensor:
    mean = model.vae.encode(video).latent_dist.mode()
    return (mean - column(model.config.latents_mean)) / column(model.config.latents_std)


def streamed(call, x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    state, parts = None, []
    for chunk in x.split(sizes, dim=2):
        part, state = call(chunk, state)
        parts.append(part)
    return parts


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("settings", "decoder"), [(WAN21_AUTOENCODER, 73_295_331), (WAN22_AUTOENCODER, 555_049_228)], ids=["2.1", "2.2"]
)
def test_full_sizes_are_the_papers(settings: WanAutoencoderConfig, decoder: int):
    with torch.device("meta"):
        model = WanAutoencoder(settings)
    assert sum(p.numel() for p in model.vae.decoder.parameters()) == decoder
    assert model.latent_channels == settings.z_dim


def test_decoding_by_chunks_is_bit_for_bit_diffusers_whole_clip(model: WanAutoencoder):
    latents = latents_of(model)
    whole = whole_decode(model, latents)
    assert whole.shape[2] == 21 and whole.std() > 0.3 and (whole.abs() < 1).float().mean() > 0.5
    for sizes in SPLITS:
        parts = streamed(model.decode, latents, sizes)
        assert [part.shape[2] for part in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(sizes)]
        same(torch.cat(parts, dim=2), whole)
    forgetful = model.decode(latents[:, :, 3:])[0]
    assert (forgetful[:, :, 1:] - whole[:, :, -8:]).abs().max() > 0.1


def test_encoding_by_chunks_is_bit_for_bit_diffusers_whole_clip(model: WanAutoencoder):
    video = video_of(model, 21, (3, 4))
    whole = whole_encode(model, video)
    assert whole.shape[2] == 6 and whole.std() > 0.3
    for sizes in SPLITS:
        parts = streamed(model.encode, video, [4 * n - 3 * (i == 0) for i, n in enumerate(sizes)])
        assert [part.shape[2] for part in parts] == sizes
        same(torch.cat(parts, dim=2), whole)
    assert (model.encode(video[:, :, 4:])[0][:, :, 1:] - whole[:, :, 2:]).abs().max() > 0.01


def test_chunks_of_any_length_agree_bit_for_bit_at_the_smallest_sizes(model: WanAutoencoder):
    # below a dozen cells diffusers' 1×1×1 convolution rounds otherwise over a whole clip than frame by frame
    latents, video = latents_of(model, 4, (1, 2)), video_of(model, 13, (1, 2))
    decoded, coded = model.decode(latents)[0], model.encode(video)[0]
    for sizes in ([1, 1, 2], [3, 1]):
        same(torch.cat(streamed(model.decode, latents, sizes), dim=2), decoded)
        chunks = [4 * n - 3 * (i == 0) for i, n in enumerate(sizes)]
        same(torch.cat(streamed(model.encode, video, chunks), dim=2), coded)
    torch.testing.assert_close(decoded, whole_decode(model, latents), atol=1e-4, rtol=0)
    torch.testing.assert_close(coded, whole_encode(model, video), atol=1e-4, rtol=0)


def test_streams_share_weights_and_nothing_else(model: WanAutoencoder):
    a, b = latents_of(model), latents_of(model, seed=1)
    expected = [whole_decode(model, a), whole_decode(model, b)]
    states: list = [None, None]
    parts: list[list[torch.Tensor]] = [[], []]
    for start in (0, 2, 4):
        for i, latents in enumerate((a, b)):
            part, states[i] = model.decode(latents[:, :, start : start + 2], states[i])
            parts[i].append(part)
        model.encode(video_of(model, 5))  # diffusers' own calls would forget both caches here
        model.vae.decode(latents_of(model, 2))
    for got, want in zip(parts, expected, strict=True):
        same(torch.cat(got, dim=2), want)
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_a_state_can_be_gone_on_with_twice(model: WanAutoencoder):
    for call, x, first in ((model.decode, latents_of(model), 2), (model.encode, video_of(model, 13), 5)):
        _, state = call(x[:, :, :first])
        kept = [x.clone() for cache in state.caches for x in cache if isinstance(x, torch.Tensor)]
        once, after = call(x[:, :, first:], state)
        again, _ = call(x[:, :, first:], state)
        same(once, again)
        assert after is not state
        for before, now in zip(kept, [x for c in state.caches for x in c if isinstance(x, torch.Tensor)], strict=True):
            same(before, now)


def test_nothing_grows_with_the_stream(model: WanAutoencoder):
    latents = latents_of(model, 1).requires_grad_()
    video, state = model.decode(latents)
    video, state = model.decode(latents, state)
    size = state.nbytes
    for _ in range(3):
        video, state = model.decode(latents, state)
        assert state.nbytes == size > 0
        assert not any(x.requires_grad for cache in state.caches for x in cache if isinstance(x, torch.Tensor))
    (gradient,) = torch.autograd.grad(video.sum(), latents)
    assert gradient.abs().max() > 0


def test_weights_may_be_bfloat16_but_the_normalisation_is_not(model: WanAutoencoder):
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half.vae.dtype == torch.bfloat16
    same(half.latents_mean, model.latents_mean)
    same(half.latents_std.flatten(), torch.tensor(model.config.latents_std))
    latents = latents_of(model, 2)
    video, state = half.decode(latents)
    assert video.dtype == torch.float32 and state.caches[0][0].dtype == torch.bfloat16  # type: ignore[union-attr]
    assert (video - model.decode(latents)[0]).abs().mean() < 0.05
    assert half.encode(video_of(model, 1).bfloat16())[0].dtype == torch.bfloat16


def test_what_cannot_be_coded_is_refused(model: WanAutoencoder):
    with pytest.raises(ValueError, match=r"10 frames cannot be encoded: 1 \+ 4k frames begin a stream"):
        model.encode(video_of(model, 10))
    _, state = model.encode(video_of(model, 1))
    for frames in (5, 0):
        with pytest.raises(ValueError, match=f"{frames} frames cannot be encoded: 4k frames go on"):
            model.encode(video_of(model, 5)[:, :, :frames], state)
    with pytest.raises(ValueError, match=r"multiples of (8|16) pixels"):
        model.encode(video_of(model, 1)[..., :-1])
    with pytest.raises(ValueError, match="1 channels and"):
        model.encode(video_of(model, 1)[:, :1])
    with pytest.raises(ValueError, match="latents of 4 channels"):
        model.decode(latents_of(model)[:, :4])
    with pytest.raises(ValueError, match="0 frames cannot be decoded"):
        model.decode(latents_of(model)[:, :, :0])
    with pytest.raises(ValueError, match=r"state is of the encoder .*state=None"):
        model.decode(latents_of(model, 1, (2, 3)), state)
    with pytest.raises(ValueError, match=r"\(2, 2, 3\) latent cells, the input of the encoder and \(1, 2, 3\)"):
        model.encode(video_of(model, 4)[:1], state)


# ---- tiles


@pytest.mark.parametrize("overlap", [0, 1, 4, 8])
def test_tiles_cover_the_frame_and_their_weights_are_one_in_all(overlap: int):
    for length in range(1, 60):
        spans = tile_spans(length, 16, overlap)
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert len({stop - start for start, stop in spans}) == 1 and spans[0][1] <= 16
        assert all(a[1] - b[0] >= overlap for a, b in itertools.pairwise(spans))
        total = torch.zeros(length * 8)
        for (start, stop), weight in zip(spans, blend_weights(spans, 8), strict=True):
            assert weight.min() >= 0
            total[start * 8 : stop * 8] += weight
        torch.testing.assert_close(total, torch.ones(length * 8))
    assert tile_spans(16, 16, 4) == tile_spans(16, None, 4) == ((0, 16),)
    assert tile_spans(17, 16, 4) == ((0, 11), (6, 17))


def test_overlaps_are_blended_linearly():
    spans = tile_spans(10, 6, 2)
    assert spans == ((0, 6), (4, 10))
    left, right = blend_weights(spans, 2)
    torch.testing.assert_close(left, torch.tensor([1.0] * 8 + [0.875, 0.625, 0.375, 0.125]))
    torch.testing.assert_close(right, left.flip(0))
    grid = TileGrid.of((10, 10), 6, 2)
    picture = torch.randn(1, 2, 3, 20, 20)
    torch.testing.assert_close(grid.join(list(grid.crops(picture, 2)), 2), picture)
    darker = [tile + i for i, tile in enumerate(grid.crops(torch.zeros(1, 1, 1, 20, 20), 2))]
    torch.testing.assert_close(grid.join(darker, 2)[0, 0, 0, 0, 8:12], torch.tensor([0.125, 0.375, 0.625, 0.875]))


@pytest.mark.parametrize("version", VERSIONS)
def test_tiles_as_large_as_the_frame_change_nothing(version: str):
    model = copy.copy(shared(version))
    latents, video = latents_of(model, 2), video_of(model, 5)
    plain = model.decode(latents)[0], model.encode(video)[0]
    model.tile, model.tile_overlap = 4, 2
    same(model.decode(latents)[0], plain[0])
    same(model.encode(video)[0], plain[1])
    model.tile, model.tile_overlap = 3, 1
    assert (model.decode(latents)[0] - plain[0]).abs().max() > 1e-3


def test_tiled_streams_equal_tiled_clips_and_each_tile_is_its_crop(model: WanAutoencoder):
    model.tile, model.tile_overlap = 4, 1
    latents, cell = latents_of(model, 4, (4, 7)), model.config.scale_factor_spatial
    whole, state = model.decode(latents)
    assert state.grid.columns == ((0, 4), (3, 7)) and len(state.caches) == 2
    same(torch.cat(streamed(model.decode, latents, [1, 3]), dim=2), whole)
    left, right = whole_decode(model, latents[..., :4]), whole_decode(model, latents[..., 3:])
    same(whole[..., : 3 * cell], left[..., : 3 * cell])
    same(whole[..., 4 * cell :], right[..., cell:])
    middle = 3 * cell + cell // 2  # half of each, but for half a pixel
    blend = (left[..., middle] * (cell / 2 - 0.5) + right[..., cell // 2] * (cell / 2 + 0.5)) / cell
    inside = (left[..., middle].abs() < 1) & (right[..., cell // 2].abs() < 1)  # clamped after blending
    assert inside.float().mean() > 0.4
    torch.testing.assert_close(whole[..., middle][inside], blend[inside])
    assert (left[..., middle] - right[..., cell // 2]).abs().max() > 0.1

    video = video_of(model, 9, (4, 7))
    coded, state = model.encode(video)
    assert coded.shape[2:] == (3, 4, 7) and len(state.caches) == 2
    same(torch.cat(streamed(model.encode, video, [1, 8]), dim=2), coded)
    torch.testing.assert_close(coded[..., :3], whole_encode(model, video[..., : 4 * cell])[..., :3])


def test_tiles_set_in_mid_stream_wait_for_the_next_stream(model: WanAutoencoder):
    latents = latents_of(model, 2, (3, 7))
    whole = whole_decode(model, latents)
    first, state = model.decode(latents[:, :, :1])
    model.tile, model.tile_overlap = 4, 1
    same(torch.cat([first, model.decode(latents[:, :, 1:], state)[0]], dim=2), whole)
    assert len(model.decode(latents)[1].caches) == 2
    for tile, overlap, setting in ((0, 0, r"autoencoder\.tile = 0"), (4, 3, r"tile_overlap = 3: .*tile / 2")):
        model.tile, model.tile_overlap = tile, overlap
        with pytest.raises(ValueError, match=setting):
            model.decode(latents)


# ---- files


def test_folders_go_both_ways_between_us_and_diffusers(model: WanAutoencoder, tmp_path: Path):
    latents = latents_of(model, 2)
    expected = model.decode(latents)[0]
    model.save(tmp_path / "ours")
    theirs = AutoencoderKLWan.from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    assert all(theirs.config[name] == value for name, value in diffusers_arguments(model.config).items())
    same(theirs.decode(latents * model.latents_std + model.latents_mean).sample, expected)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder, settings in (("ours", model.config), ("shards", None)):
        loaded = WanAutoencoder.load(tmp_path / folder, settings)
        assert loaded.config == model.config
        same(loaded.decode(latents)[0], expected)
        same(loaded.encode(video_of(model, 1))[0], model.encode(video_of(model, 1))[0])
    half = WanAutoencoder.load(tmp_path / "ours", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    same(half.latents_mean, model.latents_mean)
    assert all(name.startswith("vae.") for name in model.state_dict())
