"""Items by key from worker processes, ahead of their need."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from motionstream.training.logs import data_wait

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _unchanged(item: Any) -> Any:
    return item


class _Keyed(Dataset):
    """Items with their keys, so that what comes can be told from what was asked for."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> tuple[Any, Any]:
        return key, self.dataset[key]


class KeyedLoader(Generic[K, V]):
    """``get`` in the order of ``needs``: items are then made ahead of it; a jump costs what lies ready.

    Args:
        dataset: makes an item of a key, ``dataset[key]``; in worker processes.
        workers: their number; 0 makes items in this one. ahead: items in flight, all workers together.
    """

    def __init__(self, dataset: Any, *, workers: int, ahead: int) -> None:
        self.dataset, self.workers, self.ahead = _Keyed(dataset), workers, ahead
        self._coming: Iterator[tuple[K, V]] | None = None

    def get(self, key: K, needs: Callable[[], Iterator[K]]) -> V:
        """The item of ``key``. ``needs``: the keys to come, beginning with it; asked where the caller has jumped."""
        with data_wait:
            if self._coming is not None:
                made, item = next(self._coming)
                if made == key:
                    return item
            self._coming = iter(self._loader(needs()))
            made, item = next(self._coming)
        assert made == key, f"made {made}, needed {key}"
        return item

    def _loader(self, keys: Iterator[K]) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            prefetch_factor=max(2, self.ahead // self.workers) if self.workers else None,
            worker_init_fn=_one_thread,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else it takes a number from the global one, which a resumed run would miss
        )
