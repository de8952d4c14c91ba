"""What a result says about where it was measured."""

import torch

from motionstream import environment


def test_the_environment_names_hardware_versions_and_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/motionstream", "evaluate", "rendered", "--model", "my model"])
    found = environment.environment()
    assert found["versions"]["torch"] == torch.__version__ and found["device"] == "cpu" and found["processor"]
    assert found["command"] == "motionstream evaluate rendered --model 'my model'"
    monkeypatch.setattr("sys.argv", ["/somewhere/motionstream/__main__.py", "doctor"])
    assert environment.environment()["command"] == "motionstream doctor"
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 12


def test_no_checkout_means_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "report.py"))
    assert environment.commit() is None
