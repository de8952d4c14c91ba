"""Writing weights. Reading them is tested in tests/model/test_checkpoints.py and tests/test_loading.py."""

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from motionstream.checkpoint_files import give_usual_mode, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(6.0).reshape(2, 3).T, "c": torch.ones(2).half()}


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_tensors_come_back(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"format": "pt"})
    found = load_file(path)
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert found["c"].dtype == torch.float16
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    write_tensors(str(path), {"a": torch.zeros(1)})
    assert load_file(path).keys() == {"a"} and os.listdir(tmp_path) == ["x.safetensors"]


def test_files_have_the_mode_of_new_ones(tmp_path, umask):
    write_tensors(tmp_path / "x.safetensors", TENSORS)
    assert mode(tmp_path / "x.safetensors") == 0o666 & ~umask
    (tmp_path / "other").touch()
    assert mode(tmp_path / "other") == mode(tmp_path / "x.safetensors")


def test_so_have_those_that_libraries_wrote(tmp_path, umask):
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / "secret.txt").touch(0o600)
    give_usual_mode(tmp_path)
    assert mode(tmp_path / "model-00001-of-00001.safetensors") == 0o666 & ~umask
    assert mode(tmp_path / "secret.txt") == 0o600 & ~umask and len(os.listdir(tmp_path)) == 2


@pytest.fixture
def small_files():
    """Files of more than a mebibyte cannot be written; the system says so as it says that a disk is full."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_failure_half_way_leaves_the_old_file(tmp_path, small_files):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    before = path.read_bytes()
    with pytest.raises(OSError, match="too large") as caught:
        write_tensors(path, {"a": torch.zeros(2**20)})
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.safetensors"]


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(tmp_path / "x.safetensors", {"a": shared, "b": shared})
    with pytest.raises(FileNotFoundError, match="none"):
        write_tensors(tmp_path / "none" / "x.safetensors", TENSORS)

    def broken(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "x.safetensors", TENSORS)
    assert not os.listdir(tmp_path)
