"""Items by key: the same from any number of workers, what goes wrong included."""

import itertools
import resource

import pytest
import torch

from motionstream.training.clips.keyed_loader import KeyedLoader


class Source:
    """Numbers by key; some cannot be had."""

    def __getitem__(self, key):
        if key == 3:
            raise ValueError("number 3 is damaged: make it anew")
        if key == 5:
            raise PermissionError(13, "Permission denied", "five.tar")
        product = torch.ones(4, 4) @ torch.full((4, 4), 1 + 1e-4)
        return key, torch.is_autocast_enabled("cpu"), product.dtype, torch.randint(1000, (), generator=self.own(key))

    def own(self, key):
        return torch.Generator().manual_seed(key)


def loader(workers):
    return KeyedLoader(Source(), workers=workers, ahead=4)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_errors_come_back_as_themselves_and_what_comes_after_can_be_had(workers):
    items = loader(workers)

    def get(key):
        return items.get(key, lambda: itertools.count(key))[0]

    assert [get(key) for key in (0, 1, 2)] == [0, 1, 2]
    with pytest.raises(ValueError) as caught:
        get(3)
    assert type(caught.value) is ValueError and str(caught.value) == "number 3 is damaged: make it anew"
    assert get(4) == 4
    with pytest.raises(PermissionError, match=r"Permission denied: 'five\.tar'"):
        get(5)
    assert [get(key) for key in (6, 7, 2, 20)] == [6, 7, 2, 20]  # made ahead of 2 and passed over: no error


@pytest.mark.parametrize("workers", [0, 2])
def test_items_depend_neither_on_the_trainers_precision_nor_on_its_random_numbers(workers):
    state = torch.get_rng_state()
    items = loader(workers)
    with torch.autocast("cpu", torch.bfloat16):
        made = [items.get(key, lambda key=key: itertools.count(key)) for key in (0, 1)]
        assert torch.is_autocast_enabled("cpu")
    assert all(dtype == torch.float32 and not cast for _, cast, dtype, _ in made)
    assert [int(number) for *_, number in made] == [int(Source()[key][3]) for key in (0, 1)]
    assert torch.equal(torch.get_rng_state(), state)


class Tensors:
    def __getitem__(self, key):
        return [torch.full((100,), float(key)) for _ in range(8)]


def test_items_that_are_kept_hold_no_files_open():
    items = KeyedLoader(Tensors(), workers=2, ahead=8)
    kept = [items.get(0, lambda: itertools.count(0))]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
    try:
        kept += [items.get(key, lambda key=key: itertools.count(key)) for key in range(1, 80)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [tensors[7][99].item() for tensors in kept] == list(range(80))
    assert not any(tensor.is_shared() for tensors in kept for tensor in tensors)
