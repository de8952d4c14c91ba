"""benchmarks/track_encoding.py: both ways are timed and counted, and what cannot be compared is refused."""

import json

import pytest


@pytest.fixture(scope="module")
def script(load_benchmark):
    return load_benchmark("track_encoding")


def test_both_ways_are_timed_and_counted(script, tmp_path):
    output = tmp_path / "result.json"
    script.main(["--model=wan2.1-debug", "--size", "32", "48", "--frames=5", "--repeats=1", "--output", str(output)])
    result = json.loads(output.read_text())
    assert set(result["milliseconds"]) == {"head", "drawn"} and result["times_as_long"] > 0
    assert result["operations"]["drawn"] > result["operations"]["head"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--model=nano"], "'nano' carries content"), (["--frames=8"], "frames 8"), (["--size", "30", "48"], "48x30")],
)
def test_what_cannot_be_compared_is_refused(script, options, said):
    with pytest.raises(ValueError, match=said):
        script.main(options)
