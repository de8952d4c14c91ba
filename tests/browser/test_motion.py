"""Objects, the camera, a fresh scene: seen by their pixels."""

SPOON = (84, 90)  # its bowl, in the picture of the coffee


def test_a_selected_object_is_dragged_whole(visitor, until) -> None:
    visitor.choose("Coffee")
    visitor.page.click("#start")
    visitor.wait_for_frame(1)
    visitor.tool("select")
    visitor.click(*SPOON)
    visitor.wait("document.querySelector('[data-tool=press]').getAttribute('aria-checked') === 'true'")  # it is found
    visitor.snap("selected")
    visitor.page.check("#hold")
    visitor.stroke(SPOON, (74, 94))
    until(lambda: visitor.has_dot("press", 74, 94), "it is where the pointer is")


def test_the_camera_pans_by_keys_and_by_the_pad(visitor, sight, until) -> None:
    visitor.choose("Cat")
    before = visitor.picture()
    middle = sight(before, 64, 64, half=24)
    visitor.page.keyboard.down("ArrowRight")
    until(lambda: middle.moved(visitor.picture())[0] <= -8, "the picture goes to the left")
    visitor.page.keyboard.up("ArrowRight")
    visitor.key("r")
    visitor.wait_for_state("Ready")
    box = visitor.page.locator("#pad").bounding_box()
    visitor.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visitor.page.mouse.down()
    visitor.page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=4)
    until(lambda: middle.moved(visitor.picture())[0] >= 8, "the picture goes to the right")
    visitor.snap("camera")
    visitor.page.mouse.up()


def test_the_scene_begins_anew_from_the_frame_shown(visitor) -> None:
    visitor.page.click("#start")
    visitor.wait_for_frame(12)
    visitor.page.click("#restart")
    visitor.wait_for_frame(visitor.frame + 36)
    assert visitor.page.locator(".toast").count() == 0
