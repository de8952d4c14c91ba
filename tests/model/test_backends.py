"""Every attention backend against the definition, and which is taken when."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from motionstream.model import backends
from motionstream.model.backends import BACKENDS, Inputs, attention, available, choice, describe, use_backend

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
HERE = ("plain", "sdpa", "flex")


def inputs(head_dim: int = 16, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """(B, tokens, heads, dim), all four different, more keys than queries."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 3, head_dim), (2, 7, 3, head_dim), (2, 7, 3, head_dim))
    return [(2 * torch.randn(shape, generator=generator)).to(device, dtype) for shape in shapes]


def definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.einsum("blhd,bshd->bhls", query.double(), key.double()) / query.shape[-1] ** 0.5
    return torch.einsum("bhls,bshd->blhd", scores.softmax(-1), value.double()).to(query.dtype)


@pytest.fixture(autouse=True)
def automatic():
    """No test leaves its choice behind."""
    yield
    backends.set_backend("auto")


@pytest.fixture
def flash3(monkeypatch):
    """A stand-in for the package, with its layout: (B, tokens, heads, dim), half precision, nothing else needed."""
    calls = []

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False):
        assert q.shape[0::2] == k.shape[0::2] == v.shape[0::2] and q.shape[3] == k.shape[3] and k.shape == v.shape
        assert softmax_scale is None and not causal
        calls.append(tuple(q.shape))
        return definition(q, k, v)

    module = SimpleNamespace(flash_attn_func=flash_attn_func, calls=calls)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    backends._flash3_missing.cache_clear()
    yield module
    backends._flash3_missing.cache_clear()


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91600)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", HERE)
def test_backends_agree_with_the_definition(name):
    query, key, value = inputs()
    expected = definition(query, key, value)
    assert expected.std() > 0.5
    assert not torch.allclose(definition(key[:, :5], key, value), expected, atol=0.1)
    with use_backend(name):
        assert choice(CPU, torch.float32) == name
        torch.testing.assert_close(attention(query, key, value), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["plain", "sdpa", "auto"])
def test_gradients_agree_with_the_definition(name):
    tensors = [x.requires_grad_(True) for x in inputs()]
    weight = torch.randn(2, 5, 3, 16)
    expected = torch.autograd.grad((definition(*tensors) * weight).sum(), tensors)
    with use_backend(name):
        found = torch.autograd.grad((attention(*tensors) * weight).sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 0.1
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["plain", "sdpa", "cudnn", "flash3", "flex"])
def test_backends_agree_with_the_definition_on_cuda(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    reason = BACKENDS[name].obstacle(Inputs(CUDA, torch.bfloat16))
    if reason is not None:
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(0)
    # lengths of a chunk and its keys that are no multiple of 128
    shapes = ((1, 390, 4, 128), (1, 1170, 4, 128), (1, 1170, 4, 128))
    tensors = [torch.randn(s, generator=generator).to(CUDA, torch.bfloat16).requires_grad_(True) for s in shapes]
    exact = [x.detach().float().requires_grad_(True) for x in tensors]
    expected = definition(*exact)
    weight = torch.randn(expected.shape, generator=generator).to(CUDA)
    with use_backend(name):
        found = attention(*tensors)
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
        gradients = torch.autograd.grad((found.float() * weight).sum(), tensors)
    for a, b in zip(gradients, torch.autograd.grad((expected * weight).sum(), exact), strict=True):
        torch.testing.assert_close(a.float(), b, atol=0.05, rtol=0.05)


def test_flash3_gets_the_layout_it_wants(flash3):
    query, key, value = inputs(64)
    out = BACKENDS["flash3"].run(query, key, value)
    assert flash3.calls == [(2, 5, 3, 64)]
    torch.testing.assert_close(out, definition(query, key, value))
    flash3.flash_attn_func = lambda q, k, v: (definition(q, k, v), "log-sum-exp")
    torch.testing.assert_close(BACKENDS["flash3"].run(query, key, value), out)


def test_automatic_choice_on_the_cpu(monkeypatch):
    taken = []
    for name in HERE:
        backend = BACKENDS[name]

        def run(*tensors, backend=backend, name=name):
            taken.append(name)
            return backend.run(*tensors)

        monkeypatch.setitem(BACKENDS, name, backends.Backend(run, backend.obstacle, backend.summary))
    query, key, value = inputs()
    attention(query, key, value)
    attention(query, key, value.requires_grad_(True))
    with torch.no_grad():
        attention(query, key, value)
    assert taken == ["sdpa", "plain", "sdpa"]


def test_automatic_choice_on_a_gpu(flash3, hopper, monkeypatch):
    assert choice(CUDA, torch.bfloat16) == "flash3"
    assert choice(CUDA, torch.bfloat16, gradients=True) == "flash3"
    assert choice(CUDA, torch.float32) == "sdpa"
    assert choice(CUDA, torch.bfloat16, head_dim=512) == "sdpa"
    assert choice(CUDA, torch.bfloat16, head_dim=20) == "sdpa"
    assert available(CUDA, torch.bfloat16) == ["plain", "sdpa", "cudnn", "flash3", "flex"]
    assert available(CUDA, torch.float32) == ["plain", "sdpa", "flex"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    assert choice(CUDA, torch.bfloat16) == "sdpa"
    assert available(CUDA, torch.bfloat16) == ["plain", "sdpa", "cudnn", "flex"]
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    assert available(CUDA, torch.bfloat16) == ["plain", "sdpa", "flex"]
    assert available("mps", torch.float32) == ["plain", "sdpa"]


def test_flash3_that_cannot_be_imported_is_left_out(flash3, hopper, monkeypatch):
    monkeypatch.delattr(flash3, "flash_attn_func")
    assert choice(CUDA, torch.bfloat16) == "sdpa"
    assert "cannot be imported" in str(BACKENDS["flash3"].obstacle(Inputs(CUDA, torch.bfloat16)))


def test_a_choice_by_name_that_cannot_run_is_refused(flash3, monkeypatch):
    with pytest.raises(ValueError, match=r"no attention backend 'flash2'; known: auto, plain, sdpa"):
        backends.set_backend("flash2")
    for name in ("cudnn", "flash3"):
        with pytest.raises(ValueError, match=f"'{name}' cannot run: it needs an NVIDIA GPU, .*; here run auto, plain"):
            backends._resolve(name, CPU, torch.float32, 128, False)
    with use_backend("flex"), pytest.raises(ValueError, match="'flex' cannot run: it has no gradients on the CPU"):
        attention(*(x.requires_grad_(True) for x in inputs()))
    # leaves that could have a gradient, where none is asked for: flex itself would refuse
    with use_backend("flex"), torch.no_grad():
        attention(*(x.requires_grad_(True) for x in inputs()))
    # it may run on this machine's GPU, but not on what it is given
    monkeypatch.setattr(backends, "_usual", lambda: Inputs(CUDA, torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    with use_backend("flash3"), pytest.raises(ValueError, match=r"'flash3' cannot run: .* the device is cpu"):
        attention(*inputs())
    for wrong, match in (
        (Inputs(CUDA, torch.float32), "is float32"),
        (Inputs(CUDA, torch.bfloat16, 512), "these have 512"),
    ):
        assert match in str(BACKENDS["flash3"].obstacle(wrong))


def test_a_with_block_ends_its_choice():
    with use_backend("plain"):
        with use_backend("flex"):
            assert choice(CPU, torch.float32) == "flex"
        assert choice(CPU, torch.float32) == "plain"
        with pytest.raises(RuntimeError, match="on purpose"), use_backend("sdpa"):
            raise RuntimeError("on purpose")
        assert choice(CPU, torch.float32) == "plain"
    assert choice(CPU, torch.float32) == "sdpa"


def test_every_backend_has_a_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = describe()
    assert [line.split()[0] for line in lines] == list(BACKENDS)
    assert "not here: it needs an NVIDIA GPU" in lines[list(BACKENDS).index("cudnn")]
    assert [line.split()[0] for line in lines if "taken now, auto" in line] == ["sdpa"]
    with use_backend("plain"):
        assert "taken now, plain" in describe()[0]


def test_compiles_without_breaking_the_graph_and_follows_the_choice():
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    tensors = inputs()
    torch.testing.assert_close(compiled(*tensors), attention(*tensors), atol=0, rtol=0)
    with use_backend("plain"):
        exact = BACKENDS["plain"].run(*tensors)
        assert not torch.equal(exact, BACKENDS["sdpa"].run(*tensors)), "the two cannot be told apart here"
        torch.testing.assert_close(compiled(*tensors), exact, atol=0, rtol=0)
