"""What a viewer is sent, and in which order, when it is slow."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from motionstream import wire
from motionstream.server.media import Encoded
from motionstream.server.outbox import MAX_CONTROL, Media, Outbox


def chunk(first: int, *, key: bool = False, kind: int = wire.H264) -> Media:
    keyframes = (0,) if key or kind == wire.JPEG else ()
    header = {"first": first, "sent": 5.0}
    return Media(header, np.zeros((2, 0, 2), np.float32), Encoded(kind, (b"a", b"b"), keyframes))


def send(outbox: Outbox) -> Any:
    """The next message, at once; None where there is none."""

    async def take() -> Any:
        try:
            return await asyncio.wait_for(outbox.next(), 0.01)
        except TimeoutError:
            return None

    return run(take())


def run(work: Coroutine) -> Any:
    return asyncio.run(work)


def headers(outbox: Outbox) -> list[dict[str, Any]]:
    found = []
    while (message := send(outbox)) is not None:
        found.append(wire.unpack(message).header)
    return found


def show(outbox: Outbox, first: int, kind: int = wire.H264) -> None:
    """As a channel does it: a keyframe where one is needed."""
    outbox.show(chunk(first, key=outbox.make_room(), kind=kind))


def test_control_overtakes_media() -> None:
    outbox = Outbox("h264")
    show(outbox, 0)
    show(outbox, 2)
    outbox.say({"type": "accepted"})
    assert send(outbox) == {"type": "accepted"}
    assert [header["first"] for header in headers(outbox)] == [0, 2]


def test_a_slow_viewer_of_h264_goes_on_at_the_next_keyframe() -> None:
    outbox = Outbox("h264")
    for first in range(0, 10, 2):  # three wait; the fourth takes their place
        show(outbox, first)
    found = headers(outbox)
    assert [header["first"] for header in found] == [6, 8]
    assert [header["dropped"] for header in found] == [6, 0], "and it is told how many frames are missing"
    assert [header["queue"] for header in found] == [1, 0]


def test_a_slow_viewer_of_jpeg_loses_only_the_oldest() -> None:
    outbox = Outbox("jpeg")
    for first in range(0, 10, 2):
        show(outbox, first, wire.JPEG)
    found = headers(outbox)
    assert [header["first"] for header in found] == [4, 6, 8] and [header["dropped"] for header in found] == [4, 0, 0]


def test_nothing_is_shown_that_could_not_be_decoded() -> None:
    outbox = Outbox("h264")
    outbox.show(chunk(0, key=True))
    outbox.forget_media()  # it rejoined while the next was being encoded
    outbox.show(chunk(2))
    assert outbox.make_room(), "so a keyframe is asked for"
    outbox.show(chunk(4, key=True))
    assert [(header["first"], header["dropped"]) for header in headers(outbox)] == [(4, 2)]


def test_a_viewer_that_acknowledges_has_only_so_much_on_the_way() -> None:
    outbox = Outbox("h264")
    show(outbox, 0)
    assert wire.unpack(send(outbox)).header["first"] == 0
    outbox.received(0)
    for first in (2, 4, 6):
        show(outbox, first)
        assert wire.unpack(send(outbox)).header["first"] == first
    show(outbox, 8)
    assert send(outbox) is None, "three are under way"
    outbox.say({"type": "ended"})
    assert send(outbox) == {"type": "ended"}, "but control goes on"
    outbox.received(4)
    assert wire.unpack(send(outbox)).header["first"] == 8


def test_a_viewer_that_never_acknowledges_is_sent_everything() -> None:
    outbox = Outbox("jpeg")
    for first in range(0, 40, 2):
        show(outbox, first, wire.JPEG)
        assert wire.unpack(send(outbox)).header["first"] == first


def test_who_only_watches_is_not_told_the_other_ones_times() -> None:
    for steers, sent in ((True, 5.0), (False, None)):
        outbox = Outbox("jpeg", steers=steers)
        show(outbox, 0, wire.JPEG)
        assert headers(outbox)[0]["sent"] == sent


def test_one_that_reads_nothing_costs_no_memory() -> None:
    outbox = Outbox()
    for number in range(10 * MAX_CONTROL):
        outbox.say({"type": "failed", "number": number})
        show(outbox, 2 * number, wire.JPEG)
    said = 0
    while isinstance(send(outbox), dict):
        said += 1
    assert said == MAX_CONTROL
    assert len(headers(outbox)) == 2


def test_waiting_ends_when_there_is_something() -> None:
    async def work() -> Any:
        outbox = Outbox()
        waiting = asyncio.create_task(outbox.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        outbox.say({"type": "hello"})
        return await waiting

    assert run(work()) == {"type": "hello"}


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_forgetting_leaves_nothing(codec: str) -> None:
    outbox = Outbox(codec)
    show(outbox, 0, wire.JPEG)
    outbox.dropped = 3
    outbox.forget_media()
    assert send(outbox) is None and outbox.dropped == 0
