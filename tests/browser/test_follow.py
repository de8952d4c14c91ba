"""Following a video and the webcam: what is in the streamed picture moves as what is before the camera does."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motionstream.media.videos import write_video
from motionstream.server.pictures import photographs


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of 160 x 120 that goes right for two seconds, 0.7 pixels a frame, and then rests for two."""
    (coffee,) = (example.load() for example in photographs() if example.name == "coffee")
    ground = cv2.resize(coffee, (240, 160), interpolation=cv2.INTER_AREA)
    frames = [ground[20:140, 60 - x : 220 - x] for x in (round(0.7 * min(step, 48)) for step in range(96))]
    path = tmp_path_factory.mktemp("follow") / "dance.mp4"
    write_video(path, np.stack(frames), 24)
    return path


def open_video(visitor: Any, path: Path) -> None:
    visitor.page.set_input_files("#follow-file", str(path))
    visitor.page.wait_for_selector("#follow-start:visible")


def drag(visitor: Any, handle: Any, x: float, y: float) -> None:
    """Take a handle on the picture to a place in it."""
    handle.hover()
    visitor.page.mouse.down()
    visitor.page.mouse.move(*visitor.place(x, y), steps=5)
    visitor.page.mouse.up()


def test_an_uploaded_video_moves_the_picture_and_lets_it_go(visitor, sight, until, clip: Path) -> None:
    visitor.choose("Cat")
    middle = sight(visitor.picture(), 64, 64, half=24)
    open_video(visitor, clip)
    assert "4.0 s" in visitor.page.inner_text("#follow-note")
    visitor.page.click("#follow-start")
    visitor.wait_for_state("Streaming")
    until(lambda: middle.moved(visitor.picture())[0] >= 12, "the picture goes to the right")
    assert abs(middle.moved(visitor.picture())[1]) <= 3, "and nowhere else"
    assert len(visitor.dots("follow")) > 20, "the points are shown"
    visitor.snap("following-video")
    until(lambda: visitor.page.evaluate("document.getElementById('follow-view').currentTime") > 0.5, "it plays along")
    visitor.page.click("#follow-start")
    until(lambda: not len(visitor.dots("follow")), "they are let go")
    assert visitor.page.locator(".toast").count() == 0


def test_the_webcam_moves_the_picture(visitor, sight, until) -> None:
    visitor.choose("Cat")
    middle = sight(visitor.picture(), 64, 64, half=24)
    visitor.page.click("#follow-webcam")
    visitor.page.wait_for_selector("#follow-start:visible")
    visitor.key("f")
    visitor.wait_for_state("Streaming")
    places: list[tuple[int, int]] = []

    def swings() -> bool:
        places.append(middle.moved(visitor.picture()))
        return max(x for x, _ in places) - min(x for x, _ in places) >= 10

    until(swings, "the picture swings from side to side")
    assert max(abs(y) for _, y in places) <= 4, "and neither up nor down"
    visitor.snap("following-webcam")
    visitor.page.click("#follow-close")
    assert visitor.page.evaluate("document.getElementById('follow-view').srcObject") is None, "the webcam is off"
    until(lambda: not len(visitor.dots("follow")), "and its points are let go")
    assert visitor.page.locator(".toast").count() == 0


def test_two_pairs_of_points_turn_the_motion(visitor, sight, until, clip: Path) -> None:
    visitor.choose("Cat")
    middle = sight(visitor.picture(), 64, 64, half=24)
    open_video(visitor, clip)
    visitor.page.click("#follow-align")
    visitor.page.click("#follow-align")
    first, second = (visitor.page.locator("#stage .aligner").nth(i) for i in range(2))
    drag(visitor, first, 64, 32)
    drag(visitor, second, 64, 96)
    visitor.snap("aligning")
    source = visitor.page.locator("#follow-sheet .aligner").first
    left = source.bounding_box()["x"]
    source.focus()
    for key in ("ArrowRight", "Shift+ArrowRight", "Shift+ArrowLeft", "ArrowLeft"):
        visitor.key(key)
        if key == "Shift+ArrowRight":
            assert source.bounding_box()["x"] > left + 5, "arrow keys move it, too"
    assert source.bounding_box()["x"] == pytest.approx(left, abs=0.5)
    assert visitor.page.inner_text("#state") == "Ready", "and no camera"
    visitor.page.click("#follow-start")
    assert not first.is_visible()
    until(lambda: middle.moved(visitor.picture())[1] >= 10, "the picture goes down, a quarter turn from right")
    assert abs(middle.moved(visitor.picture())[0]) <= 4
    visitor.page.click("#follow-start")
    first.focus()
    visitor.key("Delete")
    assert visitor.page.locator(".aligner").count() == 0, "the second goes with the first"


def test_a_reloaded_page_can_end_what_it_followed(visitor, until, clip: Path) -> None:
    open_video(visitor, clip)
    visitor.page.click("#follow-start")
    visitor.wait_for_frame(12)
    until(lambda: len(visitor.dots("follow")), "it is followed")
    visitor.page.reload()
    visitor.page.wait_for_selector("#follow-start:visible")
    until(lambda: len(visitor.dots("follow")), "it still is")
    visitor.page.click("#follow-start")
    until(lambda: not len(visitor.dots("follow")), "and is let go")


def test_a_video_is_dropped_and_one_that_is_none_is_told(visitor, clip: Path) -> None:
    visitor.page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dance.mp4", { type: "video/mp4" }));
            document.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
        }""",
        list(clip.read_bytes()),
    )
    visitor.page.wait_for_selector("#follow-start:visible")
    visitor.page.set_input_files("#follow-file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video"})
    assert "no video or damaged" in visitor.message()
    assert "4.0 s" in visitor.page.inner_text("#follow-note"), "the one before is still there"
    visitor.page.click("#follow-close")
    assert not visitor.page.is_visible("#follow-source")
    visitor.key("f")
    visitor.wait("document.querySelector('.toasts').textContent.includes('Choose a video')")
    visitor.problems.clear()  # the browser notes the refused request, which was the point


def test_a_truncated_video_is_followed_and_what_is_missing_told(visitor, sight, until, clip: Path) -> None:
    visitor.choose("Cat")
    middle = sight(visitor.picture(), 64, 64, half=24)
    whole = clip.read_bytes()
    video = {"name": "half.mp4", "mimeType": "video/mp4", "buffer": whole[: len(whole) * 6 // 10]}
    visitor.page.set_input_files("#follow-file", video)
    visitor.page.wait_for_selector("#follow-start:visible")
    assert "it breaks off early" in visitor.page.inner_text("#follow-note")
    visitor.page.click("#follow-start")
    until(lambda: middle.moved(visitor.picture())[0] >= 8, "the picture goes to the right")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_on_a_phone(visit, scheme: str, clip: Path) -> None:
    visitor = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, is_mobile=True)
    open_video(visitor, clip)
    visitor.page.tap("#follow-align")
    assert visitor.page.locator(".aligner").count() == 2
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off sideways"
    visitor.page.locator("#follow-source").scroll_into_view_if_needed()
    if scheme == "dark":
        visitor.snap("following-phone")
