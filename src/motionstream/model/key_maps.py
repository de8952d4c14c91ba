"""Parameter names of Wan's transformer, official ⇄ diffusers, and recognition of checkpoints by names and shapes.

The official names are those of ``wan/modules/model.py`` (Wan2.1, Wan2.2); VideoX-Fun and Self-Forcing use them, too.
Ours are diffusers'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
Layout = tuple[tuple[str, int], ...]
"""Names and widths of the slices of the transformer's input channels, in order."""

_CONDITIONS = {
    "time_embedding.0": "time_embedder.linear_1",
    "time_embedding.2": "time_embedder.linear_2",
    "time_projection.1": "time_proj",
    "text_embedding.0": "text_embedder.linear_1",
    "text_embedding.2": "text_embedder.linear_2",
    "img_emb.proj.0": "image_embedder.norm1",
    "img_emb.proj.1": "image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "image_embedder.ff.net.2",
    "img_emb.proj.4": "image_embedder.norm2",
}
TOP = {
    "patch_embedding": "patch_embedding",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    **{official: f"condition_embedder.{name}" for official, name in _CONDITIONS.items()},
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
BLOCK = {
    "modulation": "scale_shift_table",
    # diffusers numbers the norms in the order of their use; the official norm3 is the affine one of cross-attention
    "norm3": "norm2",
    "norm2": "norm3",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{official}": f"attn1.{name}" for official, name in _ATTENTION.items()},
    **{f"cross_attn.{official}": f"attn2.{name}" for official, name in (_ATTENTION | _IMAGE).items()},
}

OFFICIAL_MARK = "time_embedding.0.weight"
DIFFUSERS_MARK = "condition_embedder.time_embedder.linear_1.weight"
"""Every transformer has one of the two; the text before it is the whole model's prefix."""
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
PREFERRED = ("generator_ema", "generator", "ema")
"""Prefixes by preference if a file holds several models: Self-Forcing's inference uses the student's EMA."""

LAYOUTS: dict[tuple[int, int], Layout] = {
    (16, 16): (("noise", 16),),
    (16, 36): (("noise", 16), ("mask", 4), ("image", 16)),
    (16, 48): (("noise", 16), ("control", 16), ("image", 16)),
    (48, 48): (("noise", 48),),
    (48, 148): (("noise", 48), ("control", 48), ("mask", 4), ("masked video", 48)),
}
"""Input layouts of others' checkpoints by (output, input) channels."""

PRESETS = {
    (1536, 30, 16): "wan2.1-1.3b",
    (5120, 40, 16): "wan2.1-14b",
    (3072, 30, 48): "wan2.2-5b",
    (48, 2, 16): "wan2.1-debug",
    (48, 2, 48): "wan2.2-debug",
}
"""Presets by (width, layers, output channels)."""

KINDS = {
    "motionstream": "a MotionStream transformer",
    "diffusers": "a Wan transformer with diffusers' names",
    "official": "an official Wan transformer",
    "control": "a VideoX-Fun control transformer",
    "student": "a causal student with official names",
    "lora": "a LoRA, which has no model of its own",
    "taehv": "a tiny autoencoder (TAEHV)",
    "vae": "a video autoencoder",
    "umt5": "a UMT5 text encoder",
    "clip": "a CLIP encoder",
    "unknown": "no model known here",
}
TRANSFORMERS = ("motionstream", "diffusers", "official", "control", "student")

# The first pattern that matches any name decides.
_OTHER_KINDS = {
    "lora": r"\blora_|\.lora\.|\.hada_",
    "taehv": r"^(encoder|decoder)\.\d+\.conv\.\d+\.weight$",
    "vae": r"^(model\.)?decoder\.(conv_in|conv1|middle|mid_block|upsamples)\.",
    "umt5": r"^(encoder\.)?(blocks\.\d+\.pos_embedding|block\.\d+\.layer\.0\.SelfAttention)\.",
    "clip": r"^(visual|textual|vision_model|text_model)\.",
}


@dataclass(frozen=True)
class Recognised:
    """A checkpoint's kind and sizes. ``kind`` is one of ``KINDS``; the numbers are 0 unless it is a transformer.

    ``layout`` is None if the order of the input channels is unknown. ``extras`` names groups of tensors that no Wan
    transformer has. ``prefix`` is the common prefix of the transformer's names.
    """

    kind: str
    width: int = 0
    layers: int = 0
    in_channels: int = 0
    out_channels: int = 0
    layout: Layout | None = None
    has_image_branch: bool = False
    extras: tuple[str, ...] = ()
    prefix: str = ""

    def describe(self) -> str:
        """A description for messages."""
        if self.kind not in TRANSFORMERS:
            return KINDS[self.kind]
        branch = "with" if self.has_image_branch else "without"
        order = " = " + " | ".join(f"{name} {width}" for name, width in self.layout) if self.layout else ""
        return (
            f"{KINDS[self.kind]} (width {self.width}, {self.layers} layers, {self.in_channels} input channels{order}, "
            f"{self.out_channels} output channels, {branch} image branch)"
        )


def _renamed(key: str, top: dict[str, str], block: dict[str, str]) -> str:
    match = re.fullmatch(r"(blocks\.\d+\.)(.+)", key)
    prefix, name = match.groups() if match else ("", key)
    table = block if match else top
    if name in table:
        return prefix + table[name]
    stem, _, leaf = name.rpartition(".")
    return f"{prefix}{table[stem]}.{leaf}" if stem in table else key


def _inverse(table: dict[str, str]) -> dict[str, str]:
    return {name: official for official, name in table.items()}


def to_diffusers(state: State) -> State:
    """Official names → diffusers'. Unknown names, and a state that has diffusers' names already, are unchanged."""
    if OFFICIAL_MARK not in state:
        return dict(state)
    return {_renamed(key, TOP, BLOCK): value for key, value in state.items()}


def to_official(state: State) -> State:
    """The exact inverse of ``to_diffusers``."""
    if DIFFUSERS_MARK not in state:
        return dict(state)
    top, block = _inverse(TOP), _inverse(BLOCK)
    return {_renamed(key, top, block): value for key, value in state.items()}


def strip_prefixes(state: State) -> tuple[State, str]:
    """The transformer inside ``state`` under its plain names, and the prefix that was removed.

    ``WRAPPERS`` are removed anywhere in a name. Of several models in one file the first of ``PREFERRED`` is taken;
    without a transformer everything is kept.
    """
    plain = {unwrapped(key): value for key, value in state.items()}
    marks = (OFFICIAL_MARK, DIFFUSERS_MARK)
    prefixes = [key.removesuffix(mark) for key in plain for mark in marks if key == mark or key.endswith(f".{mark}")]
    if not prefixes:
        return plain, ""

    def rank(prefix: str) -> tuple[int, int]:
        first = prefix.partition(".")[0]
        return (PREFERRED.index(first) if first in PREFERRED else len(PREFERRED), len(prefix))

    prefix = "" if "" in prefixes else min(prefixes, key=rank)
    return {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}, prefix


def unwrapped(key: str) -> str:
    """``key`` without the ``WRAPPERS`` that parallel training and compilation insert into names."""
    for wrapper in WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def recognise(state: State) -> Recognised:
    """Recognise tensors by names and shapes alone; of a file only the header is read."""
    inner, prefix = strip_prefixes(state)
    if OFFICIAL_MARK not in inner and DIFFUSERS_MARK not in inner:
        for kind, pattern in _OTHER_KINDS.items():
            if any(re.search(pattern, key) for key in state):
                return Recognised(kind)
        return Recognised("unknown")
    ours = to_diffusers(inner)
    numbers = [int(key.split(".")[1]) for key in ours if re.match(r"blocks\.\d+\.", key)]
    patch, head = ours.get("patch_embedding.weight"), ours.get("proj_out.weight")
    whole = patch is not None and head is not None and patch.ndim == 5
    in_channels = patch.shape[1] if whole and patch is not None else 0
    out_channels = head.shape[0] // patch[0, 0].numel() if whole and patch is not None and head is not None else 0
    layout = LAYOUTS.get((out_channels, in_channels))
    extras = groups(unknown_names(ours))
    return Recognised(
        kind=_kind(inner, prefix, layout, extras),
        width=ours[DIFFUSERS_MARK].shape[0],
        layers=max(numbers, default=-1) + 1,
        in_channels=in_channels,
        out_channels=out_channels,
        layout=layout,
        has_image_branch=any(is_image_branch(key) for key in ours),
        extras=tuple(extras),
        prefix=prefix,
    )


def _kind(inner: State, prefix: str, layout: Layout | None, extras: Iterable[str]) -> str:
    if prefix.startswith("generator"):
        return "student"
    if OFFICIAL_MARK not in inner:
        return "diffusers"
    control = any(name == "control" for name, _ in layout or ())
    return "control" if control or {"ref_conv", "control_adapter"} & set(extras) else "official"


def is_image_branch(key: str) -> bool:
    """Whether a diffusers name belongs to the image branch of Wan 2.1's image-to-video models."""
    return ".image_embedder." in key or re.search(r"\.(add_[kv]_proj|norm_added_k)\.", key) is not None


def unknown_names(keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that are not diffusers' names of a Wan transformer's parameters."""
    top, block = _inverse(TOP), _inverse(BLOCK)
    return [key for key in keys if _renamed(key, top, block) == key and not key.startswith("patch_embedding.")]


def groups(keys: Iterable[str]) -> dict[str, int]:
    """Counts of names by their first part, within blocks by the part after the block's number."""
    return dict(Counter(_group(key) for key in keys))


def _group(key: str) -> str:
    first, *rest = key.split(".")
    return f"blocks.N.{rest[1]}" if first == "blocks" and len(rest) > 1 else first


def guess_preset(found: Recognised) -> str | None:
    """The preset with these sizes, if there is one."""
    return PRESETS.get((found.width, found.layers, found.out_channels))
