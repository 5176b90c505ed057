"""In processes of their own: whoever pretrains in the tests' process changes it for good."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

MADVISE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Page faults of making and leaving the same three blocks (112 MB), once that is nothing new.
PROGRAM = """
import resource, sys
from pretrain.engine.cpu_memory import keep_freed_memory

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


HUGE = """
import torch
from pretrain.engine.cpu_memory import use_huge_pages

use_huge_pages()
before = int(open("/proc/self/smaps_rollup").read().split("AnonHugePages:")[1].split()[0])
tensor = torch.ones(64 * 2**20)
print(int(open("/proc/self/smaps_rollup").read().split("AnonHugePages:")[1].split()[0]) - before)
"""


def huge_kilobytes(**environment) -> int:
    done = subprocess.run(
        [sys.executable, "-c", HUGE], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not MADVISE.exists() or "[madvise]" not in MADVISE.read_text(), reason="huge pages are not on request"
)
def test_large_tensors_get_huge_pages_unless_the_user_says_no():
    if huge_kilobytes() == 0:
        pytest.skip("the kernel has no huge pages left")
    assert huge_kilobytes(THP_MEM_ALLOC_ENABLE="0") == 0
