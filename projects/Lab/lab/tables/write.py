"""Tables as text. A paper's figures and those measured here never share a row, and each row says whose it is."""

import csv
import io
from collections.abc import Iterable, Sequence

from lab.tables.gather import Result
from lab.tables.match import rows_here, unplaced
from lab.tables.paper_table import PaperTable

PAPER, HERE = "paper", "here"
CSV_HEADER = ("table", "source", "row", "column", "value", "protocol", "dataset", "metric", "file")
_INTRODUCTION = """\
# The papers' tables, and what was measured here

Rows that begin with *paper* are the paper's own figures, copied from it. Rows that begin with **here** were measured by
this project's commands; their first cell is the weight file. A model is listed wherever protocol and dataset agree:
mind its size and its training before you compare.
"""


def markdown(tables: Iterable[PaperTable], results: list[Result], measured_only: bool = False) -> str:
    """All tables, then the results that none of them has a place for.

    Args:
        measured_only: leave out tables without a row of our own.
    """
    tables = list(tables)
    parts = [_INTRODUCTION]
    parts += [_table(table, results) for table in tables if not measured_only or rows_here(table, results)]
    rest = unplaced(tables, results)
    if rest:
        parts.append(_others(rest))
    return "\n".join(parts)


def _table(table: PaperTable, results: list[Result]) -> str:
    measures = [f"{c.title}: {c.protocol}, {c.dataset}, {' or '.join(c.metrics)}" for c in table.columns]
    lines = [f"## {table.title}", "", f"Columns: {'; '.join(measures)}.  ", f"Command: `{table.command}`", ""]
    rows = [
        (f"*{PAPER}*", *row.labels, *("–" if value is None else f"{value:.1f}" for value in row.values))
        for row in table.rows()
    ]
    for row in rows_here(table, results):
        figures = ("–" if figure is None else f"**{figure.value:.1f}**" for figure in row.figures)
        rows.append((f"**{HERE}**", row.model, *["–"] * (len(table.labels) - 1), *figures))
    lines += _grid(("", *table.labels, *(column.title for column in table.columns)), rows)
    if table.note:
        lines += ["", table.note]
    return "\n".join([*lines, ""])


def _others(results: list[Result]) -> str:
    rows = []
    for result in results:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in list(result.metrics.items())[:6])
        more = f" and {len(result.metrics) - 6} more" if len(result.metrics) > 6 else ""
        rows.append((f"**{HERE}**", result.model, result.protocol, result.dataset, figures + more, f"`{result.file}`"))
    header = ("", "model", "protocol", "dataset", "figures", "file")
    return "\n".join(["## Measured here, in no table of the papers", "", *_grid(header, rows), ""])


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def as_csv(tables: Iterable[PaperTable], results: list[Result]) -> str:
    """One line a figure, with the paper's precision or ours; a paper's dash has no line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    tables = list(tables)
    for table in tables:
        for row in table.rows():
            for column, value in zip(table.columns, row.values, strict=True):
                if value is not None:
                    cells = (table.key, PAPER, ", ".join(row.labels), column.title, value)
                    writer.writerow((*cells, column.protocol, column.dataset, "", ""))
        for row in rows_here(table, results):
            for column, figure in zip(table.columns, row.figures, strict=True):
                if figure is not None:
                    cells = (table.key, HERE, row.model, column.title, figure.value)
                    writer.writerow((*cells, column.protocol, column.dataset, figure.metric, figure.result.file))
    for result in unplaced(tables, results):
        for name, value in result.metrics.items():
            cells = ("", HERE, result.model, name, value)
            writer.writerow((*cells, result.protocol, result.dataset, name, result.file))
    return text.getvalue()
