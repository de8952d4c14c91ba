"""What Prometheus reads, against what happened."""

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from motionstream.server.app import create_app
from motionstream.server.engine import Engine
from motionstream.server.host import ReplicaState
from motionstream.server.metrics import Metrics
from motionstream.wire import VERSION, unpack


def read(client: TestClient) -> dict[tuple[str, str], float]:
    """Every sample by its name and the value of its first label."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_happened_is_counted(client: TestClient) -> None:
    before = read(client)
    assert before["motionstream_status", "ready"] == 1 and before["motionstream_status", "loading"] == 0
    assert before["motionstream_sessions_limit", ""] == 2
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "start", "protocol": VERSION, "picture": "checkers", "codecs": ["h264"]})
        frames = size = 0
        for delay in (0.03, 0.4, None):
            while not (data := socket.receive().get("bytes")):
                pass
            message = unpack(data)
            frames, size = frames + len(message.parts), size + len(data)
            acknowledged = {"type": "received", "frame": message.header["first"]}
            socket.send_json(acknowledged if delay is None else {**acknowledged, "delay": delay})
        socket.send_json({"type": "pause"})
        while socket.receive().get("text", "").find("accepted") < 0:
            pass
        after = read(client)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert grown["motionstream_frames_total", ""] >= frames == 33
    assert grown["motionstream_sent_bytes_total", ""] >= size
    assert grown["motionstream_sessions", ""] == grown["motionstream_viewers", ""] == 1
    assert grown["motionstream_pointer_to_pixel_seconds_count", ""] == 2
    assert abs(grown["motionstream_pointer_to_pixel_seconds_sum", ""] - 0.43) < 1e-6
    chunks = grown["motionstream_step_to_first_frame_seconds_count", ""]
    for stage in ("conditions", "generate", "decode", "settle", "encode"):
        assert grown["motionstream_stage_seconds_count", stage] == chunks >= 3
    assert grown["motionstream_stage_seconds_sum", "generate"] > 0
    assert after["process_resident_memory_bytes", ""] > 2**20
    assert after["motionstream_dropped_frames_total", ""] == before["motionstream_dropped_frames_total", ""]


def test_two_servers_count_apart(client: TestClient) -> None:
    other = Metrics(Engine(lambda: None))  # type: ignore[arg-type,return-value]
    other.dropped(12)
    assert b"motionstream_dropped_frames_total 12.0" in other.text()
    assert b'motionstream_status{status="loading"} 1.0' in other.text()


def test_several_engines_are_told_apart() -> None:
    class Two(Engine):
        replicas = [  # noqa: RUF012
            ReplicaState("ready", 3, 0, "", 700.0, 2000.0),
            ReplicaState("broken", 0, 2, "the device is gone", 0.0, 0.0),
        ]

    host = Two(lambda: None)  # type: ignore[arg-type,return-value]
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(Metrics(host).text().decode())
        for sample in family.samples
        if sample.name.startswith("motionstream_replica_")
    }
    assert (
        values["motionstream_replica_status", "0", "ready"] == values["motionstream_replica_status", "1", "broken"] == 1
    )
    assert sum(value for (name, *_), value in values.items() if name == "motionstream_replica_status") == 2
    assert values["motionstream_replica_sessions", "0"] == 3 and values["motionstream_replica_losses_total", "1"] == 2
    assert values["motionstream_replica_resident_memory_bytes", "0"] == 7e8
    assert values["motionstream_replica_device_memory_bytes", "0"] == 2e9
    health = TestClient(create_app(host), headers={"host": "localhost"}).get("/health").json()
    assert health["replicas"] == [
        {"status": "ready", "sessions": 3, "losses": 0},
        {"status": "broken", "sessions": 0, "losses": 2, "problem": "the device is gone"},
    ]
