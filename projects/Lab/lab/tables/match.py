"""Match results to tables."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lab.tables.gather import Result
from lab.tables.papers import Column, PaperTable


class Figure(NamedTuple):
    """A value measured here, its metric, and its result.json."""

    value: float
    metric: str
    file: Path


def rows_here(table: PaperTable, results: list[Result]) -> dict[str, list[Figure | None]]:
    """Our rows of a table by model, in the models' order: one value for each column, None if not measured.

    A result must match a column's protocol and dataset and not contradict the table's `where`; the best of a column's
    metrics is used. If a result does not record the model's size and training, only its name tells whether it belongs
    in the table. Runs of one model that would share a cell get their own rows, named by their folder.
    """
    runs = Counter((result.model, result.protocol, result.dataset) for result in results)
    several = {model for (model, _, _), count in runs.items() if count > 1}
    rows: dict[str, list[Figure | None]] = {}
    for result in results:
        if any(result.settings.get(name, value) != value for name, value in table.where.items()):
            continue
        model = f"{result.model} ({result.file.parent.as_posix()})" if result.model in several else result.model
        for index, column in enumerate(table.columns):
            if figure := _figure(column, result):
                rows.setdefault(model, [None] * len(table.columns))[index] = figure
    return dict(sorted(rows.items()))


def _figure(column: Column, result: Result) -> Figure | None:
    if (result.protocol, result.dataset) != (column.protocol, column.dataset):
        return None
    found = [(result.metrics[name], name) for name in column.metrics if name in result.metrics]
    return Figure(*max(found), result.file) if found else None


def unplaced(tables: Iterable[PaperTable], results: list[Result]) -> list[Result]:
    """Results that belong in no table: other datasets, other protocols."""
    rows = [row for table in tables for row in rows_here(table, results).values()]
    placed = {figure.file for row in rows for figure in row if figure}
    return [result for result in results if result.file not in placed]
