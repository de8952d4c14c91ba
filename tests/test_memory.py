"""The estimate against what torch's profiler sees allocated on the CPU, and the arithmetic around it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.component_config import UMT5Config
from motionstream.config import CausalConfig, ModelConfig
from motionstream.memory import budget as budgets
from motionstream.memory import check_fits, estimate, fitting, machine_memory, remedy, switches_text
from motionstream.memory.live_bytes import nbytes, peak_of, weights_of
from motionstream.memory.machine import processor_memory
from motionstream.model.attention import Cached
from motionstream.model.motion_model import MotionModel
from motionstream.model.precision import cast_with_islands
from motionstream.presets import preset

KIB, GIB = 2**10, 2**30
SLACK = 128 * KIB
"""Buffers of a fixed size that the CPU's attention takes for its threads."""


def allocated(run: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator hands out during ``run``: independent of our own counting."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def assert_near(estimated: int, measured: int) -> None:
    assert measured > 4 * SLACK, "too small to tell"
    assert measured - SLACK <= estimated <= 1.5 * measured


def wider(config: ModelConfig, size: tuple[int, int], dtype: str) -> ModelConfig:
    """A debug model as wide as it takes to outweigh fixed buffers."""
    transformer = replace(config.transformer, num_attention_heads=4, attention_head_dim=64, ffn_dim=1024)
    if transformer.image_dim is not None:
        transformer = replace(transformer, added_kv_proj_dim=256)
    return replace(config, size=size, sizes=(), dtype=dtype, transformer=transformer)


@pytest.mark.parametrize(("name", "size"), [("wan2.1-debug", (64, 96)), ("wan2.1-debug", (128, 192))])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_transformer_needs_what_is_estimated(name: str, size: tuple[int, int], dtype: str) -> None:
    config = wider(preset(name), size, dtype)
    model = MotionModel(config).requires_grad_(False)
    cast_with_islands(model, getattr(torch, dtype))
    cache = model.make_cache(1, config.latent_size)
    cache.chunks = 3
    noisy, t, conditions = budgets.transformer_input(config, 1)
    inputs = [noisy, t, conditions.text, conditions.channels, conditions.image]
    assert all(isinstance(x, Tensor) for x in inputs)
    for x in inputs:
        x.normal_()
    model(noisy, t, conditions, Cached(cache))  # rope tables are made once
    estimated = estimate(config)
    measured = allocated(lambda: model(noisy, t, conditions, Cached(cache))) + nbytes(inputs)
    assert_near(estimated.moments["generating"], measured)
    assert estimated.moments["writing the cache"] == allocated(cache.commit)
    assert estimated.resident["key-value cache"] == cache.nbytes
    assert estimated.resident["transformer"] == weights_of(model.transformer)
    assert estimated.resident["conditioning"] == weights_of(model.track_head)


def decoder(config: ModelConfig, kind: str, dtype: str) -> WanAutoencoder | TinyAutoencoder:
    if kind == "tiny":
        assert config.tiny_decoder is not None
        built: WanAutoencoder | TinyAutoencoder = TinyAutoencoder(config.tiny_decoder)
    else:
        built = WanAutoencoder(config.autoencoder)
    return built.to(getattr(torch, dtype)).eval().requires_grad_(False)


# A batch of two: alone, small float32 pictures take a convolution that unfolds them, which large ones never do.
@pytest.mark.parametrize("name", ["wan2.1-debug", "wan2.2-debug"])
@pytest.mark.parametrize(
    ("kind", "dtype", "scale"),
    [
        ("full", "float32", 1),
        pytest.param("full", "bfloat16", 1, marks=pytest.mark.bfloat16),
        pytest.param("full", "bfloat16", 2, marks=pytest.mark.bfloat16),
        pytest.param("tiny", "bfloat16", 1, marks=pytest.mark.bfloat16),
        ("tiny", "float32", 2),
    ],
)
def test_decoders_need_what_is_estimated(name: str, kind: str, dtype: str, scale: int) -> None:
    config = preset(name)
    config = replace(config, size=(scale * config.size[0], scale * config.size[1]), sizes=(), dtype=dtype)
    autoencoder = decoder(config, kind, dtype)
    latents = torch.randn(2, config.latent_channels, 3, *config.latent_size)
    _, state = autoencoder.decode(latents)
    estimated = estimate(config, decoder=kind, batch=2)
    kept: list[object] = []
    measured = allocated(lambda: kept.append(autoencoder.decode(latents, state)[1])) + latents.nbytes
    assert_near(estimated.moments["decoding"], measured)
    if isinstance(autoencoder, WanAutoencoder):
        assert estimated.resident["state of the decoder"] == state.nbytes
        assert estimated.resident["autoencoder"] == pytest.approx(weights_of(autoencoder), rel=1e-3)
        picture = torch.randn(2, 3, 1, *config.size)
        measured = allocated(lambda: autoencoder.encode(picture)) + picture.nbytes
        assert_near(estimated.moments["encoding the picture"], measured)


@pytest.mark.bfloat16
def test_tiles_need_what_is_estimated() -> None:
    config = replace(preset("wan2.1-debug"), size=(128, 192), sizes=(), dtype="bfloat16")
    autoencoder = decoder(config, "full", "bfloat16")
    assert isinstance(autoencoder, WanAutoencoder)
    autoencoder.tile = 12
    latents = torch.randn(2, 16, 3, *config.latent_size)
    _, state = autoencoder.decode(latents)
    assert len(state.grid) == 6
    estimated, whole = estimate(config, tile=12, batch=2), estimate(config, batch=2)
    assert estimated.resident["state of the decoder"] == state.nbytes
    kept: list[object] = []
    measured = allocated(lambda: kept.append(autoencoder.decode(latents, state)[1])) + latents.nbytes
    assert_near(estimated.moments["decoding"], measured)
    assert estimated.resident["state of the decoder"] > whole.resident["state of the decoder"]  # overlaps


def test_decoding_grows_with_the_pixels() -> None:
    config = preset("wan2.1-debug").autoencoder
    sizes = [(8, 12), (16, 24), (32, 48)]
    needed = [budgets._decoding(config, (1, 16, 3, *size), "bfloat16")["activations"] for size in sizes]
    first, second = (large - small for small, large in pairwise(needed))
    assert second == pytest.approx(4 * first, rel=5e-3)  # the weights of one layer do not grow
    assert needed[0] == pytest.approx(first / 3, rel=0.05)


def test_the_counter_counts() -> None:
    def run() -> Tensor:
        a = torch.ones(1000)  # 4000 bytes
        b = a.double()  # + 8000
        del a
        view = b[::2]  # nothing
        view.add_(1)  # nothing
        return view.exp()  # + 4000

    assert peak_of(run) == 12_000
    weight, x = torch.empty(4, 2, 3, 3, device="meta"), torch.empty(1, 2, 8, 8, device="meta")
    out = 4 * 4 * 6 * 6
    assert peak_of(lambda: torch.conv2d(x, weight)) == 2 * out + x.nbytes + weight.nbytes  # the operands laid out anew


def test_attention_keeps_no_scores() -> None:
    def attend(tokens: int) -> int:
        q = torch.empty(1, 2, tokens, 16, device="meta")
        return peak_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))

    assert attend(4096) == 4 * 4096 * 2 * 16 * 4


def test_known_models_are_counted() -> None:
    found = estimate(preset("wan2.1-1.3b"))
    # 1,564,428,608 of Fun-1.3B-InP with 48 input channels in place of 36; some of them in float32
    count = 1_564_502_336
    assert 2 * count < found.resident["transformer"] < 2.03 * count
    tokens, width = 4680, 1536
    assert found.resident["key-value cache"] == 30 * tokens * width * 2 * (2 * 2 + 1 + 2)
    text = budgets._encoder(UMT5Config(), 4096, "bfloat16", False)[0]
    assert text == 2 * 5_680_910_336
    eight_bits = budgets._encoder(UMT5Config(), 4096, "bfloat16", True)[0]
    embeddings = 256_384 * 4096
    assert eight_bits == pytest.approx(2 * embeddings + 5_680_910_336 - embeddings, rel=1e-3)
    assert estimate(preset("wan2.2-5b")).resident["autoencoder"] > 2 * 555_049_228


def test_switches_do_what_they_say() -> None:
    config = replace(preset("wan2.1-debug"), transformer=replace(preset("wan2.1-debug").transformer, num_layers=6))
    plain = estimate(config)
    assert "running the text encoder" in plain.moments and plain.resident["text encoder"] == 0
    resident = estimate(config, text_encoder="resident")
    gone = plain.moments["running the text encoder"] - resident.moments["running the text encoder"]
    assert resident.resident["text encoder"] == gone > 0
    assert "running the text encoder" not in estimate(config, text_encoder="cpu").moments
    assert "running the text encoder" in estimate(config, text_encoder="cpu", device="cpu").moments
    offloaded = estimate(config, offload_blocks=True)
    parts = budgets._transformer_parts(budgets._bare(config), 1)
    assert plain.resident["transformer"] - offloaded.resident["transformer"] == 4 * parts["block"] > 0
    assert estimate(config, offload_blocks=True, device="cpu").resident["transformer"] == plain.resident["transformer"]
    assert estimate(config, size=(96, 64)).peak == estimate(config, size=(64, 96)).peak
    wide = estimate(config, causal=CausalConfig.parse("c3s1w2"))
    ratio = wide.resident["key-value cache"] / plain.resident["key-value cache"]
    assert ratio == (2 * 3 + 2 + 2) / (2 * 2 + 1 + 2)
    twice = estimate(config, batch=2)
    assert twice.resident["key-value cache"] == 2 * plain.resident["key-value cache"]
    tiny = estimate(config, decoder="tiny")
    assert tiny.moments["decoding"] < plain.moments["decoding"] and tiny.resident["tiny decoder"] > 0
    assert plain.peak == sum(plain.resident.values()) + max(plain.moments.values())


def test_models_without_a_part_are_refused() -> None:
    with pytest.raises(ValueError, match="'nano' has no tiny decoder"):
        estimate(replace(preset("nano"), tiny_decoder=None), decoder="tiny")
    with pytest.raises(ValueError, match="has no autoencoder"):
        estimate(replace(preset("wan2.1-debug"), autoencoder=None, tiny_decoder=None))
    with pytest.raises(ValueError, match="size"):
        estimate(preset("wan2.1-debug"), size=(60, 96))


def test_a_second_estimate_measures_nothing() -> None:
    config = preset("wan2.1-debug")
    first = estimate(config)
    before = [f.cache_info().misses for f in (budgets._transformer_parts, budgets._decoding, budgets._encoding)]
    assert estimate(config) == first
    after = [f.cache_info().misses for f in (budgets._transformer_parts, budgets._decoding, budgets._encoding)]
    assert after == before


@pytest.fixture
def small_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """No overhead, which would hide a debug model, and as much memory as asked for."""
    monkeypatch.setattr(budgets, "OVERHEAD", {"cuda": 0, "cpu": 0})

    def have(free: int) -> None:
        monkeypatch.setattr(fitting, "machine_memory", lambda device: (2 * free, free))

    return have


def test_what_fits_is_let_through_and_the_rest_told_how(small_card: Callable[[int], None]) -> None:
    config = preset("wan2.1-debug")
    plain = estimate(config)
    small_card(plain.peak)
    assert check_fits(config, "cuda:0") == plain
    small_card(plain.peak - 1)
    with pytest.raises(ValueError) as error:
        check_fits(config, "cuda:0")
    message = str(error.value)
    assert "wan2.1-debug at 96x64 needs" in message and "on cuda:0" in message and "it fits with --" in message
    small_card(1000)
    with pytest.raises(ValueError, match="take a smaller model"):
        check_fits(config, "cuda:0")


def test_remedies_come_mildest_first_and_suffice(small_card: Callable[[int], None]) -> None:
    transformer = replace(preset("wan2.1-debug").transformer, num_layers=8)
    config = replace(preset("wan2.1-debug"), size=(256, 384), sizes=(), transformer=transformer)
    seen = []
    for free in range(estimate(config).peak, 100_000, -400_000):
        found = remedy(config, free, "cuda")
        if found is None:
            break
        assert estimate(config, **found).peak <= free
        for name in found:
            assert estimate(config, **{k: v for k, v in found.items() if k != name}).peak > free, "nothing to spare"
        if switches_text(found) not in seen:
            seen.append(switches_text(found))
    assert seen[0] == "" and seen[1] == "--decoder tiny"
    assert any("--offload-blocks" in text for text in seen) and "--size 192x128" in seen[-1]
    assert all("cpu" not in remedy_of for remedy_of in (switches_text(remedy(config, 10 * GIB, "cpu") or {}),))


def test_tiles_that_cost_more_than_they_save_are_not_advised() -> None:
    config = preset("wan2.1-1.3b")
    small, large, none = (estimate(config, tile=tile, text_encoder="cpu") for tile in (16, 32, None))
    assert small.peak > none.peak > large.peak
    found = remedy(config, estimate(config, decoder="tiny", text_encoder="cpu").peak, "cuda")
    assert found == {"decoder": "tiny", "text_encoder": "cpu"}


def test_the_processors_memory_is_read(tmp_path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 2000 kB\nMemFree: 10 kB\nMemAvailable: 1500 kB\n")
    assert processor_memory(tmp_path) == (2000 * KIB, 1500 * KIB)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    files = {"memory.max": "max", "memory.current": f"{300 * KIB}", "memory.stat": f"anon 5\ninactive_file {100 * KIB}"}
    for name, text in files.items():
        (group / name).write_text(text + "\n")
    assert processor_memory(tmp_path) == (2000 * KIB, 1500 * KIB)
    (group / "memory.max").write_text(f"{1000 * KIB}\n")
    assert processor_memory(tmp_path) == (1000 * KIB, 800 * KIB)
    (group / "memory.current").write_text(f"{9000 * KIB}\n")
    assert processor_memory(tmp_path) == (1000 * KIB, 0)
    total, free = processor_memory(tmp_path / "nothing")
    assert total == free > 0
    total, free = machine_memory("cpu")
    assert total >= free > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_needs_what_is_estimated(dtype: str) -> None:
    config = wider(preset("wan2.1-debug"), (256, 384), dtype)
    model = MotionModel(config).requires_grad_(False)
    cast_with_islands(model, getattr(torch, dtype))
    model.cuda()
    autoencoder = decoder(config, "full", dtype).cuda()
    cache = model.make_cache(1, config.latent_size)
    cache.chunks = 3
    with torch.device("cuda"), torch.no_grad():
        inputs = budgets.transformer_input(config, 1)
        latents = torch.randn(1, 16, 3, *config.latent_size)
        _, state = autoencoder.decode(latents)
        model(*inputs, Cached(cache))
        estimated = estimate(config).moments
        for name, run in (
            ("generating", lambda: model(*inputs, Cached(cache))),
            ("writing the cache", cache.commit),
            ("decoding", lambda: autoencoder.decode(latents, state)),
        ):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            measured = torch.cuda.max_memory_allocated() - before
            # cuDNN's workspaces are OVERHEAD's; what is checked is that they stay within it
            assert measured <= estimated[name] + budgets.OVERHEAD["cuda"] // 2
