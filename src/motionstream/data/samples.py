"""Prepared clips and their webdataset shards.

A shard is a plain tar file. A sample consists of four members with the same key: ``KEY.safetensors`` (latents,
positions, visible, text, image), ``KEY.png`` (the first frame), ``KEY.txt`` (the caption) and ``KEY.json`` (frame rate,
the clip's source, a checksum of the others).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as tensors_of_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from motionstream.media.files import atomic_path
from motionstream.tracks.tracks import Tracks

MEMBERS = ("json", "png", "safetensors", "txt")


@dataclass(frozen=True)
class Sample:
    """One clip, ready for training.

    ``latents`` float16 (C, F, h, w), normalised by the autoencoder; ``positions`` float32 (T, N, 2) in pixels, zero
    where unknown; ``visible`` bool (T, N); ``text`` float16 (tokens, width) without padding (see ``pad_text``);
    ``image`` float16 (tokens, width) of the first frame, None for models without an image encoder; ``first_frame``
    uint8 (3, H, W), as seen by the autoencoder.
    """

    key: str
    latents: Tensor
    positions: Tensor
    visible: Tensor
    text: Tensor
    image: Tensor | None
    first_frame: Tensor
    caption: str
    fps: float
    source: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.first_frame.shape[1], self.first_frame.shape[2]

    @property
    def tracks(self) -> Tracks:
        """The tracks as a ``Tracks`` object."""
        return Tracks(self.positions.numpy(), self.visible.numpy(), self.size, self.fps)


def pad_text(text: Tensor, tokens: int) -> Tensor:
    """Pad text tokens (used, width) with zeros to (tokens, width), as the encoders do."""
    return torch.cat([text, text.new_zeros(tokens - len(text), text.shape[1])])


def used_rows(text: Tensor) -> Tensor:
    """The inverse of ``pad_text``: tokens (tokens, width) without trailing zeros."""
    used = text.any(dim=1).nonzero()
    return text[: int(used[-1]) + 1 if len(used) else 0]


def to_members(sample: Sample) -> dict[str, bytes]:
    tensors = {"latents": sample.latents, "positions": sample.positions, "text": sample.text}
    tensors["visible"] = torch.from_numpy(np.packbits(sample.visible.numpy()))
    if sample.image is not None:
        tensors["image"] = sample.image
    picture = io.BytesIO()
    Image.fromarray(sample.first_frame.permute(1, 2, 0).numpy()).save(picture, "png")
    members = {
        "safetensors": tensors_to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}),
        "png": picture.getvalue(),
        "txt": sample.caption.encode(),
    }
    # tar does not checksum contents: without this, flipped bits would go unnoticed into training
    facts = {"fps": sample.fps, "crc32": _checksum(members), "source": sample.source}
    return members | {"json": json.dumps(facts).encode()}


def _checksum(members: dict[str, bytes]) -> int:
    value = 0
    for name in ("safetensors", "png", "txt"):
        value = zlib.crc32(members[name], value)
    return value


def of_members(key: str, members: dict[str, bytes]) -> Sample:
    """The inverse of ``to_members``; any exception means that the data are damaged."""
    facts = json.loads(members["json"])
    if facts["crc32"] != _checksum(members):
        raise ValueError("its checksum is wrong")
    tensors = tensors_of_bytes(members["safetensors"])
    picture = np.array(Image.open(io.BytesIO(members["png"]), formats=("PNG",)))
    length, count = tensors["positions"].shape[:2]
    bits = np.unpackbits(tensors["visible"].numpy(), count=length * count)
    return Sample(
        key=key,
        latents=tensors["latents"],
        positions=tensors["positions"],
        visible=torch.from_numpy(bits.astype(bool)).reshape(length, count),
        text=tensors["text"],
        image=tensors.get("image"),
        first_frame=torch.from_numpy(picture).permute(2, 0, 1),
        caption=members["txt"].decode(),
        fps=facts["fps"],
        source=facts["source"],
    )


def write_shards(folder: Path, name: str, samples: Iterable[Sample], max_bytes: int) -> list[dict[str, Any]]:
    """Write samples to ``NAME-00.tar``, ``NAME-01.tar`` … of at most ``max_bytes`` each, unless one sample is larger.

    Equal samples give equal bytes. Files are written atomically. Returns the manifest's entries: ``name``, ``sha256``,
    ``bytes`` and ``samples``.
    """
    records: list[dict[str, Any]] = []
    waiting: list[tuple[str, dict[str, bytes]]] = []
    size = tarfile.RECORDSIZE
    for sample in samples:
        members = to_members(sample)
        # every member has a header and is padded to whole blocks
        needed = sum(2 * tarfile.BLOCKSIZE + len(member) for member in members.values())
        if waiting and size + needed > max_bytes:
            records.append(_write_shard(folder / f"{name}-{len(records):02d}.tar", waiting))
            waiting, size = [], tarfile.RECORDSIZE
        waiting.append((sample.key, members))
        size += needed
    if waiting:
        records.append(_write_shard(folder / f"{name}-{len(records):02d}.tar", waiting))
    return records


def _write_shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> dict[str, Any]:
    from webdataset.writer import TarWriter

    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
            for key, members in samples:
                writer.write({"__key__": key, **members})
        record = {"name": path.name, "sha256": sha256(temporary), "bytes": temporary.stat().st_size}
    return record | {"samples": len(samples)}


def sha256(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
