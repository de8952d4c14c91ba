"""A click selects the shape it lies on: pictures whose masks are known."""

import cv2
import numpy as np
import pytest
from PIL import Image

from motionstream.tracks import masks
from motionstream.tracks.masks import cut_out, outline, select_object


def noise(height: int, width: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 60, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def ellipse(size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    y, x = np.ogrid[: size[0], : size[1]]
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1


def scene(size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture with two textured things on textured ground, and their masks."""
    height, width = size
    first = ellipse(size, (0.3 * width, 0.4 * height), (0.14 * width, 0.22 * height))
    second = ellipse(size, (0.75 * width, 0.6 * height), (0.12 * width, 0.16 * height))
    picture = noise(*size, 0) + np.array([20, 60, 30], np.uint8)
    picture[first] = (noise(*size, 1) + np.array([150, 40, 20], np.uint8))[first]
    picture[second] = (noise(*size, 2) + np.array([30, 60, 170], np.uint8))[second]
    return picture, first, second


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("click", [(38, 38), (30, 30), (44, 45)])
def test_a_click_finds_the_thing_under_it_wherever_it_lands(click):
    picture, first, second = scene()
    mask = select_object(picture, click)
    assert mask.dtype == bool and mask.shape == (96, 128)
    assert iou(mask, first) > 0.9 and iou(mask, second) == 0
    assert np.array_equal(mask, select_object(picture, click))


def test_a_large_picture_is_cut_at_a_reduced_size():
    picture, _, second = scene((480, 832))
    assert iou(select_object(picture, (0.75 * 832, 0.6 * 480)), second) > 0.9


def test_a_box_finds_what_is_in_it():
    picture, first, _ = scene()
    assert iou(select_object(picture, box=(15, 12, 62, 64)), first) > 0.9
    # What reaches out of the picture is cut to it.
    assert (
        select_object(picture, box=(-50, -50, 62, 64))[:65, :63].sum()
        == select_object(picture, box=(-1e6, -1e6, 62, 64)).sum()
    )


def test_where_nothing_stands_out_the_click_still_gets_a_piece_around_it():
    flat = np.full((64, 64, 3), 128, np.uint8)
    mask = select_object(flat, (20, 30))
    assert mask[30, 20] and 20 <= mask.sum() <= 0.5 * mask.size
    assert select_object(flat, box=(10, 10, 30, 40)).any()


def test_a_mask_is_one_piece_without_holes_and_its_outline_goes_around_it():
    import cv2

    picture, first, _ = scene()
    ring = first & ~ellipse((96, 128), (38.4, 38.4), (5, 5))  # something else in its middle
    picture[first & ~ring] = 0
    mask = select_object(picture, (26, 38))
    assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 2
    assert cv2.connectedComponents((~mask).astype(np.uint8))[0] == 2
    border = outline(mask)
    drawn = cv2.fillPoly(np.zeros((96, 128), np.uint8), [border.astype(np.int32)], 1) > 0
    assert iou(drawn, mask) > 0.95 and len(border) < 80
    assert outline(np.zeros((4, 4), bool)).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"point": (128, 4)}, "outside the picture of 128 x 96"),
        ({"point": (np.nan, 4)}, "outside"),
        ({}, "exactly one"),
        ({"point": (1, 1), "box": (1, 1, 9, 9)}, "exactly one"),
        ({"box": (5, 5, 5, 9)}, "less than 2 x 2"),
        ({"box": (200, 5, 300, 9)}, "less than 2 x 2"),
        ({"box": (0, 0, np.inf, 9)}, "left, top, right, bottom"),
        ({"box": (-9, -9, 500, 500)}, "whole picture"),
    ],
)
def test_wrong_values_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        select_object(scene()[0], **arguments)
    with pytest.raises(ValueError, match="picture is"):
        select_object(np.zeros((4, 4, 3), np.uint8), (1, 1))


def grid(x: float, y: float, reach: float) -> np.ndarray:
    """Nine points as a drag lays them, (9, 2)."""
    offsets = np.array([-reach, 0.0, reach])
    return np.stack(np.meshgrid(x + offsets, y + offsets), axis=-1).reshape(-1, 2)


NONE = np.zeros((0, 2))


def test_points_beside_a_narrow_thing_do_not_take_the_ground_along():
    """Six of the nine are on the ground, and three on it: four are certain, so that one on the ground has to be."""
    picture, bar = noise(128, 128, 0) + np.array([20, 30, 60], np.uint8), np.zeros((128, 128), bool)
    bar[30:100, 60:69] = True
    picture[bar] = (noise(128, 128, 1) + np.array([180, 150, 120], np.uint8))[bar]
    mask = cut_out(picture, grid(64, 60, 8), NONE)
    assert iou(mask, bar) > 0.95 and (mask & ~bar).sum() <= 5, "that one's dot"


def test_a_thing_larger_than_the_first_guesses_is_found_rather_than_the_points_alone():
    picture, thing = noise(128, 128, 0) + np.array([180, 180, 170], np.uint8), np.zeros((128, 128), bool)
    thing[40:110, 30:100] = True
    picture[thing] = (noise(128, 128, 2) // 4 + np.array([200, 30, 20], np.uint8))[thing]
    assert iou(cut_out(picture, grid(64, 80, 9), NONE), thing) > 0.8


def halves() -> tuple[np.ndarray, np.ndarray]:
    """A thing of two colours, each the ground's, and its mask."""
    picture, thing = noise(128, 128, 0) + np.array([100, 100, 100], np.uint8), np.zeros((128, 128), bool)
    thing[40:80, 40:90] = True
    picture[40:80, 40:66] = noise(40, 26, 1) + np.array([200, 30, 30], np.uint8)
    picture[40:80, 66:90] = noise(40, 24, 2) + np.array([30, 30, 200], np.uint8)
    return picture, thing


def test_a_drawing_tells_of_a_thing_what_colours_do_not():
    picture, thing = halves()
    on = grid(52, 60, 6)
    asked = []

    def draw(*told: np.ndarray) -> np.ndarray:
        asked.append(told)
        return cv2.resize(np.where(thing, 0.9, 0.05).astype(np.float32), told[0].shape[1::-1])

    assert iou(cut_out(picture, on, NONE), thing) < 0.6
    assert iou(cut_out(picture, on, NONE, draw), thing) > 0.95
    assert (
        asked[0][0] is picture and {tuple(p) for p in asked[0][1]} == {tuple(p) for p in on} and len(asked[0][2]) == 0
    )
    assert iou(select_object(picture, (52, 60)), thing) < 0.7
    assert iou(select_object(picture, (52, 60), draw=draw), thing) > 0.95
    large = np.kron(picture, np.ones((3, 3, 1), np.uint8))
    assert iou(select_object(large, (157, 181), draw=draw), np.kron(thing, np.ones((3, 3), bool))) > 0.95


@pytest.mark.parametrize("everywhere", [0.0, 1.0])
def test_a_drawing_of_nothing_or_of_everything_spoils_nothing(everywhere):
    picture, bar = noise(128, 128, 0) + np.array([20, 30, 60], np.uint8), np.zeros((128, 128), bool)
    bar[30:100, 50:79] = True
    picture[bar] = (noise(128, 128, 1) + np.array([180, 150, 120], np.uint8))[bar]
    drawn = np.full((128, 128), everywhere, np.float32)
    assert iou(cut_out(picture, grid(64, 60, 8), NONE, lambda *told: drawn), bar) > 0.95


def test_an_outline_along_edges_counts_for_more_than_what_two_agree_on(monkeypatch):
    """A mast in the sky, and two patches of sky around it."""
    picture, mast = (
        np.full((128, 128, 3), (40, 60, 110), np.uint8) + noise(128, 128, 0) // 8,
        np.zeros((128, 128), bool),
    )
    mast[40:100, 59:69] = True
    picture[mast] = (noise(128, 128, 1) // 2 + np.array([190, 170, 130], np.uint8))[mast]
    patches = np.zeros((2, 128, 128), bool)
    patches[0, 24:80, 36:92] = patches[1, 26:84, 34:90] = True
    hints = masks._hints(np.array([(64.0, 60.0)]), NONE, (128, 128), 1.0)
    assert masks._best(picture, [], hints, 1, [*patches, mast]) is mast
    monkeypatch.setattr(masks, "HEED", 0.0)
    assert masks._best(picture, [], hints, 1, [*patches, mast]) is not mast
