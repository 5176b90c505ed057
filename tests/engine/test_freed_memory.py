"""In processes of their own: whoever pretrains in the tests' process changes it for good."""

import platform
import subprocess
import sys

import pytest

# Page faults of making and leaving the same three blocks (112 MB), once that is nothing new.
PROGRAM = """
import resource, sys
from pretrain.engine.freed_memory import keep_freed_memory

assert sys.argv[1] == "left" or keep_freed_memory()
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * (millions * 10**6) for millions in (64, 40, 8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of glibc")
def test_the_kernel_is_asked_only_once_for_the_pages_of_freed_tensors():
    assert page_faults("left") > 10_000
    assert page_faults("kept") < 100
