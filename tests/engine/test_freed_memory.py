import multiprocessing
import platform
import resource

import pytest
import torch

from pretrain.engine.freed_memory import keep_freed_memory


def page_faults_of_tensors(keep: bool) -> int:
    """Page faults of making and leaving the same three tensors (110 MB), once that is nothing new."""
    if keep:
        assert keep_freed_memory()
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.zeros(millions * 10**6) for millions in (16, 10, 2)]
        del tensors
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of glibc")
def test_the_kernel_is_asked_only_once_for_the_pages_of_freed_tensors():
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1) as process:
        assert process.apply(page_faults_of_tensors, [False]) > 10_000
    with fork.Pool(1) as process:
        assert process.apply(page_faults_of_tensors, [True]) < 100
