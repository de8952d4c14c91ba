"""Coming back after a reload, and others who watch."""

import contextlib
from collections.abc import Callable

import numpy as np

from motionstream import wire
from motionstream.client import Client


def test_a_reload_in_mid_stream_changes_nothing(visitor, until) -> None:
    visitor.tool("pin")
    visitor.click(30, 30)
    visitor.key("Enter")
    visitor.wait_for_frame(12)
    visitor.page.reload()
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(13)
    until(lambda: visitor.has_dot("pin", 30, 30), "the pin is where it was")
    visitor.tool("erase")
    visitor.click(30, 30)
    visitor.wait_for_frame(visitor.frame + 24)
    assert len(visitor.dots("pin")) == 0, "and obeys the page that was loaded since"


def test_a_page_that_is_taken_over_says_so(visitor, server: str) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    session = visitor.page.evaluate("JSON.parse(sessionStorage.getItem('stream')).session")
    with Client(server) as client:
        client.rejoin(session)
        visitor.wait_for_state("Ready")
        assert visitor.message() == "The stream has ended: taken over by another page."
        client.stop()


def test_others_watch_by_a_link_and_cannot_steer(visitor, visit: Callable, until) -> None:
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    visitor.page.click("#share")
    link = until(lambda: visitor.page.evaluate("navigator.clipboard.readText()"), "the link is copied")
    watcher = visit("/watch/" + link.partition("/watch/")[2], viewport={"width": 1000, "height": 640})
    watcher.wait_for_state("Watching")
    watcher.wait_for_frame(visitor.frame + 12)
    assert not watcher.page.is_visible("#start") and not watcher.page.is_visible("#tools")
    watcher.stroke((40, 40), (60, 60))
    watcher.wait_for_frame(watcher.frame + 24)
    assert len(watcher.dots("press")) == 0
    difference = np.abs(watcher.picture().astype(int) - visitor.picture())
    assert difference.mean() < 30, "both show the same stream, a moment apart"
    watcher.snap("watch")


def test_who_watches_without_a_decoder_gets_pictures_and_keys_steer_nothing(
    visit: Callable, server: str, until
) -> None:
    with Client(server) as client:
        share = client.start("coffee")["share"]
        watcher = visit(f"/watch/{share}")
        watcher.wait_for_state("Watching")
        kinds: list[int] = []
        watcher.page.on("websocket", lambda socket: socket.on("framereceived", lambda data: kinds.append(data[3])))
        watcher.page.evaluate("() => { VideoDecoder.prototype.decode = () => { throw new DOMException('broken'); }; }")
        watcher.wait_for_frame(watcher.frame + 24)  # after it has come back
        assert wire.JPEG in kinds and wire.H264 not in kinds
        for key in ("r", "Enter", "ArrowRight", "PageUp", "f", "b", "n"):
            watcher.key(key)
        watcher.wait_for_frame(watcher.frame + 24)
        assert watcher.page.inner_text("#state") == "Watching"
        assert watcher.page.locator(".toast").count() == 0
        watcher.key("?")
        assert watcher.page.locator("#keys section div").count() == 4, "what the others do is not offered"
        client.stop()


def test_a_paused_stream_is_seen_again_after_a_reload(visitor, until) -> None:
    visitor.choose("Coffee")
    visitor.key("Enter")
    visitor.wait_for_frame(24)
    visitor.key(" ")
    visitor.wait_for_state("Paused")
    visitor.wait("document.getElementById('pause').textContent.includes('Resume')")
    before = visitor.picture()
    visitor.page.reload()
    visitor.wait_for_state("Paused")
    visitor.wait_for_frame(24)
    difference = np.abs(visitor.picture().astype(int) - before)
    assert difference.mean() < 12, "a frame of the same stream"
    frame = visitor.frame
    visitor.key(" ")
    visitor.wait_for_frame(frame + 12)


def turn_away(visitor, hidden: bool) -> None:
    """Another tab comes before the page, as far as the page can tell, or goes."""
    visitor.page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def test_who_steers_may_look_away_and_others_still_watch(visitor, visit: Callable, server: str, until) -> None:
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    turn_away(visitor, True)
    stopped = until(lambda: rests(visitor), "nobody looks, so nothing is made")
    visitor.page.click("#share")
    link = until(lambda: visitor.page.evaluate("navigator.clipboard.readText()"), "the link is copied")
    watcher = visit("/watch/" + link.partition("/watch/")[2])
    watcher.wait_for_frame(stopped + 36)
    assert visitor.frame == stopped, "who looks away gets no frames"
    assert visitor.page.inner_text("#state") == "Streaming"
    turn_away(visitor, False)
    visitor.wait_for_frame(stopped + 36)


def rests(visitor) -> int:
    """The frame shown, where it has not changed for a second; else 0."""
    frame = visitor.frame
    visitor.page.wait_for_timeout(1000)
    return frame if visitor.frame == frame else 0


def test_one_too_many_waits_in_line_and_is_told_its_place(visitor, server: str, until) -> None:
    with contextlib.ExitStack() as others:
        clients = [others.enter_context(Client(server)) for _ in range(4)]  # as many streams as the demo runs at once
        for client in clients:
            client.start("coffee")
            client.send("pause")
        visitor.key("Enter")
        visitor.wait_for_state("Waiting")
        until(lambda: "number 1 of 1 in line" in visitor.page.inner_text("#notice"), "the place is told")
        visitor.snap("queued")
        clients[0].stop()
        visitor.wait_for_frame(1)
        assert visitor.page.inner_text("#state") == "Streaming"
        for client in clients[1:]:
            client.stop()


def test_who_waits_in_line_drags_once_the_stream_begins(visitor, server: str, until) -> None:
    with contextlib.ExitStack() as others:
        clients = [others.enter_context(Client(server)) for _ in range(4)]
        for client in clients:
            client.start("coffee")
            client.send("pause")
        visitor.stroke((84, 90), (74, 94), let_go=False)  # which asks for a stream
        visitor.wait_for_state("Waiting")
        visitor.page.mouse.move(*visitor.place(70, 96), steps=4)
        for client in clients:
            client.stop()
        visitor.wait_for_frame(1)
        until(lambda: visitor.has_dot("press", 70, 96), "what was taken hold of in line is in the stream")
        visitor.page.mouse.up()
        until(lambda: len(visitor.dots("press")) == 0, "and is let go")
        assert visitor.page.locator(".toast").count() == 0
