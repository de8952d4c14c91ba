"""Objects, the camera, a fresh scene: seen by their pixels."""

import io
import json
import urllib.request

import numpy as np

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
    for key in ("ArrowRight", "PageDown", "+"):
        visitor.key(key)
    assert visitor.page.inner_text("#state") == "Ready", "they steer a stream, and begin none"
    visitor.page.click("#start")
    visitor.page.focus("[data-tool=press]")
    visitor.key("ArrowDown")
    assert visitor.page.evaluate("document.activeElement.dataset.tool") == "pin", "among the tools they move the focus"
    visitor.page.focus("#gallery button")
    visitor.key("ArrowRight")
    assert visitor.page.evaluate("document.activeElement.title") == "Coffee"
    visitor.page.evaluate("document.activeElement.blur()")
    visitor.wait_for_frame(1)
    assert middle.moved(visitor.picture()) == (0, 0), "but no camera"
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


def test_what_only_brushes_the_camera_leaves_it_at_rest(visit) -> None:
    visitor = visit(viewport={"width": 1024, "height": 768}, has_touch=True)
    visitor.page.click("#pad", button="right", position={"x": 10, "y": 40})
    assert visitor.page.inner_text("#state") == "Ready"
    box = visitor.page.locator("#dolly").bounding_box()
    x, y = box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2
    touch = visitor.page.context.new_cdp_session(visitor.page)
    for kind, up in (("touchStart", 0), *(("touchMove", 12 * step) for step in range(1, 12))):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y - up, "id": 0}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    visitor.wait("document.querySelector('.panel').scrollTop > 50")  # the finger has scrolled it
    visitor.wait("document.getElementById('dolly').value === '0'")


def npy(depth: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, depth)
    return file.getvalue()


def give_depth(visitor, name: str, content: bytes) -> None:
    visitor.page.set_input_files("#depth-file", {"name": name, "mimeType": "", "buffer": content})


def test_with_a_depth_map_what_is_near_moves_farther(visitor, sight, until) -> None:
    visitor.choose("Cat")
    before = visitor.picture()
    left, right = (sight(before, x, 56, half=18) for x in (36, 100))
    assert visitor.page.inner_text("#depth-note") == "Depth: a plain guess, nearest in the middle"
    depth = np.where(np.arange(451) < 240, 1.0, 3.0) * np.ones((300, 1))  # the photograph has 451 x 300 pixels
    give_depth(visitor, "cat.npy", npy(depth))
    visitor.wait("document.getElementById('depth-note').textContent === 'Depth: cat.npy'")
    visitor.page.focus("#pad")  # there, an arrow key begins a stream
    visitor.page.keyboard.down("ArrowLeft")
    until(lambda: left.moved(visitor.picture())[0] >= 10, "what is near goes to the right")
    far = right.moved(visitor.picture())[0]
    assert far <= left.moved(visitor.picture())[0] - 4, "and farther than what is not"
    visitor.page.keyboard.up("ArrowLeft")
    visitor.snap("depth")
    visitor.page.click("#depth-forget")
    note = "Depth: cat.npy. From the next start on: a plain guess, nearest in the middle"
    assert visitor.page.inner_text("#depth-note") == note
    visitor.key("r")
    visitor.wait("document.getElementById('depth-note').textContent.startsWith('Depth: a plain guess')")


def test_a_depth_map_of_another_shape_is_told(visitor) -> None:
    for content, words in ((npy(np.ones((9, 9))), "depth map of 9x9 for a photograph"), (b"no map", "16-bit PNG")):
        give_depth(visitor, "map.npy", content)
        visitor.wait(f"document.querySelector('.toasts').textContent.includes({words!r})")
    visitor.problems.clear()  # the browser notes the refused requests, which were the point


def test_the_scene_begins_anew_from_the_frame_shown(visitor) -> None:
    visitor.page.click("#start")
    visitor.wait_for_frame(12)
    visitor.page.click("#restart")
    visitor.wait_for_frame(visitor.frame + 36)
    assert visitor.page.locator(".toast").count() == 0


def test_a_camera_that_moves_after_the_end_goes_on_from_there(visitor, server: str, until) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(12)
    visitor.key("Enter")
    visitor.wait_for_state("Ready")
    visitor.page.focus("#pad")
    visitor.page.keyboard.down("ArrowRight")
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(visitor.frame + 24)
    visitor.page.keyboard.up("ArrowRight")
    link = visitor.page.get_attribute("#export-recording", "href").removesuffix("/recording")

    def changes() -> list[str]:
        with urllib.request.urlopen(server + link) as answer:
            return [command for _, command in json.load(answer)["changes"]]

    # chunks that were on their way when the page heard that the stream goes on do not have it yet
    until(lambda: "camera" in changes(), "the camera's motion is in the recording")
    assert visitor.page.locator(".toast").count() == 0
