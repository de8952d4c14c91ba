"""Cached streaming against its uncached twin, and what must never depend on the future."""

import pytest
import torch

from motionstream.config import CausalConfig
from motionstream.model import attention as contexts
from motionstream.model.attention import BlockCausal, Cached, attention, plain_attention
from motionstream.model.kv_cache import RollingKVCache
from motionstream.model.rope import apply_rope, axis_dims, rope_table
from motionstream.model.transformer import MotionTransformer

CHANNELS, HEIGHT, WIDTH = 4, 4, 6


@pytest.fixture(scope="module")
def transformer() -> MotionTransformer:
    generator = torch.Generator().manual_seed(0)
    model = MotionTransformer(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=8,
        freq_dim=32,
        ffn_dim=96,
        num_layers=2,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def stream(transformer, causal, clean, noisy, t, text):
    """The cached outputs of every chunk: a noisy pass, then the clean pass that writes the cache."""
    cache = RollingKVCache(causal, **transformer.cache_geometry(), batch=1, grid=(HEIGHT // 2, WIDTH // 2))
    outputs = []
    for x, noise in zip(clean, noisy, strict=True):
        outputs.append(transformer(noise, torch.tensor([t]), text, context=Cached(cache)))
        transformer(x, torch.tensor([0.0]), text, context=Cached(cache, write=True))
        cache.commit()
    return outputs


def twin(transformer, causal, clean, noisy, t, text, chunk, *, full_history=False):
    """No cache: all clean chunks at t = 0 and the current noisy one in a single forward."""
    frames = causal.chunk_frames
    x = torch.cat([*clean[:chunk], noisy[chunk]], dim=2)
    times = torch.zeros(1, x.shape[2])
    times[:, -frames:] = t
    out = transformer(x, times, text, context=BlockCausal(causal, full_history=full_history))
    return out[:, :, -frames:]


def chunks(causal, count, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, CHANNELS, causal.chunk_frames, HEIGHT, WIDTH)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("pattern", ["c1s0w1", "c3s0w1", "c3s1w1", "c3s2w3"])
@torch.no_grad()
def test_cached_equals_uncached_for_twenty_chunks(transformer, pattern):
    causal = CausalConfig.parse(pattern)
    clean, noisy = chunks(causal, 20, 1), chunks(causal, 20, 2)
    text = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(3))
    cached = stream(transformer, causal, clean, noisy, 0.7, text)
    young = causal.sink_chunks + causal.window_chunks
    for chunk, output in enumerate(cached):
        assert relative(output, twin(transformer, causal, clean, noisy, 0.7, text, chunk)) < 1e-5, chunk
        full = twin(transformer, causal, clean, noisy, 0.7, text, chunk, full_history=True)
        if chunk <= young:  # nothing has rolled out yet: the plain block-causal forward is the same
            assert relative(output, full) < 1e-5, chunk
        elif chunk > young + 1:
            assert relative(output, full) > 1e-4, "the window must have left something out"


@torch.no_grad()
def test_absolute_rope_sliding_window_equals_its_twin(transformer):
    causal = CausalConfig.parse("c3s0w2", rope="absolute")
    clean, noisy = chunks(causal, 8, 1), chunks(causal, 8, 2)
    text = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(3))
    for chunk, output in enumerate(stream(transformer, causal, clean, noisy, 0.4, text)):
        assert relative(output, twin(transformer, causal, clean, noisy, 0.4, text, chunk)) < 1e-5


@torch.no_grad()
def test_later_chunks_never_change_earlier_ones(transformer):
    causal = CausalConfig.parse("c3s1w1")
    x = torch.cat(chunks(causal, 4, 5), dim=2)
    text = torch.zeros(1, 5, 8)
    times = torch.full((1, 12), 0.5)
    before = transformer(x, times, text, context=BlockCausal(causal))
    x[:, :, 9:] += 3
    after = transformer(x, times, text, context=BlockCausal(causal))
    torch.testing.assert_close(before[:, :, :9], after[:, :, :9], atol=0, rtol=0)
    assert (before[:, :, 9:] - after[:, :, 9:]).abs().max() > 1e-2


def test_positions_stop_growing_with_slot_rope(transformer):
    causal = CausalConfig.parse("c3s1w1")
    cache = RollingKVCache(causal, **transformer.cache_geometry(), batch=1, grid=(2, 3))
    for _ in range(50):
        cache.commit()
    assert cache.current_positions == (6, 7, 8)
    assert cache.read(0)[2] == (0, 1, 2, 3, 4, 5)


def test_slots_fill_compactly_and_every_chunk_is_seen_once():
    causal = CausalConfig.parse("c3s2w3")
    assert [causal.slot(i) for i in range(8)] == [0, 1, 2, 3, 4, 5, 5, 5]
    for chunk in range(12):
        visible = causal.visible_chunks(chunk)
        places = [place for _, place in visible]
        assert places == list(range(len(places)))
        assert len({j for j, _ in visible}) == len(visible)
        assert visible[-1] == (chunk, causal.slot(chunk))


def test_cache_memory_never_grows(transformer):
    causal = CausalConfig.parse("c3s1w1")
    cache = RollingKVCache(causal, **transformer.cache_geometry(), batch=1, grid=(2, 3))
    size = cache.nbytes
    for _ in range(30):
        cache.commit()
    assert cache.nbytes == size and cache.chunks == 30


def test_rope_split_and_relative_property():
    assert axis_dims(128) == (44, 42, 42)
    x, y = torch.randn(2, 1, 6, 1, 24).unbind(0)
    scores = []
    for start in (0, 5):
        rope = rope_table(24, (start,), 2, 3, torch.device("cpu"))
        scores.append(apply_rope(x, rope).flatten(1) @ apply_rope(y, rope).flatten(1).T)
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


def test_attention_backends_agree():
    q, k, v = torch.randn(3, 2, 7, 2, 8).unbind(0)
    expected = plain_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(attention(q, k, v), expected)
    torch.testing.assert_close(attention(q.requires_grad_(), k, v), expected)


@torch.no_grad()
def test_mixed_precision_attends_in_one_precision(transformer, monkeypatch):
    """Weights, and so the cache, are float32; backends for half precision take no mixture."""
    seen = []

    def spy(query, key, value):
        seen.append((query.dtype, key.dtype, value.dtype))
        return attention(query, key, value)

    monkeypatch.setattr(contexts, "attention", spy)
    causal = CausalConfig.parse("c1s1w1")
    text = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        stream(transformer, causal, chunks(causal, 3, 1), chunks(causal, 3, 2), 0.7, text)
    assert len(seen) == 3 * 2 * 2 and set(seen) == {(torch.bfloat16,) * 3}
