"""What a result says about where it was measured, and how it is written."""

import json

import pytest
import torch

from motionstream.evaluation import report


def test_the_environment_names_hardware_versions_and_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/motionstream", "evaluate", "rendered", "--model", "my model"])
    found = report.environment()
    assert found["torch"] == torch.__version__ and found["device"] == "cpu" and found["processor"]
    assert found["command"] == "motionstream evaluate rendered --model 'my model'"
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 12


def test_no_checkout_means_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "__file__", str(tmp_path / "report.py"))
    assert report.commit() is None


def test_the_last_line_is_the_file(tmp_path, capsys):
    output = tmp_path / "result.json"
    report.finish({"a": 1.5}, output)
    assert capsys.readouterr().out == '{"a": 1.5}\n'
    assert json.loads(output.read_text()) == {"a": 1.5}


def test_a_number_that_json_does_not_know_leaves_no_file(tmp_path):
    output = tmp_path / "result.json"
    with pytest.raises(ValueError):
        report.finish({"a": float("nan")}, output)
    assert not list(tmp_path.iterdir())
