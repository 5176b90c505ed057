import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "compose_coco.py"


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--cutouts", "nowhere"], "nowhere"),
        (["--photos", "nowhere"], "nowhere"),
        (["--scale", "0.5", "0.2"], "--scale"),
        (["--classes", "1000"], "--classes"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, word):
    done = run("--output", tmp_path / "set", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and word in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_options_overrule_the_preset(tmp_path):
    done = run("--output", tmp_path, "--preset", "hard", "--size", 48, "--train", 2, "--val", 1)
    assert done.returncode == 0, done.stderr
    assert "2 images of 48 x 48" in done.stdout and "8 categories" in done.stdout
