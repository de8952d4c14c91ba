"""Loads, checks and writes pretrained encoders as transformers lays out folders: safetensors, config, tokenizer."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

Device = torch.device | str
WeightSource = Callable[[nn.Module, torch.dtype, Device], dict[str, Tensor]]
"""(model on the meta device, dtype, device) → its parameters by name."""
Canonical = Callable[[str], str | None]
"""Maps the names that versions of a library give one weight to a single name, those of unused weights to None."""


def optional_import(module: str, remedy: str = 'pip install -e ".[wan]"') -> Any:
    """Import an optional dependency; ValueError with the remedy if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"this model needs {module.partition('.')[0]} ({error}): {remedy}") from error


def assemble(skeleton: nn.Module, weights: Mapping[str, Tensor], device: Device) -> nn.Module:
    """Put ``weights`` into a transformers model built on the meta device; nothing is copied."""
    skeleton.load_state_dict(weights, strict=False, assign=True)
    for module in skeleton.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            assert name == "position_ids", f"no value is known for the buffer {name}"
            module.register_buffer(name, torch.arange(buffer.shape[-1], device=device)[None], persistent=False)
    assert not any(parameter.is_meta for parameter in skeleton.parameters())
    return skeleton.eval().requires_grad_(False)


def random_weights(skeleton: nn.Module, dtype: torch.dtype, device: Device, *, seed: int) -> dict[str, Tensor]:
    """Random weights that keep activations near unit size, drawn in ``dtype`` to avoid a second copy."""
    generator = torch.Generator(device).manual_seed(seed)
    weights = {}
    for name, parameter in skeleton.named_parameters():
        value = torch.empty(parameter.shape, dtype=dtype, device=device)
        if value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5, generator=generator)
        else:
            is_gain = "norm" in name and name.endswith("weight")
            value.normal_(mean=float(is_gain), std=0.1, generator=generator)
        weights[name] = value
    return weights


def folder_weights(
    skeleton: nn.Module, dtype: torch.dtype, device: Device, *, folder: Path, canonical: Canonical
) -> dict[str, Tensor]:
    """The weights in a folder that transformers' ``save_pretrained`` wrote; raises as ``check_folder`` does."""
    check_folder(skeleton, folder, canonical)
    names = {canonical(name): name for name, _ in skeleton.named_parameters()}
    weights = {}
    for path in _weight_files(folder):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                if (spelling := canonical(key)) is not None:
                    weights[names[spelling]] = file.get_tensor(key).to(device, dtype)
    return weights


def check_folder(skeleton: nn.Module, folder: Path, canonical: Canonical) -> None:
    """Compare names and shapes of a folder's safetensors files with a model on the meta device; reads headers only.

    Raises:
        ValueError: files missing, pickled, damaged, or of another model.
    """
    shapes: dict[str, Sequence[int]] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or half downloaded ({error}); download it again") from error
    check_shapes(skeleton, shapes, canonical, str(folder))


def check_shapes(skeleton: nn.Module, shapes: Mapping[str, Sequence[int]], canonical: Canonical, source: str) -> None:
    """ValueError if names or shapes differ from the model's; ``source`` names them in the message."""
    wanted = {canonical(name) or name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
    found = {spelling: tuple(shape) for key, shape in shapes.items() if (spelling := canonical(key)) is not None}
    kind = type(skeleton).__name__
    for trouble, names in (
        ("lacks", [name for name in wanted if name not in found]),
        ("has unknown", [name for name in found if name not in wanted]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{source} does not fit {kind}: it {trouble} {names[0]}{more}; give the whole encoder")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(f"{source} does not fit the config: {name} is {found[name]}, {shape} is needed")


def check_settings(folder: Path, wanted: Any, names: Sequence[str]) -> None:
    """ValueError if a folder's ``config.json`` exists and contradicts the transformers config in one of ``names``.

    For settings that shapes do not reveal, such as the number of heads or the activation.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        found = type(wanted).from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); download it again") from error
    for name in names:
        value, expected = getattr(found, name), getattr(wanted, name)
        if value != expected:
            raise ValueError(f"{path}: {name} = {value!r}, but the model needs {expected!r}: another encoder")


def load_tokenizer(folder: Path, vocab_size: int) -> Any:
    """The tokenizer in a folder. ValueError if there is none or it has more entries than the model's vocabulary."""
    try:
        tokenizer = optional_import("transformers").AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ValueError(f"{folder} holds no tokenizer that transformers can read: {_first_line(error)}") from error
    if len(tokenizer) > vocab_size:
        raise ValueError(f"the tokenizer in {folder} has {len(tokenizer)} entries, the text encoder {vocab_size}")
    return tokenizer


def existing_folder(folder: str | Path, what: str) -> Path:
    """``folder`` as a path; ValueError if it is not a folder. ``what`` names its content in the message."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}: give the folder of the {what}")
    return path


def write_folder(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a new folder, then move its files into ``folder``.

    Existing files may be memory-mapped as the weights in use, so they are replaced, never overwritten in place.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as new:
        write(Path(new))
        written = sorted(os.listdir(new))
        for name in written:
            os.replace(Path(new) / name, folder / name)
    for old in folder.glob("model*.safetensors*"):
        if old.name not in written:
            old.unlink()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        paths = sorted(folder.glob("*.safetensors"))
    else:
        try:
            paths = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{index} is damaged ({_first_line(error)}); download it again") from error
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} is missing: the folder is not whole; download it again")
    if not paths:
        pickled = [p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".pth", ".pt", ".ckpt")]
        found = f"only pickled weights ({pickled[0]}): see `motionstream convert`" if pickled else "no safetensors file"
        raise ValueError(f"{folder} has {found}")
    return paths
