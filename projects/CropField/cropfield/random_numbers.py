"""Seed random numbers by step or image position, so that a run can be resumed, or an image reproduced, exactly.

Detectron2's augmentations and models draw from the global generators of Python, NumPy and torch.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils import comm

STEP, AUGMENTATION = range(2)  # streams of random numbers


def seed_step(seed: int, step: int) -> None:
    """Seed all generators, including the GPU's, for a step; each process gets a different seed."""
    torch.manual_seed(_seed_host(seed, STEP, step, comm.get_rank()))


@contextmanager
def augmenting(seed: int, position: int) -> Iterator[None]:
    """Within the block, seed the CPU generators by an image's position in the data's order; restore them afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.default_generator.manual_seed(_seed_host(seed, AUGMENTATION, position))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _seed_host(*place: int) -> int:
    """Seed Python's and NumPy's generators; returns a seed for torch."""
    seeds = np.random.SeedSequence(place).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    return int(seeds[2])
