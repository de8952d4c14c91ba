"""Benchmark of the server: frame rate, delays and memory, measured by clients in another process, beside the bare
engine's."""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from motionstream.client import Client
from motionstream.environment import environment
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.engine import Engine
from motionstream.server.pictures import photographs
from motionstream.server.session import Chunk, Ended, Failed, Limits, Session
from motionstream.session.commands import Move, Press

RATE = 60.0  # pointer samples per second
WARM_UP = 4  # first chunks of each session, which are not counted
FEWEST = 4  # smallest number of counted chunks, however slow the machine is
ROUNDS = 2  # alternations of bare engine and server, so that other programs' load affects both
ADDRESS = re.compile(r"MotionStream is at (http://\S+)")
PATIENCE = 120.0  # seconds for a server to load, and for any chunk
SAMPLE = 10.0  # seconds between two memory samples of a long run


@dataclass
class Seen:
    """Measurements of one session: ``frames`` from ``began`` to ``ended``, and for each chunk the delay of its latest
    pointer sample in seconds.

    ``arrived``: until the decoded frames. ``shown``: until the frame that shows it, played at the stream's rate.
    ``besides``: until the decoded frames, minus the engine's time from the cut of the tracks to the frames.
    """

    fps: float = 0.0
    frames: int = 0
    began: float = math.nan
    ended: float = math.nan
    arrived: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    besides: list[float] = field(default_factory=list)
    dropped: int = 0
    _chunks: int = 0
    _played: float = 0.0

    def enough(self, seconds: float) -> bool:
        """Whether ``seconds`` and FEWEST chunks have been counted."""
        return self._chunks >= WARM_UP + FEWEST and self.ended - self.began >= seconds

    def add(self, now: float, frames: int, fps: float, sent: float | None, latency: float, dropped: int) -> None:
        """Count a chunk."""
        begin, self._played = max(now, self._played), max(now, self._played) + frames / fps
        self._chunks += 1
        if self._chunks == WARM_UP:
            self.began = now
        if self._chunks <= WARM_UP:
            return
        self.frames, self.ended, self.dropped = self.frames + frames, now, self.dropped + dropped
        if sent is not None:
            self.arrived.append(now - sent)
            self.shown.append(begin + (frames - 1) / fps - sent)
            self.besides.append(now - sent - latency)


def bench_serve(
    preset: str,
    sessions: Sequence[int] = (1, 2, 4),
    seconds: float = 20.0,
    minutes: float = 0.0,
    *,
    untrained: bool = False,
    codec: Literal["h264", "jpeg"] = "h264",
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Serve ``preset`` from another process to clients in this one; returns a dict for JSON.

    For each number of ``sessions``, the bare engine (in this process, without transport) and the server run for
    ``seconds`` each, alternating; every session drags at RATE samples per second. ``fps`` is the total over sessions.
    Streams are paced at their own rate, so ``fps_ratio`` shows the cost of serving only if they ask for more than the
    device can generate. ``minutes``: length of a further run with one session, for its memory.

    Raises ValueError if the model cannot be loaded or a number is out of range.
    """
    if not sessions or not all(1 <= count <= 64 for count in sessions):
        raise ValueError(f"--sessions is {' '.join(map(str, sessions))}; give numbers from 1 to 64")
    if not 1 <= seconds <= 3600 or not 0 <= minutes <= 24 * 60:
        raise ValueError(f"--seconds is {seconds:g}, --minutes {minutes:g}; give 1 to 3600 and 0 to 1440")
    most, load = max(sessions), os.getloadavg()[0]  # other programs' load, read before adding our own
    pipeline = MotionStreamPipeline.from_pretrained(preset, untrained=untrained)
    with (
        Engine(lambda: pipeline, Limits(sessions=most, scale=None)) as engine,
        serving(preset, most, untrained) as address,
    ):
        while engine.status == "loading":
            time.sleep(0.01)
        idle = resident_mb(address)
        rows = []
        for count in sessions:
            say(f"{count} session{'s' if count > 1 else ''}")
            rows.append(_compare(engine, address, count, seconds, codec))
        long = None
        if minutes:
            say(f"1 session for {minutes:g} minutes")
            long = _long_run(address, minutes, codec)
    few, many = (min(rows, key=_count), max(rows, key=_count))
    each = (many["memory_mb"] - few["memory_mb"]) / (_count(many) - _count(few)) if _count(many) > _count(few) else None
    return {
        "benchmark": "serve",
        "preset": preset,
        "codec": codec,
        "seconds": seconds,
        "sessions": rows,
        "memory_mb": {"idle": idle, "each_session": None if each is None else round(each, 1)},
        "long_run": long,
        "load_average_before": round(load, 2),
        **environment(pipeline.device),
    }


def _count(row: dict[str, Any]) -> int:
    return int(row["sessions"])


def _compare(
    engine: Engine, address: str, count: int, seconds: float, codec: Literal["h264", "jpeg"]
) -> dict[str, Any]:
    bare: list[list[Seen]] = []
    served: list[list[Seen]] = []
    memory = 0.0
    for _ in range(ROUNDS):
        bare.append(_together(count, lambda number: _watch_engine(engine, number, seconds / ROUNDS)))
        served.append(_together(count, lambda number: _watch_server(address, number, seconds / ROUNDS, codec)))
        memory = max(memory, resident_mb(address))
    results = {name: _summary(rounds) for name, rounds in (("bare", bare), ("served", served))}
    return {
        "sessions": count,
        **results,
        "fps_ratio": round(results["served"]["fps"] / results["bare"]["fps"], 3),
        "extra_ms": round(
            results["served"]["besides_engine_ms"]["p50"] - results["bare"]["besides_engine_ms"]["p50"], 2
        ),
        "memory_mb": round(memory, 1),
    }


def _summary(rounds: list[list[Seen]]) -> dict[str, Any]:
    every = [seen for one in rounds for seen in one]
    rates = [sum(seen.frames / (seen.ended - seen.began) for seen in one) for one in rounds]
    return {
        "fps": round(float(np.mean(rates)), 2),
        "fps_each": [round(seen.frames / (seen.ended - seen.began), 2) for seen in every],
        "pointer_to_pixel_ms": _spread([value for seen in every for value in seen.shown]),
        "pointer_to_frames_ms": _spread([value for seen in every for value in seen.arrived]),
        "besides_engine_ms": _spread([value for seen in every for value in seen.besides]),
        "dropped": sum(seen.dropped for seen in every),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": round(1e3 * float(p50), 2), "p95": round(1e3 * float(p95), 2)}


def _together(count: int, watch: Callable[[int], Seen]) -> list[Seen]:
    """Run ``count`` viewers at the same time; returns their measurements."""
    seen: dict[int, Seen] = {}
    problems: list[BaseException] = []

    def one(number: int) -> None:
        try:
            seen[number] = watch(number)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return [seen[number] for number in range(count)]


def circle(size: tuple[int, int], moment: float) -> tuple[float, float]:
    """The pointer's position at a moment: once around the middle in five seconds."""
    height, width = size
    angle, radius = 2 * math.pi * moment / 5, 0.2 * min(size)
    return width / 2 + radius * math.cos(angle), height / 2 + radius * math.sin(angle)


# --------------------------------------------------------------------------------------------- the bare engine


def _watch_engine(engine: Engine, number: int, seconds: float) -> Seen:
    """Measure one session of the bare engine."""
    seen, something = Seen(), threading.Event()
    examples = photographs()
    session = engine.open(examples[number % len(examples)].load(), seed=number, notify=something.set)
    size, begin = engine.pipeline.config.size, engine.clock()
    session.submit(_pressed(begin, size))
    try:
        while not seen.enough(seconds):
            now = engine.clock()
            x, y = circle(size, now - begin)
            session.submit(Move(time=now, sent=now, gesture=1, x=x, y=y))
            something.wait(1 / RATE)
            something.clear()
            for event in iter(session.take, None):
                if isinstance(event, Failed | Ended):
                    raise ValueError(str(event))
                if isinstance(event, Chunk):
                    frames = len(event.frames)
                    seen.add(engine.clock(), frames, event.fps, event.sent, event.latency, event.dropped)
    finally:
        _close(session)
    return seen


def _pressed(now: float, size: tuple[int, int]) -> Press:
    x, y = circle(size, 0.0)
    return Press(time=now, sent=now, gesture=1, x=x, y=y)


def _close(session: Session) -> None:
    session.close()
    while not session.ended:
        time.sleep(0.01)


# --------------------------------------------------------------------------------------------------- the server


@contextlib.contextmanager
def serving(preset: str, sessions: int, untrained: bool) -> Iterator[str]:
    """Run a server in another process, for this machine only; yields its address."""
    options = ["--port", "0", "--no-token", "--forget", "--sessions", str(sessions)]
    command = [sys.executable, "-m", "motionstream", "serve", "--model", preset, *options]
    process = subprocess.Popen(
        [*command, "--untrained"] if untrained else command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        found = ADDRESS.search(process.stdout.readline())
        if found is None:
            raise ValueError(f"the server did not start: {process.communicate(timeout=10)[1].strip()[-500:]}")
        _wait_until_ready(found[1])
        yield found[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _wait_until_ready(address: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise ValueError(f"the server at {address} was not ready after {PATIENCE:g} seconds")


def resident_mb(address: str) -> float:
    """The server's resident memory in MiB, from its /metrics."""
    with urllib.request.urlopen(f"{address}metrics", timeout=30) as answer:
        found = re.search(r"^process_resident_memory_bytes (\S+)", answer.read().decode(), re.MULTILINE)
    assert found is not None, "the process collector works on Linux alone"
    return round(float(found[1]) / 2**20, 1)


def _watch_server(address: str, number: int, seconds: float, codec: Literal["h264", "jpeg"]) -> Seen:
    """Measure one session of the server."""
    with _dragging(address, number, codec) as client:
        return _receive(client, seconds, Seen())


def _receive(client: Client, seconds: float, seen: Seen) -> Seen:
    for chunk in client.chunks(patience=PATIENCE):
        sent = None if chunk.delay is None else chunk.arrived - chunk.delay
        header = chunk.header
        seen.add(chunk.arrived, len(chunk.frames), chunk.fps, sent, header["latency"], header["dropped"])
        if seen.enough(seconds):
            return seen
    raise ValueError("the server ended the stream")


@contextlib.contextmanager
def _dragging(address: str, number: int, codec: Literal["h264", "jpeg"]) -> Iterator[Client]:
    """A client with a running stream, whose pointer moves in circles in another thread."""
    examples = photographs()
    with Client(address, codec=codec) as client:
        size = client.hello["size"]
        client.start(examples[number % len(examples)].name, seed=number, patience=PATIENCE)
        drag, over = client.drag(*circle(size, 0.0)), threading.Event()

        def move() -> None:
            begin = time.monotonic()
            while not over.wait(1 / RATE):
                drag.move(*circle(size, time.monotonic() - begin))

        mover = threading.Thread(target=move)
        mover.start()
        try:
            yield client
        finally:
            over.set()
            mover.join()
            client.stop()
            client.wait_for("ended", PATIENCE)


def _long_run(address: str, minutes: float, codec: Literal["h264", "jpeg"]) -> dict[str, Any]:
    """The memory of a server with one session, over time; the first tenth counts as warm-up."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()
    begin = time.monotonic()

    def sample() -> None:
        while not over.wait(min(SAMPLE, 6 * minutes)):
            samples.append(((time.monotonic() - begin) / 60, resident_mb(address)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    seen = Seen()
    try:
        with _dragging(address, 0, codec) as client:
            _receive(client, 60 * minutes, seen)
    finally:
        over.set()
        sampler.join()
    kept = np.array([each for each in samples if each[0] >= 0.1 * minutes])
    return {
        "minutes": minutes,
        "frames": seen.frames,
        "memory_mb": {"first": kept[0, 1], "last": kept[-1, 1], "most": kept[:, 1].max()},
        "growth_mb_a_minute": round(float(np.polyfit(kept[:, 0], kept[:, 1], 1)[0]), 3) if len(kept) > 2 else None,
    }


def print_serve(result: dict[str, Any]) -> None:
    """Print the result of ``bench_serve`` as a table."""
    from rich.console import Console
    from rich.table import Table

    columns = ("sessions", "", "fps", "pointer to frames p50", "p95", "pointer to pixel p50", "p95", "dropped", "MB")
    table = Table(*columns, title=f"{result['preset']}, {result['codec']}, ms")
    for row in result["sessions"]:
        for name in ("bare", "served"):
            one, first = row[name], name == "bare"
            delays = [f"{one[key][p]:.0f}" for key in ("pointer_to_frames_ms", "pointer_to_pixel_ms") for p in one[key]]
            memory = "" if first else f"{row['memory_mb']:.0f}"
            table.add_row(
                str(row["sessions"]) if first else "", name, f"{one['fps']:.1f}", *delays, str(one["dropped"]), memory
            )
    Console().print(table)
    for row in result["sessions"]:
        print(f"{row['sessions']} sessions: {row['fps_ratio']:.3f} of the bare engine's fps, {row['extra_ms']:+.1f} ms")
    memory, long = result["memory_mb"], result["long_run"]
    each = memory["each_session"]
    print(f"memory: {memory['idle']:.0f} MB idle" + ("" if each is None else f", {each:.1f} MB each further session"))
    if long is not None:
        slope = "" if long["growth_mb_a_minute"] is None else f", {long['growth_mb_a_minute']:+.2f} MB a minute"
        first, last = long["memory_mb"]["first"], long["memory_mb"]["last"]
        print(f"{long['minutes']:g} minutes: {first:.0f} MB, then {last:.0f}{slope}")
