"""The photographs are there, are kept apart, and others are refused."""

import numpy as np
import pytest

from motionstream.data import photographs


def test_training_and_held_out_pictures_are_disjoint_and_licensed() -> None:
    assert not set(photographs.TRAIN) & set(photographs.HELD_OUT)
    assert set(photographs.LICENCES) == set(photographs.TRAIN) | set(photographs.HELD_OUT)
    assert all(photographs.LICENCES.values())


@pytest.mark.parametrize("name", photographs.TRAIN + photographs.HELD_OUT)
def test_every_picture_loads_as_rgb(name: str) -> None:
    picture = photographs.load(name)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert min(picture.shape[:2]) >= 300
    assert picture.std() > 5


def test_changing_a_picture_does_not_change_the_next_load() -> None:
    picture = photographs.load("coins")
    picture[:] = 0
    assert photographs.load("coins").any()


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown photograph 'lena': use one of astronaut"):
        photographs.load("lena")
