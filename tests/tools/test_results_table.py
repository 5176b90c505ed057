"""A folder of results in, tables out."""

import pytest

from cropfield.results import write_result
from pretrain.errors import UserError


def test_from_results_to_tables(run_tool, tmp_path, capsys):
    write_result(tmp_path / "runs" / "a", "video", "davis2017", "mine", {"J_mean": 51.0, "F_mean": 53.0})
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "result.json").write_text("{}")
    run_tool("results_table", tmp_path / "runs", "-o", tmp_path / "t.md", "--csv", tmp_path / "t.csv", "--measured")
    text = (tmp_path / "t.md").read_text()
    assert text.count("| **here** | mine |") == 2 and text.count("\n## ") == 2
    assert "two:16,here,mine,F-Mean,53.0" in (tmp_path / "t.csv").read_text()
    assert "left out: b/result.json" in capsys.readouterr().out
    run_tool("results_table", tmp_path / "runs", "--tables", "two:3")
    assert capsys.readouterr().out.count("| **here** | mine |") == 1


def test_a_table_that_is_not_there(load_tool):
    with pytest.raises(UserError, match="two:9"):
        load_tool("results_table").choose(["two:3", "two:9"])
