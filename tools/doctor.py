#!/usr/bin/env python3
"""Print what is installed, which attention path will run, what is missing and how to mend it.

    python tools/doctor.py        (or: make doctor)

Exit code 0 if all that is needed is there, 1 if not.
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `pretrain` may be what is not installed

from pretrain.doctor import diagnose, report  # noqa: E402
from pretrain.errors import run_main  # noqa: E402


def main() -> int:
    warnings.simplefilter("ignore")
    return report(diagnose())


if __name__ == "__main__":
    run_main(main)
