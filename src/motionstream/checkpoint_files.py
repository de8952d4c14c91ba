"""Reads and writes tensors by name: a safetensors file, a folder with one, a folder of shards, or (only read) a pickle.

Tensors are memory-mapped rather than copied, so they take no memory until they are used. Every kind of incomplete
download has its own error message. Files are written whole or not at all.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import secrets
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]

INDEX = ".safetensors.index.json"
PICKLES = (".pth", ".pt", ".ckpt", ".bin")
POINTER = b"version https://git-lfs.github.com/spec/"


def read_state(path: str | Path, *, allow_pickle: bool = False) -> State:
    """All tensors of a checkpoint by name; nested dictionaries of a pickle become dotted names.

    Args:
        path: a .safetensors file, an index of shards, or a folder with either (its ``transformer/`` if it has one).
        allow_pickle: also accept .pth, .pt, .ckpt and .bin files. Only tensors and plain values are unpickled.

    Raises:
        ValueError: no weights, several candidates, an incomplete download, a damaged file, a pickle.
    """
    path = Path(path)
    if path.is_dir():
        path = _file_in(path / "transformer" if (path / "transformer").is_dir() else path)
    if path.name.endswith(INDEX):
        return _read_shards(path)
    return _read_file(path, allow_pickle)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file beside ``path``, then rename it, so that a failure keeps an older file.

    The file has the usual mode of new files (0666 minus the umask); ``save_file`` alone restricts it to the owner.
    Tensors are copied only if they are not contiguous or not on the CPU.

    Raises:
        OSError: it cannot be written (no such folder, no permission, a full disk).
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name[:32]}.{secrets.token_hex(4)}.tmp")
    try:
        mode = _touch(temporary)
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            if (code := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(target)) from error
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def give_usual_mode(folder: Path) -> None:
    """Give the .safetensors files in ``folder``, written by another library, the usual mode of new files."""
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    mode = _touch(probe)
    probe.unlink()
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)


def _touch(path: Path) -> int:
    """Create an empty file; returns its mode. (Reading the umask would require changing it for all threads.)"""
    path.touch(exist_ok=False)
    return stat.S_IMODE(path.stat().st_mode)


def _file_in(folder: Path) -> Path:
    """The single index, safetensors file or pickle in a folder, in this order of preference."""
    for candidates in (
        sorted(folder.glob(f"*{INDEX}")),
        sorted(folder.glob("*.safetensors")),
        sorted(file for file in folder.iterdir() if file.suffix in PICKLES),
    ):
        if len(candidates) == 1 and not _is_shard(candidates[0]):
            return candidates[0]
        if candidates and all(_is_shard(file) for file in candidates):
            raise ValueError(f"{folder} holds shards but no *{INDEX} that lists them: download the index, too")
        if candidates:
            names = ", ".join(file.name for file in candidates[:4])
            raise ValueError(f"{folder} holds {len(candidates)} weight files ({names} …): name the one that is meant")
    if unfinished := _unfinished(folder):
        raise ValueError(f"{folder} is not fully downloaded ({unfinished}): let the download finish")
    raise ValueError(f"{folder} holds no weights: give a .safetensors file or a folder with one")


def _is_shard(file: Path) -> bool:
    return re.search(r"-\d{5}-of-\d{5}\.", file.name) is not None


def _unfinished(folder: Path) -> str | None:
    """The name of an incomplete download in ``folder``, as the hub's clients leave them."""
    for place in (folder, folder / ".cache/huggingface/download"):
        for file in sorted(place.glob("*.incomplete")):
            return file.name
    return None


def _read_shards(index: Path) -> State:
    try:
        listed = dict(json.loads(index.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of shards ({_line(error)}): download it again") from error
    names = sorted(set(listed.values()))
    # an index is untrusted: it may only name files beside it
    strange = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if strange:
        raise ValueError(f"{index} names {strange[0]!r}: shards must lie beside their index")
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise ValueError(f"{index.parent} lacks {len(missing)} of {len(names)} shards ({missing[0]}): download them")
    state: State = {}
    for name in names:
        state |= _read_file(index.parent / name, allow_pickle=False)
    lost = sorted(set(listed) - set(state))
    if lost:
        raise ValueError(f"{index} lists {lost[0]!r} and {len(lost) - 1} more that no shard holds: download all anew")
    return state


def _read_file(file: Path, allow_pickle: bool) -> State:
    if not file.exists():
        reason = "is a link to nothing: download it again" if file.is_symlink() else "there is no such file or folder"
        raise ValueError(f"{file}: {reason}")
    if file.suffix == ".incomplete":
        raise ValueError(f"{file} is not fully downloaded: let the download finish")
    with file.open("rb") as opened:
        begin = opened.read(len(POINTER))
    if begin == POINTER:
        raise ValueError(f"{file} is a git-lfs pointer, not the weights: run git lfs pull in its folder")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or not fully downloaded ({_line(error)}): get it again") from error
    if file.suffix in PICKLES:
        if not allow_pickle:
            raise ValueError(f"{file} is a pickle, which is only read by motionstream convert: convert it first")
        return _read_pickle(file, zipped=begin.startswith(b"PK"))
    raise ValueError(f"{file}: weights are .safetensors files ({', '.join(PICKLES)} for motionstream convert)")


def _read_pickle(file: Path, *, zipped: bool) -> State:
    if zipped and not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is damaged or not fully downloaded (its end is missing): get it again")
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} is damaged or holds more than tensors, which is refused as unsafe") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{file} is damaged or not fully downloaded ({_line(error)}): get it again") from error
    state = _flatten(loaded)
    if not state:
        raise ValueError(f"{file} holds no tensors by name: it is no checkpoint")
    return state


def _flatten(value: Any, prefix: str = "") -> State:
    """Tensors of nested dictionaries by dotted name; all other values are ignored."""
    if isinstance(value, Tensor):
        return {prefix: value.detach()} if prefix else {}
    state: State = {}
    for key, inner in value.items() if isinstance(value, dict) else ():
        if isinstance(key, str):
            state |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return state


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
