"""Pins, erasing, undo, holding, several pointers: seen by the points that are drawn over the picture."""

import numpy as np

LEFT, RIGHT = (32, 64), (96, 64)


def test_pins_wait_for_the_stream_and_are_undone_and_redone(visitor, until) -> None:
    visitor.tool("pin")
    visitor.click(*LEFT)
    visitor.click(*RIGHT)
    assert visitor.has_dot("pin", *LEFT) and visitor.has_dot("pin", *RIGHT)
    visitor.key("Control+z")
    assert not visitor.has_dot("pin", *RIGHT) and visitor.has_dot("pin", *LEFT)
    visitor.page.click("#redo")
    assert visitor.has_dot("pin", *RIGHT)
    visitor.page.click("#undo")
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    assert visitor.has_dot("pin", *LEFT) and not visitor.has_dot("pin", *RIGHT)
    visitor.key("Control+z")
    until(lambda: len(visitor.dots("pin")) == 0, "the pin is gone while the stream plays")
    visitor.wait_for_frame(visitor.frame + 24)
    assert len(visitor.dots("pin")) == 0, "the server has forgotten it, too"
    visitor.key("Control+Shift+z")
    until(lambda: visitor.has_dot("pin", *LEFT), "and is back")


def test_a_pin_set_while_paused_holds_afterwards(visitor, until) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    visitor.key(" ")
    visitor.wait_for_state("Paused")
    visitor.tool("pin")
    visitor.click(*LEFT)
    assert visitor.has_dot("pin", *LEFT)
    visitor.key(" ")
    visitor.wait_for_frame(visitor.frame + 36)
    assert visitor.has_dot("pin", *LEFT)


def test_erasing_takes_a_gesture_away(visitor, until) -> None:
    visitor.tool("pin")
    visitor.click(*LEFT)
    visitor.click(*RIGHT)
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    visitor.tool("erase")
    visitor.click(LEFT[0] + 2, LEFT[1])
    assert not visitor.has_dot("pin", *LEFT) and visitor.has_dot("pin", *RIGHT)
    visitor.wait_for_frame(visitor.frame + 24)
    assert not visitor.has_dot("pin", *LEFT) and visitor.has_dot("pin", *RIGHT)


def test_a_drag_that_is_held_can_be_taken_up_again(visitor, until) -> None:
    visitor.page.check("#hold")
    visitor.stroke(LEFT, (44, 64))
    until(lambda: visitor.has_dot("press", 44, 64), "it is where it was let go")
    visitor.wait_for_frame(visitor.frame + 24)  # by then frames show it, which bring it there in their own time
    until(lambda: visitor.has_dot("press", 44, 64), "it arrives")
    visitor.wait_for_frame(visitor.frame + 12)
    assert visitor.has_dot("press", 44, 64), "and stays there"
    visitor.stroke((45, 65), (53, 73))
    until(lambda: visitor.has_dot("press", 52, 72), "the same points, from where they were")
    assert len(visitor.dots("press")) == 13
    visitor.key("Control+z")
    until(lambda: len(visitor.dots("press")) == 0, "undone")


def test_two_fingers_drag_two_things(visit, until) -> None:
    visitor = visit(has_touch=True)
    touch = visitor.page.context.new_cdp_session(visitor.page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [dict(zip("xy", visitor.place(*place), strict=True), id=i) for i, place in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", LEFT, RIGHT)
    for step in np.linspace(0, 1, 6):
        fingers("touchMove", (LEFT[0], LEFT[1] - 10 * step), (RIGHT[0], RIGHT[1] + 10 * step))
    until(lambda: visitor.has_dot("press", 32, 54) and visitor.has_dot("press", 96, 74), "each follows its finger")
    fingers("touchEnd")
    until(lambda: len(visitor.dots("press")) == 0, "both are let go")


def test_the_keyboard_pins_and_drags(visitor, until) -> None:
    visitor.tool("pin")
    visitor.page.keyboard.press("Tab")
    for _ in range(20):  # stops before the picture
        if visitor.page.evaluate("document.activeElement.id") == "stage":
            break
        visitor.key("Tab")
    visitor.key("Shift+ArrowLeft")
    visitor.key("Enter")
    assert visitor.has_dot("pin", 56, 64)
    visitor.key("d")
    for _ in range(4):
        visitor.key("Shift+ArrowRight")
    visitor.key("Enter")
    visitor.key("ArrowUp")
    until(lambda: visitor.has_dot("press", 88, 62), "it is where the crosshair is")
    visitor.key(" ")
    until(lambda: len(visitor.dots("press")) == 0, "it is let go")
    visitor.wait_for_state("Streaming")  # the space bar has done nothing else
    visitor.click(20, 20)
    visitor.key(" ")
    visitor.wait_for_state("Paused")


def test_points_can_be_hidden(visitor) -> None:
    visitor.tool("pin")
    visitor.click(*LEFT)
    visitor.key("v")
    assert len(visitor.dots("pin")) == 0
    visitor.key("v")
    assert visitor.has_dot("pin", *LEFT)


def test_the_grid_is_as_wide_and_as_fine_as_asked(visitor) -> None:
    for id, value in (("radius", 8), ("spacing", 4)):
        visitor.page.fill(f"#{id}", str(value))
    visitor.tool("pin")
    visitor.click(*LEFT)
    assert len(visitor.dots("pin")) == 13
    assert np.isclose(np.ptp(visitor.dots("pin"), axis=0), 16, atol=1).all()


def test_a_drag_made_while_paused_is_seen_and_undone(visitor, until) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    visitor.key(" ")
    visitor.wait_for_state("Paused")
    visitor.stroke(LEFT, (52, 64))
    assert visitor.has_dot("press", 52, 72), "where it will be"
    visitor.key("Control+z")
    assert len(visitor.dots("press")) == 0
    visitor.key("Control+Shift+z")
    assert visitor.has_dot("press", 52, 72)
    visitor.key(" ")
    visitor.wait_for_frame(visitor.frame + 24)
    until(lambda: len(visitor.dots("press")) == 0, "and once it has been, it is over")
    assert visitor.page.locator(".toast").count() == 0


def test_undo_takes_a_drag_out_of_the_hand(visitor, until) -> None:
    visitor.stroke(LEFT, (44, 64), let_go=False)
    until(lambda: visitor.has_dot("press", 44, 56), "it is held")
    visitor.key("Control+z")
    until(lambda: len(visitor.dots("press")) == 0, "neither points nor a ring are left")
    visitor.page.mouse.up()


def test_escape_cancels(visitor, until) -> None:
    visitor.tool("path")
    visitor.stroke(LEFT, (44, 64), let_go=False)
    visitor.key("Escape")
    visitor.page.mouse.up()
    assert len(visitor.dots("path")) == 0
    visitor.tool("press")
    visitor.stroke(LEFT, (44, 64), let_go=False)
    visitor.wait_for_frame(12)
    visitor.key("Escape")
    until(lambda: len(visitor.dots("press")) == 0, "the drag is let go")
    visitor.page.mouse.up()
    visitor.page.fill("#prompt", "a cat")
    visitor.page.press("#prompt", "Escape")
    assert visitor.page.input_value("#prompt") == ""


def test_what_a_reset_takes_away_is_undone(visitor) -> None:
    visitor.tool("pin")
    visitor.click(*LEFT)
    visitor.click(*RIGHT)
    visitor.key("r")
    assert len(visitor.dots("pin")) == 0
    visitor.key("Control+z")
    assert visitor.has_dot("pin", *LEFT) and visitor.has_dot("pin", *RIGHT)
