"""projects/Lab/tools/benchmark.py, on a measurement of three calls."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lab.benchmarks.comparison import Comparison
from pretrain.errors import UserError

SCRIPT = Path(__file__).parents[2] / "projects" / "Lab" / "tools" / "benchmark.py"


@pytest.fixture
def run_tool(monkeypatch):
    """run_tool(*arguments) calls the tool's main; its `data` command hands out a fixed comparison."""
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    command = ModuleType("lab.benchmarks.data")

    def run(options):
        result = Comparison.of("multi-crop", [1.0, 1.0, 1.2], [6.0, 8.0, 6.0], {"dtype": options.dtype})
        result.tables["where the time goes"] = [{"part": "decode", "share": 0.25}]
        return [result]

    command.run = run
    monkeypatch.setitem(sys.modules, "lab.benchmarks.data", command)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
        tool.main()

    return call


def test_prints_a_table_and_writes_the_same_as_json(run_tool, tmp_path, capsys):
    run_tool("data", "--dtype", "bfloat16", "--json", tmp_path / "out" / "data.json")
    printed = capsys.readouterr().out
    assert "multi-crop" in printed and "0.167" in printed and "where the time goes" in printed and "decode" in printed
    written = json.loads((tmp_path / "out" / "data.json").read_text())
    assert written["command"] == "data" and written["machine"]["threads"] >= 1
    (comparison,) = written["comparisons"]
    assert comparison["ratio"] == pytest.approx(1 / 6) and comparison["plain"] == 6.0
    assert comparison["what"] == {"dtype": "bfloat16", "pairs": 3} and len(comparison["spread"]) == 2


@pytest.mark.parametrize("arguments", [("--pairs", "0"), ("--threads", "-1"), ("--json", ".")])
def test_bad_options_are_refused_before_anything_is_measured(run_tool, arguments, capsys):
    with pytest.raises(UserError, match=arguments[0]):
        run_tool("data", *arguments)
    assert not capsys.readouterr().out


def test_a_file_that_exists_is_not_written_over(run_tool, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    with pytest.raises(UserError, match="mine.json exists, and would be written over"):
        run_tool("data", "--json", tmp_path / "mine.json")


def test_an_unknown_command_is_refused(run_tool, capsys):
    with pytest.raises(SystemExit) as left:
        run_tool("speed")
    assert left.value.code == 2 and "data" in capsys.readouterr().err
