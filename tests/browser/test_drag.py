"""Drags, seen by their pixels: what is under the pointer goes along, and the rest stays."""

import numpy as np

SPOON = (84, 90)  # its bowl, in the picture of the coffee
CORNERS = [(x, y) for x in (12, 115) for y in (12, 115)]
TOLERANCE = 5  # pixels; a small model is not exact


def near(found: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return float(np.hypot(found[0] - wanted[0], found[1] - wanted[1])) <= TOLERANCE


def test_what_is_dragged_goes_along_and_the_pinned_corners_stay(visitor, sight, until) -> None:
    visitor.choose("Coffee")
    before = visitor.picture()
    spoon, corners = sight(before, *SPOON), [sight(before, *corner) for corner in CORNERS]
    visitor.tool("pin")
    for corner in CORNERS:
        visitor.click(*corner)
    visitor.tool("press")
    visitor.stroke(SPOON, (68, 96), let_go=False)  # the stream begins by itself
    visitor.wait_for_state("Streaming")
    until(lambda: visitor.has_dot("press", 68, 96), "the points are where the pointer is")
    until(lambda: near(spoon.moved(visitor.picture()), (-16, 6)), "the spoon is where the pointer is")
    assert all(visitor.has_dot("pin", *corner) for corner in CORNERS)
    assert [corner.stayed(visitor.picture()) for corner in corners] == [True] * 4
    visitor.page.mouse.up()
    until(lambda: len(visitor.dots("press")) == 0, "the points are let go")


def test_what_walks_a_drawn_path_goes_along_it(visitor, sight, until) -> None:
    visitor.choose("Coffee")
    before = visitor.picture()
    spoon, corners = sight(before, *SPOON), [sight(before, *corner) for corner in CORNERS]
    visitor.tool("pin")
    for corner in CORNERS:
        visitor.click(*corner)
    visitor.tool("path")
    visitor.page.fill("#duration", "1")
    visitor.stroke(SPOON, (76, 93), (68, 96))
    assert visitor.has_dot("path", *SPOON), "it waits for the stream"
    visitor.key("Enter")
    until(lambda: visitor.has_dot("path", 68, 96), "the points have walked to the end")
    until(lambda: near(spoon.moved(visitor.picture()), (-16, 6)), "and the spoon with them")
    assert [corner.stayed(visitor.picture()) for corner in corners] == [True] * 4
