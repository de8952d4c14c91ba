"""Loads Wan transformers from diffusers, official, VideoX-Fun and causal-student checkpoints, and our own folders.

Weights that both models have are copied. Parts that the checkpoint lacks begin with zero output, so that the model
computes what its base did; see ``fit_inputs`` and ``_fresh_image_branch``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from motionstream.checkpoint_files import State, read_state
from motionstream.config import ModelConfig
from motionstream.model.key_maps import (
    KINDS,
    LAYOUTS,
    TRANSFORMERS,
    Layout,
    Recognised,
    groups,
    guess_preset,
    is_image_branch,
    recognise,
    strip_prefixes,
    to_diffusers,
    unwrapped,
)
from motionstream.model.precision import cast_with_islands
from motionstream.model.transformer import MotionTransformer

DROPPED_PARTS = ("ref_conv", "control_adapter")
"""Unsupported parts of VideoX-Fun's control models: the branches for a reference picture and for a camera."""

STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class LoadReport:
    """The outcome of loading a checkpoint.

    ``fresh`` and ``dropped`` describe the model's newly initialised parts and the file's unused parts. ``track_head``:
    whether the model already follows tracks, true only for our own folders.
    """

    path: Path
    source: Recognised
    fresh: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def track_head(self) -> bool:
        return self.source.kind == "motionstream"

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.source.describe()}"]
        lines += [f"  fresh: {part}" for part in self.fresh]
        lines += [f"  left out: {part}" for part in self.dropped]
        return "\n".join(lines)


def load_transformer(
    path: str | Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    allow_pickle: bool = False,
) -> tuple[MotionTransformer, LoadReport]:
    """Load any Wan transformer as the one of ``config``.

    The model is built on the meta device and takes over the file's tensors, so it never exists twice in memory.

    Args:
        path: a file or folder (see ``read_state``), with diffusers' or the official names.
        config: the model to build; its sizes must be the checkpoint's.
        dtype: of the weights; some parts stay in float32 (``precision.ISLANDS``). None keeps the file's, memory-mapped.
        device: of the weights.
        allow_pickle: see ``read_state``.

    Raises:
        ValueError: the file is unreadable, no Wan transformer, of another size, or lacks names.
    """
    path = Path(path)
    own = own_config(path)
    raw = read_state(path, allow_pickle=allow_pickle)
    found = recognise(raw)
    if own is not None and found.kind == "diffusers":
        found = replace(found, kind="motionstream", layout=own.inputs)
    inner, prefix = strip_prefixes(raw)
    _check_size(found, config, path, raw)
    with torch.device("meta"):
        model = MotionTransformer(**asdict(config.transformer))
    expected = {name: value.shape for name, value in model.state_dict().items()}
    state, fresh, dropped = _adapted(to_diffusers(inner), found, config, expected)
    others = groups(name for name in map(unwrapped, raw) if not name.startswith(prefix))
    dropped += [f"{name} ({count} tensors)" for name, count in others.items()]
    _check_names(state, expected, path, found)
    model.load_state_dict(state, assign=True)
    if dtype is not None:
        cast_with_islands(model, dtype)
    model = model.to(device)
    if dtype is not None:
        _let_go(model, state)
    return model.eval(), LoadReport(path, found, tuple(fresh), tuple(dropped))


def _adapted(
    state: State, found: Recognised, config: ModelConfig, expected: Mapping[str, torch.Size]
) -> tuple[State, list[str], list[str]]:
    """``state`` with the input channels and branches of ``config``'s model; the fresh parts; the dropped parts."""
    assert found.layout is not None, "_check_size refuses unknown layouts"
    patch = "patch_embedding.weight"
    state = state | {patch: fit_inputs(state[patch], found.layout, config.inputs)}
    fresh = [f"input channels '{name}' ({width}), at zero" for name, width in _lacking(config.inputs, found.layout)]
    dropped = [f"input channels '{name}' ({width})" for name, width in _lacking(found.layout, config.inputs)]
    unneeded = {name for name in state if name.partition(".")[0] in DROPPED_PARTS}
    dropped += [f"{name} ({count} tensors)" for name, count in groups(unneeded).items()]
    branch = {name for name in state if is_image_branch(name)}
    wanted = any(is_image_branch(name) for name in expected)
    if wanted and not branch:
        state |= _fresh_image_branch(expected, state[patch].dtype)
        fresh.append("image branch, its output at zero")
    if branch and not wanted:
        dropped.append(f"image branch ({len(branch)} tensors)")
        unneeded |= branch
    return {name: value for name, value in state.items() if name not in unneeded}, fresh, dropped


def _let_go(model: nn.Module, state: State) -> None:
    """Copy parameters that needed no cast: a single tensor backed by the file would keep all of it mapped."""
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() == state[name].data_ptr():
            parameter.data = parameter.data.clone()


def own_config(path: str | Path) -> ModelConfig | None:
    """The config if ``path`` is a MotionStream folder, its transformer folder or a file in that; otherwise None."""
    path = Path(path)
    inside = [folder.parent for folder in (path, path.parent) if folder.name == "transformer"]
    for folder in (path, *inside):
        file = folder / "model.json"
        if file.is_file():
            try:
                return ModelConfig.from_dict(json.loads(file.read_text())["config"])
            except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{file} is damaged ({type(error).__name__}: {error})") from error
    return None


def fit_inputs(weight: Tensor, source: Layout, target: Layout) -> Tensor:
    """Rearrange the patch embedding's weight (width, C, 1, 2, 2) from the input channels of ``source`` to ``target``.

    Slices of the same name are copied. New slices are zero, so the model begins as its base, whatever the new channels
    contain. They still learn: a slice's gradient is the product of its input and the backward signal, neither of them
    zero, and once the slice has changed, the track head before it gets gradients, too.
    """
    total = sum(width for _, width in source)
    if weight.shape[1] != total:
        raise ValueError(f"the patch embedding takes {weight.shape[1]} channels, its layout names {total}")
    parts = dict(zip((name for name, _ in source), weight.split([width for _, width in source], dim=1), strict=True))
    pieces = []
    for name, width in target:
        piece = parts.get(name)
        if piece is None:
            piece = weight.new_zeros(weight.shape[0], width, *weight.shape[2:])
        if piece.shape[1] != width:
            raise ValueError(f"input channels {name!r}: the checkpoint has {piece.shape[1]}, the model takes {width}")
        pieces.append(piece)
    return torch.cat(pieces, dim=1)


def _lacking(layout: Layout, other: Layout) -> Layout:
    names = {name for name, _ in other}
    return tuple((name, width) for name, width in layout if name not in names)


def _fresh_image_branch(expected: Mapping[str, torch.Size], dtype: torch.dtype) -> State:
    """An image branch initialised as in the official code, except for ``add_v_proj``: zero, so that its output is zero.

    In the first step only ``add_v_proj`` gets gradients, from the second on everything before it does.
    """
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in expected.items():
        if not is_image_branch(name):
            continue
        value = torch.zeros(shape)
        if name.endswith(".weight") and len(shape) == 1:
            nn.init.ones_(value)
        elif name.endswith(".weight") and "add_v_proj" not in name:
            nn.init.xavier_uniform_(value, generator=generator)
        state[name] = value.to(dtype)
    return state


def _check_size(found: Recognised, config: ModelConfig, path: Path, state: State) -> None:
    """Refuse anything but a transformer of these sizes; the message says what the file is and which preset it fits."""
    if found.kind not in TRANSFORMERS:
        raise ValueError(f"{path} looks like {found.describe()} (names such as {_some(state)}); give a Wan transformer")
    if found.in_channels == 0:
        raise ValueError(f"{path} looks like {KINDS[found.kind]} but lacks patch_embedding or proj_out (head.head)")
    ours = config.transformer
    sizes = (found.width, found.layers, found.out_channels)
    if sizes != (ours.width, ours.num_layers, ours.out_channels):
        name = guess_preset(found)
        remedy = f"it would fit the preset {name!r}" if name else "no preset has these sizes"
        raise ValueError(
            f"{path} is {found.describe()}; {config.name!r} has width {ours.width}, {ours.num_layers} layers and "
            f"{ours.out_channels} output channels: {remedy}"
        )
    if found.layout is None:
        known = ", ".join(str(inputs) for outputs, inputs in sorted(LAYOUTS) if outputs == found.out_channels)
        raise ValueError(
            f"{path} is {found.describe()}: the meaning of its input channels is only known for {known} channels, or "
            "from the model.json of a MotionStream folder"
        )


def _check_names(state: State, expected: Mapping[str, torch.Size], path: Path, found: Recognised) -> None:
    """Refuse missing or unknown names, wrong shapes and tensors that are not plain floating-point."""
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(unknown)}"] * bool(unknown)
    wrong = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    problems += [f"{'; '.join(wrong[:2])} ({len(wrong)} of other shapes)"] * bool(wrong)
    stored = {str(value.dtype).removeprefix("torch.") for value in state.values() if value.dtype not in STORED}
    problems += [f"is stored as {', '.join(sorted(stored))}: give the 16- or 32-bit file"] * bool(stored)
    if problems:
        fits = guess_preset(found)
        raise ValueError(
            f"{path} looks like {found.describe()}, of the sizes of {fits!r}, but {' and '.join(problems)}"
        )


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
