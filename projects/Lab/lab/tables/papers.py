"""The papers' tables, as CSV files in papers/; papers/tables.yaml describes each column."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent / "papers"
PAPERS = {"one": "CropField", "two": "StoP"}


@dataclass(frozen=True)
class Column:
    """A column of values: the best of `metrics` of a result.json with this `protocol` and `dataset`."""

    title: str
    protocol: str
    dataset: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class PaperTable:
    """A table of values.

    Args:
        key: paper and number, "one:1a".
        labels: titles of the columns that describe a row.
        rows: labels and values as printed, one for each of `labels` and `columns`; None is the paper's dash.
        command: computes a row's values for a backbone in FILE.
        where: settings that a result must not contradict, e.g. `{"epochs": 12}`.
        note: deviations from the printed table, or open questions.
    """

    key: str
    caption: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[float | None, ...]], ...]
    command: str
    where: dict
    note: str = ""

    @property
    def title(self) -> str:
        paper, number = self.key.split(":")
        return f"Paper {paper} ({PAPERS[paper]}), Table {number}: {self.caption}"


@cache
def paper_tables() -> dict[str, PaperTable]:
    """All tables by key, in the papers' order."""
    entries = yaml.safe_load((FOLDER / "tables.yaml").read_text(encoding="utf-8"))
    return {key: read_table(key, entry, FOLDER / f"{key.replace(':', '_')}.csv") for key, entry in entries.items()}


def read_table(key: str, entry: dict, file: Path) -> PaperTable:
    """A table from its entry in tables.yaml and its rows; ValueError if their columns differ."""
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    columns = tuple(Column(name, kind, data, tuple(best)) for name, (kind, data, *best) in entry["columns"].items())
    count = len(header) - len(columns)
    if header[count:] != list(entry["columns"]) or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{file}: its columns are not those of {key} in tables.yaml, or a row has too few or many")
    figures = [(tuple(r[:count]), tuple(None if cell == "-" else float(cell) for cell in r[count:])) for r in rows]
    return PaperTable(key, labels=tuple(header[:count]), rows=tuple(figures), **entry | {"columns": columns})
