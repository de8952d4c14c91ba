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


def test_a_table_in_a_file_is_whole_however_long_its_names(capsys):
    """At the 80 columns of a file, rich had cut names and figures short."""
    columns = [f"column {k}" for k in range(8)]
    name = "work/a/long/folder/of/models/self-forcing at 3 steps"
    report.console().print(report.table("a title", columns, {name: [f"{k}.25 [1.00, 2.00]" for k in range(8)]}))
    out = capsys.readouterr().out
    assert name in out and all(f"{k}.25 [1.00, 2.00]" in out for k in range(8)) and "…" not in out
