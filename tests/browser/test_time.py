"""Going back in time, and files to take away."""

import json
import zipfile
from pathlib import Path

import cv2


def test_going_on_from_the_past_shows_other_frames(visitor, until) -> None:
    visitor.page.fill("#seed", "1")
    visitor.stroke((42, 49), (62, 49))
    visitor.wait_for_frame(36)
    visitor.look_at(9)
    visitor.snap("past")
    visitor.page.hover("#branch")
    visitor.wait("getComputedStyle(document.getElementById('branch')).backgroundColor === 'rgba(255, 255, 255, 0.22)'")
    visitor.page.click("#branch")
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(9)
    visitor.tool("pin")
    visitor.click(100, 100)
    until(lambda: visitor.has_dot("pin", 100, 100), "the other way has its own gestures")
    visitor.wait_for_frame(33)
    assert visitor.page.locator(".toast").count() == 0


def test_a_drag_is_undone_by_going_back(visitor, until) -> None:
    visitor.tool("pin")
    visitor.click(100, 100)
    visitor.key("Enter")
    visitor.wait_for_frame(24)
    visitor.tool("press")
    visitor.stroke((42, 49), (62, 49))
    visitor.wait_for_frame(visitor.frame + 36)
    before = visitor.frame
    visitor.key("Control+z")
    visitor.wait_for_state("Waiting")
    visitor.wait_for_state("Streaming")
    assert visitor.frame <= before
    until(lambda: visitor.has_dot("pin", 100, 100), "what came before is there")
    visitor.key("Control+z")
    until(lambda: len(visitor.dots("pin")) == 0, "and is undone, too")
    assert visitor.page.locator(".toast").count() == 0


def test_a_hand_that_scrubs_is_not_waited_for_at_every_frame(visitor) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(45)
    visitor.look_at(9)
    visitor.page.evaluate(
        "() => { window.decoded = 0; const decode = VideoDecoder.prototype.decode;"
        " VideoDecoder.prototype.decode = function (chunk) { window.decoded++; return decode.call(this, chunk); };"
        " const line = document.getElementById('timeline');"
        " for (let frame = 10; frame <= 40; frame++) {"
        "   line.value = frame; line.dispatchEvent(new Event('input')); } }"
    )
    visitor.look_at(12)
    assert visitor.page.evaluate("window.decoded") <= 3 * 57, "the first and the last few, of thirty"


def test_the_session_is_exported(visitor, tmp_path: Path) -> None:
    visitor.stroke((42, 49), (50, 49))
    visitor.wait_for_frame(21)
    visitor.key("Enter")  # ends it
    files = {}
    for what in ("mp4", "gif", "tracks", "recording"):
        visitor.page.click("#export")
        with visitor.page.expect_download() as download:
            visitor.page.click(f"#export-{what}")
        files[what] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[what])
    ok, frame = cv2.VideoCapture(str(files["mp4"])).read()
    assert ok and frame.shape == (128, 128, 3)
    assert files["gif"].read_bytes().startswith(b"GIF89a")
    assert "positions.npy" in zipfile.ZipFile(files["tracks"]).namelist()
    assert all(json.loads(line) for line in files["recording"].read_text().splitlines())
    visitor.page.click("#export")
    with visitor.page.expect_download() as download:
        visitor.page.click("#export-picture")
    assert cv2.imread(str(download.value.path())).shape == (128, 128, 3)
