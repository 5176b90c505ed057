"""Which results belong into which table."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lab.tables.gather import Result
from lab.tables.paper_table import Column, PaperTable


@dataclass(frozen=True)
class Figure:
    """A number that was measured here, under which name, and by which result."""

    value: float
    metric: str
    result: Result


@dataclass(frozen=True)
class HereRow:
    """A row of our own: `figures` has one for each column of its table, None where nothing was measured."""

    model: str
    figures: tuple[Figure | None, ...]


def rows_here(table: PaperTable, results: Iterable[Result]) -> list[HereRow]:
    """Our rows of a table: one for each model that has a figure for at least one column, by name.

    A result must be of a column's protocol and dataset and must not contradict the table's `where`; of a column's
    metrics the best counts. Whether a model is of the size and training that a table is about, only its name tells
    where its result does not. Runs of one model that would share a cell get rows of their own.
    """
    rows: dict[str, list[Figure | None]] = {}
    for model, result in _named(results):
        if any(name in result.settings and result.settings[name] != value for name, value in table.where.items()):
            continue
        for index, column in enumerate(table.columns):
            if figure := _figure(column, result):
                rows.setdefault(model, [None] * len(table.columns))[index] = figure
    return [HereRow(model, tuple(figures)) for model, figures in sorted(rows.items())]


def _named(results: Iterable[Result]) -> list[tuple[str, Result]]:
    """Results with the model's name, and with their folder where two would be taken for each other."""
    results = list(results)
    runs = Counter((result.model, result.protocol, result.dataset) for result in results)
    several = {model for (model, _, _), count in runs.items() if count > 1}
    return [
        (f"{result.model} ({result.file.parent.as_posix()})" if result.model in several else result.model, result)
        for result in results
    ]


def _figure(column: Column, result: Result) -> Figure | None:
    if (result.protocol, result.dataset) != (column.protocol, column.dataset):
        return None
    found = [(result.metrics[name], name) for name in column.metrics if name in result.metrics]
    return Figure(*max(found), result) if found else None


def unplaced(tables: Iterable[PaperTable], results: list[Result]) -> list[Result]:
    """Results that no table has a place for: other datasets, other protocols."""
    placed = {
        figure.result.file
        for table in tables
        for row in rows_here(table, results)
        for figure in row.figures
        if figure is not None
    }
    return [result for result in results if result.file not in placed]
