"""`make mutate` takes hours; that its list still fits the code takes none."""

import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ENTRIES = tomllib.loads((HERE / "handmade.toml").read_text())["mutant"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["new"].strip()[:50])
def test_each_mutant_changes_one_place_and_has_tests(entry):
    assert (HERE.parents[1] / entry["file"]).read_text().count(entry["old"]) == 1
    assert all((HERE.parents[1] / tests).exists() for tests in entry["tests"])
