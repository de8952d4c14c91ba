"""Reading of prepared clips: as a list of samples, and as an endless stream with a position.

``manifest.json`` lists the shards (``data/samples.py``) with their sizes and hashes.
"""

from __future__ import annotations

import os
import tarfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from motionstream.data.json_files import read_json
from motionstream.data.samples import MEMBERS, Sample, of_members, sha256

MANIFEST = "manifest.json"
FIXED_TEXT = "fixed_text.safetensors"
FORMAT = 1
REMEDY = "delete it and run the same motionstream prepare again, which makes it anew"


class _Shard:
    """An open shard with the offsets of every sample's members."""

    def __init__(self, path: Path, samples: int) -> None:
        self.file: BinaryIO = open(path, "rb")  # noqa: SIM115 - kept open, see ShardFolder
        self.keys: list[str] = []
        self.places: list[dict[str, tuple[int, int]]] = []
        with tarfile.open(fileobj=self.file, mode="r:") as archive:
            for member in archive:
                key, _, kind = member.name.partition(".")
                if not self.keys or key != self.keys[-1]:
                    self.keys.append(key)
                    self.places.append({})
                self.places[-1][kind] = (member.offset_data, member.size)
        if len(self.keys) != samples:
            raise ValueError(f"{len(self.keys)} of {samples} samples are there")

    def read(self, row: int) -> Sample:
        members = {}
        for kind in MEMBERS:
            offset, size = self.places[row][kind]
            # pread, since forked loader workers share the file's position
            members[kind] = os.pread(self.file.fileno(), size, offset)
        return of_members(self.keys[row], members)


class ShardFolder:
    """A prepared folder as a list of samples, read on demand.

    Args:
        verify: compare every shard's hash with the manifest's now. Otherwise damage is found by a sample's checksum
            when the sample is read.
        damaged: ``refuse`` raises ValueError for an unreadable sample; ``skip`` warns once per shard and returns the
            next readable sample instead.
        keep_open: maximum number of open shards.

    Raises:
        ValueError: the manifest is missing, the set unfinished or empty, or shards are missing or (``verify``) damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        verify: bool = False,
        damaged: Literal["refuse", "skip"] = "refuse",
        keep_open: int = 8,
    ) -> None:
        if damaged not in ("refuse", "skip"):
            raise ValueError(f"damaged = {damaged!r}: 'refuse' or 'skip'")
        self.folder, self.damaged, self.keep_open = Path(folder), damaged, keep_open
        self.manifest = _read_manifest(self.folder)
        self.shards: list[dict[str, Any]] = self.manifest["shards"]
        self.starts = np.cumsum([0, *(shard["samples"] for shard in self.shards)])
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._warned: set[int] = set()
        for number, shard in enumerate(self.shards):
            problem = self._problem(shard, verify)
            if problem is not None:
                self._report(number, problem)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``, from 0 in the order of the manifest."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        try:
            return self._opened(shard).read(index - int(self.starts[shard]))
        # damage can affect anything: a tar header, a length, a dtype, the picture, the text encoding
        except (tarfile.TarError, SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{self._path(shard)} is damaged ({error}): {REMEDY}") from error

    def replaced(self, index: int) -> Sample:
        """Sample ``index``, or with ``damaged="skip"`` the next readable one."""
        for step in range(len(self)):
            number = (index + step) % len(self)
            try:
                return self[number]
            except ValueError as error:
                if self.damaged == "refuse":
                    raise
                self._warn(int(np.searchsorted(self.starts, number, side="right")) - 1, str(error))
        raise ValueError(f"no sample in {self.folder} can be read: prepare it again")

    def fixed_text(self) -> dict[str, Tensor]:
        """Text tokens besides the captions', float16 (rows without padding, width): of ``empty``, the null condition,
        and ``negative``, the model's negative prompt."""
        path = self.folder / FIXED_TEXT
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}): {REMEDY}") from error

    def order(self, seed: int, epoch: int, mix_shards: int = 8) -> np.ndarray:
        """A permutation of all samples, int64 (samples,), determined by (seed, epoch).

        Shards are shuffled, then the samples within each group of ``mix_shards`` shards, so that only ``mix_shards``
        files are read at a time.
        """
        generator = np.random.default_rng([seed, epoch])
        shards = generator.permutation(len(self.shards))
        parts = []
        for begin in range(0, len(shards), mix_shards):
            mixed = [np.arange(self.starts[s], self.starts[s + 1]) for s in shards[begin : begin + mix_shards]]
            parts.append(generator.permutation(np.concatenate(mixed)))
        return np.concatenate(parts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # worker processes open their own files

    def _path(self, shard: int) -> Path:
        return self.folder / self.shards[shard]["name"]

    def _opened(self, shard: int) -> _Shard:
        if shard not in self._open:
            while len(self._open) >= self.keep_open:
                self._open.popitem(last=False)[1].file.close()
            self._open[shard] = _Shard(self._path(shard), self.shards[shard]["samples"])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _problem(self, shard: dict[str, Any], verify: bool) -> str | None:
        path = self.folder / shard["name"]
        if not path.is_file():
            return f"{path} is missing: copy it here, or run the same motionstream prepare again"
        if path.stat().st_size != shard["bytes"]:
            return f"{path} has {path.stat().st_size} of {shard['bytes']} bytes: {REMEDY}"
        if verify and sha256(path) != shard["sha256"]:
            return f"{path} is damaged (its SHA-256 is not the manifest's): {REMEDY}"
        return None

    def _report(self, shard: int, problem: str) -> None:
        if self.damaged == "refuse":
            raise ValueError(problem)
        self._warn(shard, problem)

    def _warn(self, shard: int, problem: str) -> None:
        if shard not in self._warned:
            self._warned.add(shard)
            warnings.warn(f"{problem} (what is damaged is replaced by the next sample)", stacklevel=3)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is no prepared data set: it has no {MANIFEST}; make one with motionstream prepare")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is of another format than {FORMAT}: prepare the videos again with this version")
    if not manifest["complete"]:
        raise ValueError(f"{folder} is not finished: run the same motionstream prepare again, it goes on")
    if not manifest["shards"]:
        raise ValueError(f"{folder} holds no samples: report.jsonl says why every video was skipped")
    return manifest


class SampleStream(IterableDataset):
    """Samples in an order that depends only on (seed, epoch), endless or for ``epochs``. See ``open_shards``.

    ``position``: the number of samples taken by all ranks together. Sample g of the whole run belongs to rank
    ``(g - start) % world``, where ``start`` is the position at which iteration began, so a global batch has the same
    samples on one machine and on many.
    """

    def __init__(
        self,
        shards: ShardFolder,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        epochs: int | None = None,
        shuffle: bool = True,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank = {rank}, world = {world}: ranks count from 0 to world - 1")
        self.shards, self.seed, self.rank, self.world = shards, seed, rank, world
        self.epochs, self.shuffle = epochs, shuffle
        self.position = 0
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __iter__(self) -> Iterator[Sample]:
        """Iterate from ``position``, which advances in this process only. With n DataLoader workers each yields every
        n-th sample of its rank; the loader takes from them in turn, and the trainer must track the position itself."""
        worker = get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        end = None if self.epochs is None else self.epochs * len(self.shards)
        turn = 0
        while end is None or self.position + self.rank < end:
            index = self.position + self.rank
            self.position += self.world
            if turn % parts == part:
                yield self.at(index)
            turn += 1

    def at(self, index: int) -> Sample:
        """Sample ``index`` of the whole run: position ``index % len(shards)`` of epoch ``index // len(shards)``."""
        epoch, place = divmod(index, len(self.shards))
        if not self.shuffle:
            return self.shards.replaced(place)
        if self._order[0] != epoch:
            self._order = (epoch, self.shards.order(self.seed, epoch))
        return self.shards.replaced(int(self._order[1][place]))

    def state_dict(self) -> dict[str, int]:
        """State for resuming; rank and world size may change."""
        return {"position": self.position, "seed": self.seed, "samples": len(self.shards)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume at a saved position. Raises ValueError if it belongs to other data or another seed."""
        for name, value in (("seed", self.seed), ("samples", len(self.shards))):
            if state[name] != value:
                raise ValueError(
                    f"the saved data position is of {name} = {state[name]}, not {value}: use the same data"
                )
        self.position = state["position"]


def open_shards(
    folder: str | Path,
    *,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    epochs: int | None = None,
    shuffle: bool = True,
    verify: bool = False,
    damaged: Literal["refuse", "skip"] = "refuse",
) -> SampleStream:
    """Open a folder written by ``motionstream prepare``, as an iterator of ``Sample`` with a position.

    Args:
        rank, world: this process's rank and the number of processes; each gets different samples.
        epochs: number of passes over the data; endless when None.
        verify, damaged: see ``ShardFolder``, also for errors.
    """
    shards = ShardFolder(folder, verify=verify, damaged=damaged)
    return SampleStream(shards, seed=seed, rank=rank, world=world, epochs=epochs, shuffle=shuffle)
