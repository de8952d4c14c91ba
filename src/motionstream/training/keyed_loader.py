"""Items by key from worker processes, ahead of their need."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from motionstream.child_processes import end_with_parent
from motionstream.training.logs import data_wait

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _begin(worker: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _unchanged(item: Any) -> Any:
    return item


class _Failure:
    """In an item's place, what the user can do something about: the error that a DataLoader would raise in its place
    is a traceback in words."""

    def __init__(self, error: ValueError | OSError) -> None:
        self.error = error


class _Keyed(Dataset):
    """Items with their keys, so that what comes can be told from what was asked for.

    From a worker they come as bytes: a tensor that a DataLoader hands over by itself stays in shared memory and holds a
    file open for as long as it lives, of which a process may have a thousand.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> tuple[Any, Any]:
        item = self._made(key)
        return key, item if get_worker_info() is None else pickle.dumps(item)

    def _made(self, key: Any) -> Any:
        try:
            # the trainer's mixed precision, which forked workers inherit, is none of the data's
            with torch.autocast("cpu", enabled=False):
                return self.dataset[key]
        except (ValueError, OSError) as error:
            return _Failure(error)


class KeyedLoader(Generic[K, V]):
    """``get`` in the order of ``needs``: items are then made ahead of it; a jump costs what lies ready.

    Args:
        dataset: makes an item of a key, ``dataset[key]``; in worker processes.
        workers: their number; 0 makes items in this one. ahead: items in flight, all workers together.
    """

    def __init__(self, dataset: Any, *, workers: int, ahead: int) -> None:
        self.dataset, self.workers, self.ahead = _Keyed(dataset), workers, ahead
        self._coming: Iterator[tuple[K, Any]] | None = None

    def get(self, key: K, needs: Callable[[], Iterator[K]]) -> V:
        """The item of ``key``. ``needs``: the keys to come, beginning with it; asked where the caller has jumped.

        Raises ValueError and OSError as the dataset has raised them, in whatever process.
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
            generator=torch.Generator(),  # else it takes a number from the global one, which a resumed run would miss
        )


def of_step(loader: KeyedLoader[tuple[int, int], V], step: int, samples: list[int]) -> list[V]:
    """This rank's ``samples`` of a step; the loader's keys are (step, sample). Later steps' are then made ahead."""

    def needs(first: int) -> Iterator[tuple[int, int]]:
        at = step
        while True:
            yield from ((at, sample) for sample in samples if sample >= first)
            at, first = at + 1, 0

    return [loader.get((step, sample), lambda sample=sample: needs(sample)) for sample in samples]  # type: ignore[misc]
