#!/usr/bin/env python3
"""Attack the readers of images, annotations, weights and the like with damaged and hostile inputs, and count outcomes.

    python tests/fuzz/run.py                          # 10,000 inputs of all kinds
    python tests/fuzz/run.py --only coco --minutes 60 --seed 5000000
    python tests/fuzz/run.py --replay coco 5000123    # one input again, in this process

Inputs are good files, changed: each follows from its kind and its seed alone. What does not end right, or refused in
one sentence that names the file, is kept in outputs/fuzz/KIND-SEED.

The changes are plain NumPy: a library that searches and shrinks (hypothesis) lives in the process that hostile input
hangs or kills; here that is a child, and one number replays what killed it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork does not survive threads

from harness import GOOD, OUTCOMES, generator, kinds, try_inputs

BLOCK = 100  # inputs of a kind before it is the next one's turn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="in all (default 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first input of each kind; counted on from there")
    parser.add_argument("--only", nargs="+", choices=list(kinds()), metavar="KIND", help=", ".join(kinds()))
    parser.add_argument("--minutes", type=float, help="go on for so long, instead of --inputs")
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "SEED"), help="one input, here; its files stay")
    parser.add_argument("--output", type=Path, default=Path("outputs/fuzz"), help="default: outputs/fuzz")
    return parser.parse_args()


def run(only: list[str] | None, inputs: int, seed: int, folder: Path, minutes: float | None = None, say=print) -> dict:
    """Counter of outcomes by kind; `say` is told of each failure."""
    modules = {name: module for name, module in kinds().items() if not only or name in only}
    counts, end = {name: Counter() for name in modules}, time.monotonic() + 60 * (minutes or 0)
    shares = {name: getattr(module, "SHARE", 1) for name, module in modules.items()}
    wanted = {name: max(1, round(inputs * share / sum(shares.values()))) for name, share in shares.items()}
    while time.monotonic() < end if minutes else any(counts[name].total() < wanted[name] for name in modules):
        for name, module in modules.items():
            done = counts[name].total()
            block = max(1, round(BLOCK * shares[name]))
            last = done + block if minutes else min(wanted[name], done + block)
            for result in try_inputs(name, module, range(seed + done, seed + last), folder):
                counts[name][result.outcome] += 1
                if result.outcome not in GOOD:
                    say(f"{result.outcome}: {name} {result.seed}: {result.message}\n")
                    kept = folder / f"{name}-{result.seed}"
                    kept.mkdir(exist_ok=True)
                    (kept / "OUTCOME.txt").write_text(
                        f"{result.outcome}\n{result.message}\n", errors="backslashreplace"
                    )
    return counts


def table(counts: dict[str, Counter]) -> str:
    rows = [["kind", "inputs", *OUTCOMES]]
    rows += [[name, count.total(), *(count[outcome] for outcome in OUTCOMES)] for name, count in counts.items()]
    rows.append(["all", *(sum(row[i] for row in rows[1:]) for i in range(1, len(rows[0])))])
    return "\n".join("".join(f"{cell!s:>10}" for cell in row) for row in rows)


def main() -> None:
    args = parse_args()
    folder = args.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if args.replay:
        kind, seed = args.replay[0], int(args.replay[1])
        place = Path(tempfile.mkdtemp(prefix=f"{kind}-{seed}-"))
        print(f"in {place}")
        os.chdir(place)
        kinds()[kind].attempt(generator(kind, seed), place)
        print("right")
        return
    started = time.monotonic()
    counts = run(args.only, args.inputs, args.seed, folder, args.minutes)
    print(f"{table(counts)}\n{time.monotonic() - started:.0f} s; failures are in {folder}")
    sys.exit(any(count[outcome] for count in counts.values() for outcome in OUTCOMES if outcome not in GOOD))


if __name__ == "__main__":
    main()
