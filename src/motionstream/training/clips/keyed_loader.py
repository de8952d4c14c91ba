"""Loads items by key in worker processes, before they are needed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from motionstream.child_processes import end_with_parent
from motionstream.training.loop.logs import data_wait

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _begin(worker: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _unchanged(item: Any) -> Any:
    return item


class _Failure:
    """Returned in place of an item: an error that the user can act on. A DataLoader would raise one whose message
    contains a whole traceback."""

    def __init__(self, error: ValueError | OSError) -> None:
        self.error = error


class _Keyed(Dataset):
    """Items with their keys, so that an item can be compared with what was requested.

    Workers return pickled bytes: tensors that a DataLoader transfers itself stay in shared memory and each keeps a file
    open as long as it lives, and a process may open only about a thousand files.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> tuple[Any, Any]:
        item = self._made(key)
        return key, item if get_worker_info() is None else pickle.dumps(item)

    def _made(self, key: Any) -> Any:
        try:
            # forked workers inherit the trainer's mixed precision, which must not affect the data
            with torch.autocast("cpu", enabled=False):
                return self.dataset[key]
        except (ValueError, OSError) as error:
            return _Failure(error)


class KeyedLoader(Generic[K, V]):
    """Loads items ahead of ``get`` as long as the keys follow the order of ``needs``; a jump discards those made ahead.

    Args:
        dataset: ``dataset[key]`` makes an item; called in the worker processes.
        workers: number of worker processes; 0 makes items in this one. ahead: items made ahead by all workers together.
    """

    def __init__(self, dataset: Any, *, workers: int, ahead: int) -> None:
        self.dataset, self.workers, self.ahead = _Keyed(dataset), workers, ahead
        self._coming: Iterator[tuple[K, Any]] | None = None

    def get(self, key: K, needs: Callable[[], Iterator[K]]) -> V:
        """The item for ``key``. ``needs``: the keys to come, beginning with ``key``; called at first and after a jump.
        It must not keep the loader's owner alive (give it a ``weakref.proxy``): in a circle only the garbage collector
        would end the workers, later and after waiting five seconds for each.

        Raises the dataset's ValueError or OSError, also from a worker process.
        """
        with data_wait:
            found = None if self._coming is None else next(self._coming)
            if found is None or found[0] != key:
                self._coming = iter(self._loader(needs()))
                found = next(self._coming)
        made, item = found
        assert made == key, f"made {made}, needed {key}"
        item = pickle.loads(item) if self.workers else item
        if isinstance(item, _Failure):
            self._coming = None
            raise item.error
        answer: V = item
        return answer

    def _loader(self, keys: Iterator[K]) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            prefetch_factor=max(2, self.ahead // self.workers) if self.workers else None,
            worker_init_fn=_begin,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # otherwise it draws from the global one, and resuming would not be exact
        )


def of_step(loader: KeyedLoader[tuple[int, int], V], step: int, samples: list[int]) -> list[V]:
    """This rank's ``samples`` of a step, from a loader with keys (step, sample) that then makes later steps' ahead."""

    def needs(first: int) -> Iterator[tuple[int, int]]:
        at = step
        while True:
            yield from ((at, sample) for sample in samples if sample >= first)
            at, first = at + 1, 0

    return [loader.get((step, sample), lambda sample=sample: needs(sample)) for sample in samples]  # type: ignore[misc]
