"""Going back in time, and files to take away."""

import json
import urllib.request
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


def test_what_is_done_to_the_past_is_for_what_is_seen_there(visitor, until) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(36)
    visitor.look_at(9)
    assert visitor.page.is_disabled("#restart"), "which takes the newest frame, and that is not seen"
    visitor.tool("pin")
    visitor.click(100, 100)
    visitor.wait_for_state("Paused")
    visitor.click(30, 30)
    assert visitor.has_dot("pin", 100, 100) and visitor.has_dot("pin", 30, 30), "they gather, as while it is paused"
    visitor.key(" ")
    visitor.wait_for_frame(13)
    assert visitor.frame < 36, "the stream has gone back"
    until(lambda: len(visitor.dots("pin")) > 13, "with the pins")
    visitor.wait_for_frame(30)
    visitor.look_at(9)
    visitor.tool("press")
    visitor.stroke((42, 49), (62, 49), let_go=False)
    until(lambda: visitor.has_dot("press", 62, 49), "a drag goes back as well")
    visitor.wait_for_state("Streaming")
    visitor.page.mouse.up()
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
    until(lambda: visitor.frame < before, "it goes on from before the drag")
    until(lambda: visitor.has_dot("pin", 100, 100), "what came before is there")
    visitor.key("Control+z")
    until(lambda: len(visitor.dots("pin")) == 0, "and is undone, too")
    assert visitor.page.locator(".toast").count() == 0


def test_a_take_is_seen_to_its_end_played_again_and_gone_on_from(visitor, server: str, until) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(21)
    visitor.key("Enter")
    visitor.wait_for_state("Ready")
    link = visitor.page.get_attribute("#export-recording", "href")
    with urllib.request.urlopen(server + link.removesuffix("/recording")) as answer:
        recorded = sum(json.load(answer)["frames"])
    until(
        lambda: visitor.frame >= recorded - 25, "but for the chunks that had not come, two at most, all of it is shown"
    )
    end = visitor.frame
    visitor.key(" ")
    until(lambda: visitor.frame < end, "it plays from its beginning")
    visitor.key(" ")
    visitor.wait("document.getElementById('replay').textContent.includes('Play')")
    visitor.page.click("#now")
    visitor.wait_for_frame(end)
    visitor.stroke((42, 49), (62, 49))
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(end + 12)
    until(lambda: len(visitor.dots("press")) == 0, "what was dragged and let go meanwhile has been")
    visitor.look_at(3)
    assert visitor.page.locator(".toast").count() == 0, "what came before can still be looked at"


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


def test_what_is_pinned_and_erased_after_the_end_counts_when_it_goes_on(visitor, until) -> None:
    visitor.tool("pin")
    visitor.click(30, 30)
    visitor.click(90, 90)
    visitor.key("Enter")
    visitor.wait_for_frame(12)
    visitor.key("Enter")
    visitor.wait_for_state("Ready")
    visitor.tool("erase")
    visitor.click(90, 90)
    visitor.tool("pin")
    visitor.click(30, 90)
    visitor.page.click("#branch")
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(visitor.frame + 24)
    assert [visitor.has_dot("pin", *place) for place in ((30, 30), (90, 90), (30, 90))] == [True, False, True]
    assert visitor.page.locator(".toast").count() == 0


def test_takes_are_kept_exported_and_gone_on_from(visitor, until, tmp_path: Path) -> None:
    visitor.choose("Coffee")
    visitor.key("Enter")
    visitor.wait_for_frame(12)
    visitor.key("Enter")
    visitor.wait_for_state("Ready")
    visitor.choose("Cat")
    visitor.key("Enter")
    visitor.wait_for_frame(3)
    visitor.key("Enter")
    visitor.wait_for_state("Ready")
    visitor.page.reload()
    visitor.wait_for_state("Ready")
    titles = [take.get_attribute("title") for take in visitor.page.locator(".take").all()]
    assert [title.partition(",")[0] for title in titles] == ["Cat", "Coffee"]
    visitor.page.locator(".take").last.click()
    visitor.snap("takes")
    with visitor.page.expect_download() as download:
        visitor.page.click("#take [data-what=mp4]")
    ok, _ = cv2.VideoCapture(str(download.value.path())).read()
    assert ok
    visitor.page.locator(".take").last.click()
    visitor.page.click("#take-go-on")
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(24)
    assert visitor.page.get_attribute("#gallery [aria-selected=true]", "title") == "Coffee"
    assert visitor.page.locator(".take").count() == 3
    assert visitor.page.locator(".toast").count() == 0


def test_an_export_that_cannot_be_had_says_so(visitor) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(3)
    visitor.page.route("**/api/sessions/*", lambda route: route.fulfill(status=404, json={"detail": "none"}))
    visitor.page.click("#export")
    visitor.page.click("#export-mp4")
    assert visitor.message() == "The server does not have this recording any more."
    visitor.page.unroute("**/api/sessions/*")
    visitor.page.route("**/api/sessions/*", lambda route: route.abort())
    visitor.page.click("#export")
    visitor.page.click("#export-gif")
    visitor.wait("document.getElementById('toasts').textContent.includes('server cannot be reached')")
    visitor.problems.clear()  # the browser notes both requests
