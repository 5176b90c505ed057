"""A command ends with the one that started it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pretrain.errors import run_main
from pretrain.parent import PARENT, with_parent

CHILD = """
import os, signal, sys, time
from pretrain import parent
from pretrain.errors import run_main
parent.PERIOD = 0.05
signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), sys.exit(75)))
def main():
    assert parent.PARENT not in os.environ
    print(os.getpid(), flush=True)
    time.sleep(20)
run_main(main)
"""
MIDDLE = f"""
import os, subprocess, sys, time
from pretrain.parent import with_parent
subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=os.environ | with_parent())
time.sleep(20)
"""


def test_a_killed_parents_command_is_told():
    middle = subprocess.Popen([sys.executable, "-c", MIDDLE], stdout=subprocess.PIPE, text=True)
    child = int(middle.stdout.readline())
    middle.send_signal(signal.SIGKILL)
    assert middle.stdout.readline() == "told\n"
    assert middle.stdout.read() == ""  # it has ended, and closed the pipe
    middle.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.05)


def test_a_command_whose_parent_lives_is_left_alone():
    text = CHILD.replace("time.sleep(20)", "time.sleep(0.5); print('done')")
    found = subprocess.run(
        [sys.executable, "-c", text], env=os.environ | with_parent(), capture_output=True, text=True
    )  # fmt: skip
    assert found.returncode == 0 and found.stdout.endswith("done\n")


def test_a_parent_that_has_gone_already_is_noticed():
    found = subprocess.run(
        [sys.executable, "-c", CHILD], env=os.environ | {PARENT: "1"}, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout.splitlines()[-1]) == (75, "told")


@pytest.mark.parametrize("error, code", [(KeyError, 130), (SystemExit, 75)])
def test_ctrl_c_is_told_though_a_library_makes_another_error_of_it(error, code, capsys):
    def main():
        try:
            raise KeyboardInterrupt
        finally:
            raise error(75)

    with pytest.raises(SystemExit) as left:
        run_main(main)
    assert left.value.code == code and ("interrupted" in capsys.readouterr().err) == (code == 130)
