"""How a result is written."""

import json

import pytest

from motionstream.evaluation import report


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
