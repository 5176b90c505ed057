#!/usr/bin/env python3
"""Train one config over a grid of settings, several runs each, and report the best setting.

    projects/Lab/tools/sweep.py --config-file projects/Lab/configs/ADE20K/semantic_linear_cropfield_vits_160k.py \\
        --output outputs/ade20k_vits train.init_checkpoint=vits16.safetensors

This is App. B.3's sweep: lr in {8e-5, 3e-5, 1e-5, 8e-6} times weight decay in {1e-2, 1e-4}, two runs each with
different seeds. For another grid: --grid optimizer.lr=1e-3,3e-4 --grid optimizer.weight_decay=1e-2. Each run is a
folder of OUTPUT and a call of tools/lazyconfig_train_net.py. Finished runs are skipped and an interrupted one is
resumed, so run the same command again to finish the sweep. Writes OUTPUT/sweep.md, a table, and OUTPUT/result.json, the
mean of the best setting. Settings are selected on the validation set, which makes the best result slightly optimistic;
the paper has no other set.
"""

import argparse
import itertools
import json
import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from lab.options import new_parser
from pretrain.errors import UserError, run_main

REPOSITORY = Path(__file__).resolve().parents[3]
TOOL = REPOSITORY / "tools" / "lazyconfig_train_net.py"
FIXED = {"train.seed": "--runs", "train.output_dir": "--output"}
GRID = ("optimizer.lr=8e-5,3e-5,1e-5,8e-6", "optimizer.weight_decay=1e-2,1e-4")


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--grid", action="append", metavar="KEY=V1,V2", help=f"one key's values (default: {' and '.join(GRID)})")
    add("--runs", type=int, default=2, help="runs of each setting, with seeds from 1 (default: 2)")
    add("--num-gpus", type=int, default=1, help="GPUs of each run (default: 1)")
    add("--metric", default="mIoU", help="metric of result.json to select by (default: mIoU)")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config, for all runs")
    return parser.parse_intermixed_args(argv)


def settings_of(grid: list[str]) -> list[tuple[str, ...]]:
    """All combinations, each as overrides: ("optimizer.lr=8e-5", "optimizer.weight_decay=1e-2"), ...

    Raises:
        UserError: an entry that is not KEY=V1,V2.
    """
    axes = []
    for entry in grid:
        key, _, values = entry.partition("=")
        values = [value.strip() for value in values.split(",") if value.strip()]
        if not key or not values:
            raise UserError(f"cannot read --grid {entry!r}; write KEY=VALUE,VALUE")
        axes.append([f"{key}={value}" for value in values])
    return list(itertools.product(*axes))


def make_stages(args: argparse.Namespace) -> dict[tuple[str, ...], list]:
    """The runs of each setting, as stages. A run's name, also its folder, contains its setting."""
    from cropfield.stages import Stage

    stages, output = {}, args.output.resolve()
    for setting in settings_of(args.grid or list(GRID)):
        parts = [text.partition("=") for text in setting]
        words = [re.sub(r"[^\w.+-]", "-", f"{key.rpartition('.')[2]}_{value}") for key, _, value in parts]
        stages[setting] = []
        for seed in range(1, args.runs + 1):
            name = "_".join([*words, f"run{seed}"])
            command = (
                str(TOOL), "--resume", "--num-gpus", str(args.num_gpus), "--config-file", args.config_file,
                *args.overrides, *setting, f"train.seed={seed}", f"train.output_dir={output / name}",
            )  # fmt: skip
            stages[setting].append(Stage(name, command, show=r"iter: \d*999 |^mIoU |^error"))
    return stages


def check(args: argparse.Namespace, settings: Iterable[tuple[str, ...]], stages: list) -> None:
    """Raise UserError before the first run for anything that would fail in a later one."""
    from cropfield.halves import refuse_fixed
    from pretrain.engine.lazy_config import load_config

    if args.runs < 1:
        raise UserError(f"--runs {args.runs}: give at least one run")
    for override in (*args.overrides, *(args.grid or ())):
        refuse_fixed(override, FIXED)
    names = [stage.name for stage in stages]
    if again := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two runs would be called {again}; give other values")
    for setting in settings:
        load_config(args.config_file, [*args.overrides, *setting])


def result_of(args: argparse.Namespace, stage) -> dict:
    """A run's result; UserError if it lacks the metric to select by."""
    from cropfield.results import RESULT

    path = args.output / stage.name / RESULT
    result = json.loads(path.read_text())
    if args.metric not in result.get("metrics", {}):
        raise UserError(f"{path} has no metric {args.metric!r}; choose another --metric")
    return result


def mean_of(figures: list[float | None]) -> float:
    """Mean of a setting's runs; minus infinity if one has no value."""
    return statistics.fmean(figures) if None not in figures else -math.inf


def markdown_table(figures: dict[tuple[str, ...], list[float | None]], metric: str) -> str:
    """One row for each setting, in the grid's order: its values, each run, their mean; the best mean in bold."""
    best, runs = max(figures, key=lambda setting: mean_of(figures[setting])), len(next(iter(figures.values())))
    head = [*(text.partition("=")[0] for text in best), *(f"{metric}, run {run + 1}" for run in range(runs)), "mean"]
    rows = []
    for setting, found in figures.items():
        shown = ["–" if figure is None else f"{figure:.2f}" for figure in found]
        mean = f"{mean_of(found):.2f}" if None not in found else "–"
        rows.append([*(text.partition("=")[2] for text in setting), *shown, f"**{mean}**" if setting is best else mean])
    return tabulate(rows, head, tablefmt="github", disable_numparse=True) + "\n"


def report(args: argparse.Namespace, results: dict[tuple[str, ...], list[dict]]) -> None:
    """Print and write the table and the best setting, the first in case of a tie."""
    from cropfield.results import write_result
    from pretrain.files import write_text

    figures = {setting: [result["metrics"][args.metric] for result in runs] for setting, runs in results.items()}
    best, table = max(figures, key=lambda setting: mean_of(figures[setting])), markdown_table(figures, args.metric)
    write_text(args.output / "sweep.md", table)
    settings = {"best": list(best), "runs": figures[best], "settings_tried": len(figures)}
    about = {key: results[best][0][key] for key in ("protocol", "dataset", "model")}
    mean = mean_of(figures[best])
    path = write_result(args.output, **about, metrics={args.metric: mean}, settings=settings)
    print(f"{table}\nbest: {' '.join(best)}, {args.metric} {mean:.2f}, mean of {args.runs} runs: {path}")


def main() -> None:
    args = parse_args()
    from cropfield.stages import Chain

    stages = make_stages(args)
    runs_in_order = [stage for runs in stages.values() for stage in runs]
    check(args, stages, runs_in_order)
    chain = Chain(args.output, "sweep.md")
    chain.plan(runs_in_order)
    for stage in runs_in_order:
        chain.run(stage)
    report(args, {setting: [result_of(args, stage) for stage in runs] for setting, runs in stages.items()})


if __name__ == "__main__":
    run_main(main)
