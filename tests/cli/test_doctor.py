import json

import pytest

import motionstream.commands.doctor as doctor
from motionstream.cli import main
from motionstream.memory import estimate
from motionstream.presets import preset

GIB = 2**30


@pytest.fixture(autouse=True)
def weights_of_nano(monkeypatch, tmp_path):
    import motionstream.pipeline as pipeline

    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "model.json").write_text("{}")
    monkeypatch.setattr(pipeline, "WEIGHTS", tmp_path)


def test_every_device_and_backend_is_named(capsys):
    assert main(["doctor", "--preset", "wan2.1-debug"]) == 0
    said = capsys.readouterr().out
    assert "device       cpu (the processor): " in said and "GiB free of" in said
    assert "attention    sdpa" in said and "attention    flash3" in said
    assert "nano embedded" in said and "missing      nothing" in said
    assert "96x64, 64x96" in said and "80x80" in said
    assert "Memory in GiB on cpu" in said and "│ yes" in said


def test_the_json_is_the_estimate(capsys):
    assert main(["doctor", "--preset", "wan2.2-debug", "--memory", "24", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory"]["device"] == {"name": "a CUDA card of 24 GiB", "kind": "cuda", "free": 24 * GIB}
    assert found["devices"][-1]["kind"] == "cpu" and 0 < found["devices"][-1]["free"] <= found["devices"][-1]["total"]
    rows = found["memory"]["models"]
    assert [row["sizes"] for row in rows] == [["128x96", "96x128"], ["96x96"]]
    budget = estimate(preset("wan2.2-debug"))
    row = rows[0]
    assert (row["peak"], row["worst"]) == (budget.peak, budget.worst)
    assert row["resident"] == budget.resident and row["moments"] == budget.moments
    assert row["fits"] is True and row["fits_with"] == ""


def test_the_columns_add_up():
    budget = estimate(preset("wan2.1-debug"), decoder="tiny", text_encoder="resident")
    columns = doctor.columns(budget)
    stays = sum(columns[name] for name in ("weights", "cache", "decoder", "overhead"))
    assert stays + max(columns[name] for name in ("generate", "decode", "encode")) == budget.peak


def test_what_does_not_fit_is_told_how_it_would(capsys):
    needed = estimate(preset("wan2.1-debug"), size=(64, 96)).peak / GIB
    assert main(["doctor", "--preset", "wan2.1-debug", "--memory", f"{needed - 0.001}", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["memory"]["models"]
    assert rows[0]["fits"] is False and rows[0]["fits_with"].startswith("--")
    assert main(["doctor", "--preset", "wan2.1-debug", "--memory", "0.5"]) == 0
    assert "│ no " in capsys.readouterr().out


def test_the_pattern_counts(capsys):
    caches = []
    for causal in ("c3s1w1", "c3s1w3"):
        assert main(["doctor", "--preset", "wan2.1-debug", "--causal", causal, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["memory"]["models"]
        caches.append(rows[0]["columns"]["cache"])
    assert caches[1] / caches[0] == (2 * 4 + 3 + 2) / (2 * 2 + 1 + 2)


def test_optional_packages_are_missed_without_harm(capsys, monkeypatch):
    there = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in doctor.OPTIONAL else there(name))
    assert main(["doctor", "--memory", "16"]) == 0
    said = capsys.readouterr().out
    assert "optional     transformers is not here, for the text and image encoders" in said
    assert "optional     ftfy is not here" in said and "missing      nothing" in said
    assert "│ nano" in said and "│ wan" not in said  # their encoders cannot be counted


def test_a_needed_package_ends_it(capsys, monkeypatch):
    there = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "av" else there(name))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "missing      the package av" in said and "Memory" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory", "0"], "--memory is 0"),
        (["--memory", "nan"], "--memory is nan"),
        (["--preset", "wan3"], "no preset 'wan3'"),
        (["--causal", "3-1-1"], "attention pattern '3-1-1'"),
    ],
)
def test_wrong_options_are_refused(capsys, arguments, words):
    assert main(["doctor", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1
