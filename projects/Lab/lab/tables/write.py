"""Format tables as text. The papers' values and those measured here are in separate rows, labelled by origin."""

import csv
import io
from collections.abc import Iterable, Sequence

from lab.tables.gather import Result
from lab.tables.match import rows_here, unplaced
from lab.tables.papers import PaperTable

CSV_HEADER = ("table", "source", "row", "column", "value", "protocol", "dataset", "metric", "file")
INTRODUCTION = """\
# The papers' tables, and what was measured here

Rows that begin with *paper* are the paper's own figures, copied from it. Rows that begin with **here** were measured by
this project's commands; their first cell is the weight file. A model is listed wherever protocol and dataset agree:
mind its size and its training before you compare.
"""


def markdown(tables: Iterable[PaperTable], results: list[Result], measured_only: bool = False) -> str:
    """All tables, then the results that belong in none. measured_only: skip tables without a row measured here."""
    parts = [_table(table, results) for table in tables if not measured_only or rows_here(table, results)]
    rest = unplaced(tables, results)
    return "\n".join([INTRODUCTION, *parts, *([_others(rest)] if rest else [])])


def _table(table: PaperTable, results: list[Result]) -> str:
    measures = "; ".join(f"{c.title}: {c.protocol}, {c.dataset}, {' or '.join(c.metrics)}" for c in table.columns)
    rows = [("*paper*", *labels, *("–" if v is None else f"{v:.1f}" for v in values)) for labels, values in table.rows]
    for model, figures in rows_here(table, results).items():
        cells = ("–" if figure is None else f"**{figure.value:.1f}**" for figure in figures)
        rows.append(("**here**", model, *["–"] * (len(table.labels) - 1), *cells))
    grid = _grid(("", *table.labels, *(column.title for column in table.columns)), rows)
    about = [f"## {table.title}", "", f"Columns: {measures}.  ", f"Command: `{table.command}`", ""]
    return "\n".join([*about, *grid, *(["", table.note] if table.note else []), ""])


def _others(results: list[Result]) -> str:
    rows = []
    for result in results:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in list(result.metrics.items())[:6])
        more = f" and {len(result.metrics) - 6} more" if len(result.metrics) > 6 else ""
        rows.append(("**here**", result.model, result.protocol, result.dataset, figures + more, f"`{result.file}`"))
    grid = _grid(("", "model", "protocol", "dataset", "figures", "file"), rows)
    return "\n".join(["## Measured here, in no table of the papers", "", *grid, ""])


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def as_csv(tables: Iterable[PaperTable], results: list[Result]) -> str:
    """One line for each value, with the paper's precision or ours; a paper's dash has no line."""
    lines = [CSV_HEADER]
    for table in tables:
        rows = [("paper", ", ".join(names), [v and (v, "", "") for v in values]) for names, values in table.rows]
        rows += [("here", *row) for row in rows_here(table, results).items()]
        for source, row, figures in rows:
            for c, figure in zip(table.columns, figures, strict=True):
                if figure:
                    value, *whence = figure
                    lines.append((table.key, source, row, c.title, value, c.protocol, c.dataset, *whence))
    for r in unplaced(tables, results):
        lines += [("", "here", r.model, name, x, r.protocol, r.dataset, name, r.file) for name, x in r.metrics.items()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
