"""What a command does before its work: --help comes at once, and threads wait without burning a core."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = sorted((Path(__file__).parents[2] / "tools").glob("*.py"))


def run(code: str, *arguments: str, **environment: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP"))}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=plain | environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_help_waits_for_no_large_import(tool):
    heavy = ("torch", "detectron2", "cv2", "matplotlib", "cropfield")
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
from pretrain.errors import run_main
def main():
    import torch
run_main(main)
"""


@pytest.mark.parametrize("said, heard", [({}, "0"), ({"GOMP_SPINCOUNT": "99"}, "99")])
def test_threads_wait_without_spinning_unless_the_environment_says_otherwise(said, heard):
    """OpenMP says what it has read: what is set after torch's import comes too late."""
    assert f"GOMP_SPINCOUNT = '{heard}'" in run(MAIN, OMP_DISPLAY_ENV="VERBOSE", **said)
