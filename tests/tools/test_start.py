"""What a command does before its work: --help comes at once, and threads wait as the machine needs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.openmp import busy_cores, busy_ticks

ROOT = Path(__file__).parents[2]
TOOLS = sorted([*ROOT.glob("tools/*.py"), *ROOT.glob("projects/*/tools/*.py")])


def run(code: str, *arguments: str, **environment: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP"))}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=plain | environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_help_waits_for_no_large_import(tool):
    heavy = ("torch", "detectron2", "cv2", "matplotlib", "cropfield", "numpy", "scipy", "pandas")
    code = f"""
import runpy, sys
sys.argv = [{str(tool)!r}, "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("CODE", end.code, *[name for name in {heavy} if name in sys.modules])
"""
    out = run(code)
    assert "usage:" in out and out.splitlines()[-1] == "CODE 0"


MAIN = """
import pretrain.openmp
from pretrain.errors import run_main
pretrain.openmp.busy_cores = lambda: {cores}
def main():
    import torch
run_main(main)
"""


@pytest.mark.parametrize("cores, said, heard", [(1.0, {}, "0"), (0.1, {}, None), (1.0, {"GOMP_SPINCOUNT": "99"}, "99")])
def test_threads_sleep_on_a_busy_machine_unless_the_environment_says_otherwise(cores, said, heard):
    """OpenMP says what it has read: what is set after torch's import comes too late."""
    shown = run(MAIN.replace("{cores}", str(cores)), OMP_DISPLAY_ENV="VERBOSE", **said)
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", shown)[1]
    assert found == heard if heard else int(found) > 1000


def test_what_detectron2_is_warned_of_is_not_shown():
    code = """
from pretrain.errors import run_main
def main():
    import numpy as np, torch
    from detectron2.utils.tracing import is_fx_tracing
    is_fx_tracing()
    torch.meshgrid(torch.arange(2), torch.arange(2))
    torch.from_numpy(np.frombuffer(b"read only", np.uint8))
    print("done")
run_main(main)
"""
    assert run(code) == "done\n"


def test_cores_that_others_use_are_counted():
    before = "cpu  100 20 30 5000 7 0 3 0 0 0\ncpu0 1 2 3 4\n"
    after = "cpu  108 20 32 5010 9 0 3 0 0 0\ncpu0 1 2 3 4\n"
    assert busy_ticks(after) - busy_ticks(before) == 10  # user and system; neither idle nor waiting for the disk
    assert 0 <= busy_cores() <= 2 * os.cpu_count()
