"""`motionstream serve --ray`: two replicas of nano on a Ray of this machine, of which one is killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from motionstream import cli
from motionstream.client import Chunk, Client, ServerError
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server import on_ray
from motionstream.server.measure import ADDRESS
from motionstream.server.media import JpegEncoder
from motionstream.session.recording import Recording
from motionstream.session.replay import Replay

TOKEN = "a-token-of-the-test"

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform != "linux",
    reason="ray is not installed, or this is not Linux: serving on Ray was NOT tested; pip install 'ray[serve]'",
)


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert cli.main(["serve", "--ray", "--port", "0", "--forget"]) == 2
    assert 'pip install -e ".[ray]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replicas", "2"], "without --ray"),
        (["--ray", "--replicas", "0"], "--replicas is 0"),
        (["--ray", "--device", "cuda:1"], "--device is cuda:1; say cuda"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(arguments: list[str], words: str, capsys) -> None:
    assert cli.main(["serve", "--port", "0", "--forget", *arguments]) == 2
    assert words in capsys.readouterr().err


class Cluster:
    """A Ray with so many of each kind, on so many machines."""

    def __init__(self, machines: int = 1, **kinds: float) -> None:
        self.cluster_resources, self.nodes = lambda: kinds, lambda: [{}] * machines


@pytest.mark.parametrize(
    ("cluster", "device", "replicas", "count", "each"),
    [
        (Cluster(CPU=8.0), "auto", None, 1, {"num_gpus": 0, "num_cpus": 8}),
        (Cluster(CPU=9.0), "auto", 2, 2, {"num_gpus": 0, "num_cpus": 4}),
        (Cluster(CPU=9.0, machines=2), "cpu", 2, 2, {"num_gpus": 0, "num_cpus": 1}),
        (Cluster(CPU=64.0, GPU=8.0), "auto", None, 8, {"num_gpus": 1, "num_cpus": 1}),
        (Cluster(CPU=4.0, GPU=8.0), "cuda", 6, 6, {"num_gpus": 1, "num_cpus": 0}),
        (Cluster(CPU=4.0, GPU=8.0), "cpu", None, 1, {"num_gpus": 0, "num_cpus": 4}),
    ],
)
def test_each_replica_has_a_gpu_or_its_share_of_the_cores(
    cluster: Cluster, device: str, replicas: int | None, count: int, each: dict[str, int]
) -> None:
    assert on_ray._resources(cluster, device, replicas) == (count, each)


@pytest.mark.parametrize(
    ("cluster", "device", "replicas", "words"),
    [
        (Cluster(CPU=2.0), "auto", 3, "3 replicas need a processor core each, and Ray has 2"),
        (Cluster(CPU=2.0), "cuda", None, "1 replicas need a GPU each, and Ray has 0"),
        (Cluster(CPU=64.0, GPU=8.0), "auto", 9, "9 replicas need a GPU each, and Ray has 8"),
    ],
)
def test_more_replicas_than_devices_are_refused(
    cluster: Cluster, device: str, replicas: int | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        on_ray._resources(cluster, device, replicas)


# ------------------------------------------------------------------------------------------------ the real thing


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ours = {**os.environ, "PYTHONPATH": paths, "MOTIONSTREAM_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    ours.pop("RAY_ADDRESS", None)
    return ours


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """With two replicas, one stream each. It and all that it starts end when it is told to."""
    command = [sys.executable, "-m", "motionstream", "serve", "--ray", "--replicas", "2", "--sessions", "1"]
    options = ["--device", "cpu", "--port", "0", "--recordings", str(tmp_path / "sessions")]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment())
    try:
        yield process
    finally:
        ours = family(process.pid)
        process.terminate()
        process.communicate(timeout=60)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours))


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def family(root: int) -> dict[int, str]:
    """A process and all that come from it, with what they call themselves."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: titles[pid] for pid in found if pid in titles}


def listening(pids: dict[int, str]) -> set[str]:
    """The addresses, in hexadecimal, at which these processes can be reached by TCP."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(link))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def fetch(address: str, path: str, **headers: str) -> bytes:
    request = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {TOKEN}", **headers})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
        return content


def replicas(address: str, key: str) -> list[Any]:
    return [state[key] for state in json.loads(fetch(address, "health"))["replicas"]]


def check_frames(chunks: list[Chunk], recording: bytes, folder: Path, pipeline: MotionStreamPipeline) -> None:
    """What came is what the recording makes, bit for bit, encoded as the server does."""
    path = folder / "session.jsonl"
    path.write_bytes(recording)
    again = {shot.first: shot.frames for shot in Replay(pipeline, Recording.read(path)).shots()}
    for chunk in chunks:
        parts = JpegEncoder().encode(again[chunk.first], keyframe=True).parts
        twin = np.stack([simplejpeg.decode_jpeg(part) for part in parts])
        assert np.array_equal(chunk.frames, twin), f"frame {chunk.first} on"


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_killed_replicas_session_goes_on_with_the_same_secret_and_frames(
    server: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert server.stdout is not None
    found = ADDRESS.search(server.stdout.readline())
    assert found is not None
    address = found[1].partition("?")[0]
    until(lambda: replicas(address, "status") == ["ready", "ready"])
    for headers, status in (({"Authorization": ""}, 401), ({"Host": "evil.example"}, 403)):
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            fetch(address, "", **headers)
    with pytest.raises(ServerError, match="is the token right"):
        Client(address, "another-token-of-nobody")
    # 127.0.0.1, also as IPv6 writes it: Ray's own servers, too, are for this machine alone.
    assert listening(family(server.pid)) <= {"0100007F", "0000000000000000FFFF00000100007F"}

    first, second = (Client(address, TOKEN, "jpeg", patience=60) for _ in range(2))
    first.start("chelsea", "a cat", seed=1)
    second.start("coffee", "a cup", seed=2)
    assert replicas(address, "sessions") == [1, 1]
    quiet: list[Chunk] = []
    over = threading.Event()

    def look_on() -> None:
        for chunk in second.chunks(patience=120):
            quiet.append(chunk)
            if over.is_set():
                return

    watching = threading.Thread(target=look_on)
    watching.start()

    seen: list[Chunk] = []
    begun, drag = dict(first.started), first.drag(60, 64)
    for chunk in first.chunks(patience=120):
        seen.append(chunk)
        drag.move(60 + 4 * len(seen), 64)
        if len(seen) == 4:
            break
    [victim] = [
        pid for pid, title in family(server.pid).items() if title.startswith("ray::ServeReplica:motionstream-0")
    ]
    os.kill(victim, signal.SIGKILL)

    told: list[str] = []
    continued: dict[str, Any] = {}
    while not continued:
        message = first.receive(patience=240)
        if isinstance(message, Chunk):
            seen.append(message)
        elif message["type"] == "continued":
            continued = message
        else:
            told.append(message["type"])
    assert told.index("started") < told.index("replaying") and "ended" not in told
    assert first.started["session"] == begun["session"] and first.started["recording"] != begun["recording"]
    until(lambda: replicas(address, "status") == ["ready", "ready"], 240)
    assert replicas(address, "losses") == [1, 0]
    before = len(seen)
    first.pin(30, 30)
    for chunk in first.chunks(patience=120):
        seen.append(chunk)
        if len(seen) == before + 2:
            break
    first.close()
    with Client(address, TOKEN, "jpeg", patience=60) as again:
        again.rejoin(begun["session"])
        seen.append(next(again.chunks(patience=120)))
        recording = again.started["recording"]
        again.stop()
        again.wait_for("ended", 60)
    over.set()
    watching.join(120)
    quiet_recording = second.started["recording"]
    second.stop()
    second.wait_for("ended", 60)
    second.close()

    assert b'motionstream_replica_losses_total{replica="0"} 1.0' in fetch(address, "metrics")
    pipeline = MotionStreamPipeline.from_pretrained("nano")
    firsts = [chunk.first for chunk in seen]
    assert firsts == sorted(set(firsts)) and firsts[-3] >= continued["frame"] > firsts[3]
    check_frames(seen, fetch(address, f"api/sessions/{recording}/recording"), tmp_path, pipeline)
    # The other session has gone on as if nothing had happened.
    assert [chunk.first for chunk in quiet] == [0, *range(9, 12 * len(quiet) - 3, 12)] and len(quiet) > 4
    check_frames(quiet, fetch(address, f"api/sessions/{quiet_recording}/recording"), tmp_path, pipeline)


BROKEN = """
import sys, time
from pathlib import Path
from motionstream.pipeline import MotionStreamPipeline
from motionstream.server.on_ray import fleet_on_ray
from motionstream.server.session import Limits
from motionstream.session.library import Library

repaired = Path(sys.argv[1])

def load():
    if not repaired.exists():
        raise ValueError("no weights yet")
    return MotionStreamPipeline.from_pretrained("debug", untrained=True)

with Library() as library, fleet_on_ray(load, Limits(), library, device="cpu", replicas=1) as fleet:
    for status in ("broken", "ready"):
        while fleet.status != status:
            time.sleep(0.1)
        print(fleet.status, fleet.problem, flush=True)
        repaired.touch()
"""


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broken_engine_is_started_anew(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN, str(tmp_path / "repaired")]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment(), timeout=200, check=True).stdout
    assert told.splitlines() == ["broken no weights yet", "ready "]
