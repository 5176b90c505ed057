#!/usr/bin/env python3
"""The papers' tables with the rows that were measured here.

    projects/Lab/tools/results_table.py outputs -o table.md --csv table.csv
    projects/Lab/tools/results_table.py outputs --tables two:3 two:16

Gathers every result.json below the folder: those of the evaluation commands, and a detector's beside its config.yaml.
Each row says whose it is: the paper's figures are copied from it and never mixed with those measured here. Only results
on the dataset that a column is about stand in it; all others come last, under their own heading.
"""

import argparse
from pathlib import Path

from lab.commands import new_parser
from lab.tables.gather import gather
from lab.tables.papers import PaperTable, paper_tables
from lab.tables.write import as_csv, markdown
from pretrain.errors import UserError, run_main
from pretrain.files import write_text


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="RESULTS_DIR", help="folder to search for result.json, with all below it")
    add("-o", "--output", type=Path, help="Markdown file to write (default: print it)")
    add("--csv", type=Path, help="CSV file to write: one line a figure")
    add("--tables", nargs="+", metavar="PAPER:NUMBER", help="only these, e.g. one:1a two:3 (default: all)")
    add("--measured", action="store_true", help="leave out tables without a row measured here (Markdown)")
    return parser.parse_args(argv)


def choose(keys: list[str] | None) -> list[PaperTable]:
    """The tables of these keys, in the papers' order; UserError for one that is not there."""
    known = paper_tables()
    strange = next((key for key in keys or [] if key not in known), None)
    if strange:
        raise UserError(f"--tables: there is no {strange}; there are {', '.join(known)}")
    return [table for key, table in known.items() if not keys or key in keys]


def main() -> None:
    options = parse_args()
    tables = choose(options.tables)
    results, left_out = gather(options.folder)
    for line in left_out:
        print(f"left out: {line}")
    text = markdown(tables, results, options.measured)
    if options.output:
        write_text(options.output, text)
        print(f"{options.output}: {len(tables)} tables, {len(results)} results")
    else:
        print(text)
    if options.csv:
        write_text(options.csv, as_csv(tables, results))
        print(f"{options.csv}: one line a figure")


if __name__ == "__main__":
    run_main(main)
