"""A channel and its registry with a session of the test's own: who is told what, and who is waited for."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg

from motionstream import wire
from motionstream.server import channel as channel_module
from motionstream.server.channel import MAX_WATCHERS, Channel
from motionstream.server.channels import Channels
from motionstream.server.outbox import Outbox
from motionstream.server.session import Accepted, Chunk, Ended, Event, Failed, Fresh, Limits, Session, Started
from motionstream.session.commands import Pause, Resume


def open_session(sessions: list[Session]) -> Callable[[Callable[[], None]], Session]:
    def make(notify: Callable[[], None]) -> Session:
        sessions.append(Session(Fresh(np.zeros((8, 8, 3), np.uint8)), Limits(), notify, lambda: None))
        return sessions[-1]

    return make


def frames(first: int, count: int = 12) -> np.ndarray:
    """A gradient, brighter frame by frame: which one it is can be told from its mean."""
    base = np.linspace(0, 60, 64 * 64).reshape(64, 64, 1).repeat(3, 2)
    return np.stack([base + number for number in range(first, first + count)]).astype(np.uint8)


def chunk(first: int, count: int = 12) -> Chunk:
    return Chunk(first // 12, first, 24.0, frames(first, count), 0.1, np.zeros((count, 0, 2), np.float32), (), 1.0)


async def message(outbox: Outbox) -> Any:
    taken = await asyncio.wait_for(outbox.next(), 20)
    return wire.unpack(taken) if isinstance(taken, bytes) else taken


def run(work: Callable[[Channels, list[Session]], Coroutine[Any, Any, None]], grace: float = 30.0) -> None:
    async def whole() -> None:
        await work(Channels(grace), [])

    asyncio.run(whole())


STARTED = Started((64, 64), 24.0, 0, 3)


def test_a_slow_viewers_stream_can_be_decoded_again_after_frames_were_dropped() -> None:
    async def work(channels: Channels, sessions: list[Session]) -> None:
        outbox = Outbox("h264")
        channels.open(open_session(sessions), outbox)
        sessions[0].put(STARTED)
        assert (await message(outbox))["type"] == "started"
        shown, decoder = [], av.CodecContext.create("h264", "r")
        sessions[0].put(chunk(0))
        received = [await message(outbox)]
        for first in range(12, 84, 12):  # the viewer reads nothing
            sessions[0].put(chunk(first))
            while sessions[0].take.__self__._chunks:  # one at a time, so that the channel has each
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        sessions[0].put(chunk(84))
        while not received or received[-1].header["first"] != 84:
            received.append(await message(outbox))
        for part in received:
            for number, unit in enumerate(part.parts):
                [frame] = decoder.decode(av.Packet(unit))
                picture = frame.to_ndarray(format="rgb24").astype(float)
                assert abs(picture.mean() - frames(part.header["first"] + number, 1).mean()) < 0.8
                shown.append(part.header["first"] + number)
        dropped = sum(part.header["dropped"] for part in received)
        assert dropped > 0 and dropped + len(shown) == 96, "every frame was shown or is counted"
        after = next(part for part in received if part.header["dropped"])
        assert after.header["keyframes"][0] == 0

    run(work)


def test_viewers_of_one_codec_share_what_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    original = channel_module.make_encoder
    monkeypatch.setattr(
        channel_module, "make_encoder", lambda codec, *rest: made.append(codec) or original(codec, *rest)
    )

    async def work(channels: Channels, sessions: list[Session]) -> None:
        owner, one, two = Outbox("h264"), Outbox("h264", steers=False), Outbox("jpeg", steers=False)
        channel = channels.open(open_session(sessions), owner)
        sessions[0].put(STARTED)
        assert (await message(owner))["session"] == channel.secret
        for outbox in (one, two):
            channels.watch(channel.share, outbox)
            assert "session" not in await message(outbox)
        sessions[0].put(chunk(0))
        first, second, third = [await message(outbox) for outbox in (owner, one, two)]
        assert first.parts == second.parts and third.kind == wire.JPEG
        assert sorted(made) == ["h264", "jpeg"]
        sessions[0].put(Accepted("press", 12, 1))
        assert (await message(owner))["type"] == "accepted"
        late = Outbox("h264", steers=False)
        channels.watch(channel.share, late)
        assert (await message(late))["frame"] == 12
        assert (await message(late)).header["still"]
        sessions[0].put(chunk(12))
        assert [(await message(outbox)).header["keyframes"] for outbox in (owner, one, late)] == [[0]] * 3
        assert isinstance(await message(two), wire.Message), "watchers are not told what was accepted"

    run(work)


def test_a_stream_that_another_engine_goes_on_with_keeps_its_secret_and_begins_with_a_keyframe() -> None:
    async def work(channels: Channels, sessions: list[Session]) -> None:
        owner, watcher = Outbox("h264"), Outbox("h264", steers=False)
        channel = channels.open(open_session(sessions), owner)
        channels.watch(channel.share, watcher)
        sessions[0].put(STARTED)
        sessions[0].put(chunk(0))
        for outbox in (owner, watcher):
            assert (await message(outbox))["frame"] == 0
            assert (await message(outbox)).header["first"] == 0
        sessions[0].put(replace(STARTED, recording="another"))
        sessions[0].put(chunk(24))
        again = await message(owner)
        assert (again["session"], again["recording"], again["frame"]) == (channel.secret, "another", 12)
        assert (await message(watcher))["recording"] is None
        assert [(await message(outbox)).header["keyframes"] for outbox in (owner, watcher)] == [[0], [0]]

    run(work)


def test_nothing_is_made_while_nobody_looks_and_the_session_waits() -> None:
    async def work(channels: Channels, sessions: list[Session]) -> None:
        owner, watcher = Outbox(), Outbox(steers=False)
        channel = channels.open(open_session(sessions), owner)
        session = sessions[0]
        channels.watch(channel.share, watcher)
        channels.leave(channel, owner)
        assert session.watched and not session.closed
        channels.leave(channel, watcher)
        assert not session.watched and not session.closed
        back = Outbox()
        assert channels.rejoin(channel.secret, back) is channel and session.watched
        await asyncio.sleep(0.25)
        assert not session.closed, "its timer was stopped"
        channels.leave(channel, back)
        await asyncio.sleep(0.25)
        assert session.closed
        with pytest.raises(ValueError, match="has ended"):
            session.end(Ended("stopped"))
            await asyncio.sleep(0.05)
            channels.rejoin(channel.secret, back)

    run(work, grace=0.1)


def test_who_joins_is_shown_the_last_frame_at_once_and_then_a_keyframe() -> None:
    async def work(channels: Channels, sessions: list[Session]) -> None:
        owner, back, watcher = Outbox("h264"), Outbox("h264"), Outbox("h264", steers=False)
        channel = channels.open(open_session(sessions), owner)
        for event in (STARTED, chunk(0), Accepted("pause", 12)):
            sessions[0].put(event)
        for _ in range(3):
            await message(owner)
        channels.rejoin(channel.secret, back)
        channels.watch(channel.share, watcher)
        for outbox in (back, watcher):
            assert (await message(outbox))["paused"]
            still = await message(outbox)
            assert still.kind == wire.JPEG and (still.header["first"], still.header["still"]) == (11, True)
            assert still.header["sent"] is None and len(still.positions) == 1
            (picture,) = (simplejpeg.decode_jpeg(part) for part in still.parts)
            assert abs(picture.mean() - frames(11, 1).mean()) < 0.5
        sessions[0].put(chunk(12))
        for outbox in (back, watcher):
            after = await message(outbox)
            assert after.kind == wire.H264 and after.header["keyframes"] == [0] and after.header["first"] == 12
            assert after.header["dropped"] == 0 and "still" not in after.header

    run(work)


def test_a_page_that_cannot_be_seen_gets_no_frames_and_stops_nobody_else() -> None:
    async def work(channels: Channels, sessions: list[Session]) -> None:
        owner, watcher = Outbox("h264"), Outbox("h264", steers=False)
        channel = channels.open(open_session(sessions), owner)
        channels.watch(channel.share, watcher)
        sessions[0].put(STARTED)
        for outbox in (owner, watcher):
            await message(outbox)
        channel.see(owner, False)
        assert sessions[0].watched, "the other one looks"
        sessions[0].put(chunk(0))
        assert (await message(watcher)).header["first"] == 0
        sessions[0].put(Accepted("prompt", 12))
        assert (await message(owner))["type"] == "accepted", "control is told all the same, and no frames before it"
        channel.see(watcher, False)
        assert not sessions[0].watched
        channel.see(owner, True)
        assert sessions[0].watched
        sessions[0].put(chunk(12))
        back = await message(owner)
        assert back.header["first"] == 12 and back.header["keyframes"] == [0]
        channels.leave(channel, owner)
        assert not sessions[0].watched, "who is left cannot be seen"

    run(work)


def test_a_viewer_that_returns_sees_whether_the_stream_is_paused() -> None:
    async def work(channels: Channels, sessions: list[Session]) -> None:
        owner, back = Outbox(), Outbox()
        channel = channels.open(open_session(sessions), owner)
        for event in (STARTED, chunk(0), Accepted("pause", 12)):
            sessions[0].put(event)
        while (await message(owner)) != {"type": "accepted", "command": "pause", "frame": 12, "gesture": None}:
            pass
        channels.rejoin(channel.secret, back)
        again = await message(back)
        assert again["paused"] and again["frame"] == 12
        for command, paused in ((Resume(time=0), False), (Pause(time=0), True)):
            channel.submit(command)
            back = Outbox()
            channels.rejoin(channel.secret, back)
            assert (await message(back))["paused"] is paused, "before the engine has obeyed it, too"
        sessions[0].put(Failed("not yet", "pause"))
        await asyncio.sleep(0.05)
        back = Outbox()
        channels.rejoin(channel.secret, back)
        assert not (await message(back))["paused"]

    run(work)


def test_only_so_many_watch() -> None:
    async def work(channels: Channels, sessions: list[Session]) -> None:
        channel = channels.open(open_session(sessions), Outbox())
        for _ in range(MAX_WATCHERS):
            channels.watch(channel.share, Outbox(steers=False))
        with pytest.raises(ValueError, match=f"{MAX_WATCHERS} viewers watch"):
            channels.watch(channel.share, Outbox(steers=False))

    run(work)


def test_an_encoder_that_fails_ends_the_stream_in_words(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def fail(*_: object) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(channel_module, "make_encoder", fail)

    async def work(channels: Channels, sessions: list[Session]) -> None:
        owner = Outbox()
        channels.open(open_session(sessions), owner)
        sessions[0].put(STARTED)
        assert (await message(owner))["type"] == "started"
        sessions[0].put(chunk(0))
        failed = await message(owner)
        assert failed["fatal"] and failed["message"].startswith("the frames could not be encoded")
        assert sessions[0].closed

    run(work)
    assert "no memory" in caplog.text


def test_what_was_opened_in_vain_leaves_nothing() -> None:
    def refuse(notify: Callable[[], None]) -> Session:
        raise ValueError("full")

    async def work(channels: Channels, sessions: list[Session]) -> None:
        with pytest.raises(ValueError, match="full"):
            channels.open(refuse, Outbox())
        assert len(asyncio.all_tasks()) == 1

    run(work)


def test_the_last_event_ends_the_channel() -> None:
    over: list[Channel] = []

    async def work(channels: Channels, sessions: list[Session]) -> None:
        with ThreadPoolExecutor(1) as executor:
            channel = Channel(open_session(sessions), executor, over.append)
            events: list[Event] = [STARTED, chunk(0), Ended("stopped")]
            for event in events:
                sessions[0].end(event) if isinstance(event, Ended) else sessions[0].put(event)
            for _ in range(200):
                if over:
                    break
                await asyncio.sleep(0.01)
        assert over == [channel] and channel.ended

    run(work)
