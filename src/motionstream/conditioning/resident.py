"""Keeps a large encoder in memory only while it is needed, and caches its outputs.

UMT5-XXL alone takes 11 GB in half precision and is needed only briefly, once per sentence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Resident:
    """Loads a model when an output is requested that is not cached, and frees it afterwards unless ``keep``.

    The outputs of the last ``capacity`` distinct keys are cached; callers must not change them.
    """

    def __init__(self, load: Callable[[], nn.Module], *, keep: bool = False, capacity: int = 16) -> None:
        self.keep = keep
        self.capacity = capacity
        self._load = load
        self._model: nn.Module | None = None
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def resident(self) -> bool:
        """Whether the model is in memory now."""
        return self._model is not None

    @contextmanager
    def borrowed(self) -> Iterator[nn.Module]:
        """The model, loaded if necessary, for the duration of the ``with`` block."""
        try:
            if self._model is None:
                self._model = self._load()
            yield self._model
        finally:
            if not self.keep:
                self.release()

    @torch.no_grad()
    def outputs(self, keys: Sequence[str], encode: Callable[[nn.Module, int], Tensor]) -> list[Tensor]:
        """The output of every key; ``encode(model, i)`` computes that of ``keys[i]`` if it is not cached."""
        found = {key: self._remembered[key] for key in keys if key in self._remembered}
        missing = {key: index for index, key in enumerate(keys) if key not in found}
        if missing:
            with self.borrowed() as model:
                found |= {key: encode(model, index) for key, index in missing.items()}
        for key in keys:
            self._remembered[key] = found[key]
            self._remembered.move_to_end(key)
        while len(self._remembered) > self.capacity:
            self._remembered.popitem(last=False)
        return [found[key] for key in keys]

    def release(self) -> None:
        """Free the model's memory; cached outputs stay."""
        if self._model is None:
            return
        kind = next(self._model.parameters()).device.type
        self._model = None
        if kind == "cuda":
            torch.cuda.empty_cache()
        elif kind == "mps":
            torch.mps.empty_cache()
