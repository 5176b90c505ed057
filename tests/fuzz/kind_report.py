"""Run folders as nobody's tool writes them, for tools/report.py; `report_folders.py` builds and damages them."""

import os
import random
import shutil
from pathlib import Path

from harness import Wrong
from report_folders import build_run, damage, report

SHARE, SECONDS = 0.3, 120
ROOT = Path(__file__).parents[2]


def good(beside: Path) -> Path:
    """A whole run, built once and kept beside the inputs."""
    kept = beside / "good-run"
    if not kept.exists():
        draft = beside / "good-run.draft"
        shutil.rmtree(draft, ignore_errors=True)
        os.chdir(ROOT)
        build_run(draft)
        draft.rename(kept)
    return kept


def attempt(rng, folder):
    run = folder / "run"
    shutil.copytree(good(folder.parent), run)
    os.chdir(folder)
    damage(run, random.Random(int(rng.integers(2**63))))
    try:
        report(run)
    except AssertionError as error:
        raise Wrong("a page that is not whole, or holds someone's script") from error
    if (folder / "PWNED").exists():
        raise Wrong("code in the folder ran")
