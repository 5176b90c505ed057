#!/usr/bin/env python3
"""Write the papers' tables with the rows measured here.

    projects/Lab/tools/results_table.py outputs -o table.md --csv table.csv
    projects/Lab/tools/results_table.py outputs --tables two:3 two:16

Collects every result.json below the folder: those of the evaluation commands, and a detector's next to its config.yaml.
Each row is labelled by origin: the papers' values are copied from them and never mixed with those measured here. A
column only contains results on its own dataset; all others are listed at the end under a separate heading.
"""

import argparse
from pathlib import Path

from lab.options import new_parser
from lab.tables.papers import PaperTable, paper_tables
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="RESULTS_DIR", help="folder to search for result.json, recursively")
    add("-o", "--output", type=Path, help="Markdown file to write (default: print it)")
    add("--csv", type=Path, help="CSV file to write: one line for each value")
    add("--tables", nargs="+", metavar="PAPER:NUMBER", help="only these, e.g. one:1a two:3 (default: all)")
    add("--measured", action="store_true", help="skip tables without a row measured here (Markdown)")
    return parser.parse_args(argv)


def choose(keys: list[str] | None) -> list[PaperTable]:
    """Tables with these keys, in the papers' order; UserError for an unknown one."""
    known = paper_tables()
    strange = next((key for key in keys or [] if key not in known), None)
    if strange:
        raise UserError(f"--tables: there is no {strange}; there are {', '.join(known)}")
    return [table for key, table in known.items() if not keys or key in keys]


def main() -> None:
    options = parse_args()
    tables = choose(options.tables)
    from lab.tables.gather import gather
    from lab.tables.write import as_csv, markdown
    from pretrain.files import write_text
    from pretrain.outputs import refuse_existing

    refuse_existing(options.output, options.csv)
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
        print(f"{options.csv}: one line for each value")


if __name__ == "__main__":
    run_main(main)
