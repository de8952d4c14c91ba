"""What the page does when something breaks: a decoder, the server; and a view that is left."""

import io
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from motionstream import wire


@pytest.fixture
def told(visitor) -> list[Any]:
    """What the page is told from its next load on: objects, and bytes of chunks."""
    heard: list[Any] = []

    def hear(payload: str | bytes) -> None:
        heard.append(json.loads(payload) if isinstance(payload, str) else payload)

    visitor.page.on("websocket", lambda socket: socket.on("framereceived", hear))
    visitor.page.reload()
    visitor.wait_for_state("Ready")
    visitor.wait_for_picture()
    return heard


def kinds(visitor, told: list[Any]) -> set[int]:
    """Of the chunks that have come."""
    visitor.page.wait_for_timeout(100)  # what comes is heard while Playwright waits
    return {message[3] for message in told if isinstance(message, bytes)}


def messages(visitor, told: list[Any], kind: str) -> list[dict[str, Any]]:
    visitor.page.wait_for_timeout(100)
    return [message for message in told if isinstance(message, dict) and message["type"] == kind]


def test_icons_need_no_server(visitor) -> None:
    visitor.page.context.set_offline(True)
    visitor.key("Enter")
    visitor.wait("document.querySelector('#start span').textContent === 'Stop'")
    drawn = "[...document.querySelectorAll('use')].filter(use => use.checkVisibility()).map(use => use.getBBox().width)"
    widths = visitor.page.evaluate(drawn)
    assert len(widths) > 20 and min(widths) > 0
    visitor.page.context.set_offline(False)
    visitor.wait_for_frame(1)


def test_a_decoder_that_breaks_is_replaced_by_pictures(visitor, told, until) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(12)
    assert kinds(visitor, told) == {wire.H264}
    told.clear()
    visitor.page.evaluate("() => { VideoDecoder.prototype.decode = () => { throw new DOMException('broken'); }; }")
    until(lambda: wire.JPEG in kinds(visitor, told), "frames come as JPEG")
    visitor.wait_for_frame(visitor.frame + 36)
    assert len(messages(visitor, told, "started")) == 1, "it has come back to its stream, once"


def test_a_view_that_is_left_is_looked_at_anew_where_that_is_wanted(visitor, told, server: str, until) -> None:
    visitor.page.click("#adaptive")
    visitor.key("Enter")
    visitor.wait_for_frame(24)
    recording = messages(visitor, told, "started")[0]["recording"]
    with urllib.request.urlopen(f"{server}/api/sessions/{recording}") as answer:
        assert [command for _, command in json.load(answer)["changes"]] == ["refresh"]
    visitor.page.click("#adaptive")
    accepted = until(lambda: messages(visitor, told, "accepted")[1:], "and no more, when that is not")
    assert accepted[0]["command"] == "refresh"


CUT = """
    window.sockets = [];
    window.WebSocket = class extends WebSocket {
        constructor(address) {
            super(window.cut ? address.replace("/ws", "/nowhere") : address);
            window.sockets.push(this);
        }
    };
"""


@pytest.fixture
def cut(visitor) -> Iterator[Callable[[], None]]:
    """Cuts the page's connection, from its next load on; it is not had again while ``window.cut`` is true."""
    visitor.page.add_init_script(CUT)

    def cut() -> None:
        visitor.page.evaluate("() => { window.cut = true; window.sockets.at(-1).close(); }")
        visitor.wait_for_state("Not connected")

    yield cut
    visitor.problems.clear()  # the browser notes every connection that cannot be had


def test_a_page_with_an_old_token_says_so_and_tries_no_more(visitor, cut, told, until) -> None:
    detail = "a token is needed; open the whole address that motionstream printed"
    visitor.page.route("**/api/gallery", lambda route: route.fulfill(status=401, json={"detail": detail}))
    cut()
    until(
        lambda: "A token is needed; open the" in visitor.page.inner_text("#notice"), "the server's own words are told"
    )
    tried = visitor.page.evaluate("window.sockets.length")
    visitor.page.wait_for_timeout(3000)
    assert visitor.page.evaluate("window.sockets.length") <= tried + 1


def gestures(visitor, told: list[Any]) -> list[str]:
    """The kinds of those in the last chunk that has come."""
    visitor.page.wait_for_timeout(100)
    chunks = [message for message in told if isinstance(message, bytes)]
    return [kind for _, kind, _ in wire.unpack(chunks[-1]).header["groups"]] if chunks else []


def test_what_is_done_while_the_connection_is_lost_reaches_the_stream(visitor, cut, told, until) -> None:
    visitor.tool("pin")
    visitor.click(20, 20)
    visitor.tool("press")
    visitor.stroke((90, 90), (96, 90), let_go=False)
    until(lambda: gestures(visitor, told) == ["pin", "press"], "a pin and a drag are in the stream")
    cut()
    visitor.page.mouse.up()
    visitor.tool("erase")
    visitor.click(20, 20)
    visitor.tool("pin")
    visitor.click(40, 90)
    visitor.click(100, 30)
    told.clear()
    visitor.page.evaluate("window.cut = false")
    visitor.wait_for_state("Streaming")
    until(lambda: gestures(visitor, told) == ["pin", "pin"], "the drag is let go, the pin erased, and two are new")
    assert [visitor.has_dot("pin", *place) for place in ((20, 20), (40, 90), (100, 30))] == [False, True, True]
    assert visitor.page.locator(".toast").count() == 0


def test_settings_changed_while_the_connection_is_lost_are_told(visitor, cut, told, until) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    cut()
    visitor.page.fill("#prompt", "a cat")
    visitor.page.press("#prompt", "Enter")
    visitor.page.click("#steps label:nth-child(1)")
    told.clear()
    visitor.page.evaluate("window.cut = false")
    visitor.wait_for_state("Streaming")
    until(lambda: {one["command"] for one in messages(visitor, told, "accepted")} >= {"prompt", "steps"}, "both count")
    cut()
    visitor.choose("Coffee")
    visitor.page.evaluate("window.cut = false")
    visitor.wait_for_state("Ready")
    assert visitor.page.get_attribute("#gallery [aria-selected=true]", "title") == "Coffee"


def test_a_page_outlives_its_server(serve: Callable, see: Callable) -> None:
    flag = io.BytesIO()
    Image.new("RGB", (200, 200), (200, 30, 30)).save(flag, "PNG")
    with serve() as address:
        visitor = see(address)
        visitor.open_file("flag.png", flag.getvalue())
        visitor.wait("document.querySelector('#gallery [aria-selected=true]')?.title === 'flag.png'")
        visitor.key("Enter")
        visitor.wait_for_frame(12)
    visitor.wait("document.getElementById('state').textContent.startsWith('Not connected')")
    with serve():
        visitor.wait_for_state("Ready")
        visitor.page.click("#branch")
        visitor.wait_for_state("Streaming")  # the recording has outlived its server
        visitor.wait_for_frame(13)
        visitor.key("r")
        visitor.tool("pin")
        visitor.click(30, 30)
        visitor.key("Enter")
        visitor.wait_for_frame(12)
        assert visitor.has_dot("pin", 30, 30)
        toasts = visitor.page.locator(".toast").all_inner_texts()
        assert not any("picture" in words or "Cannot" in words for words in toasts), toasts
        visitor.leave()
