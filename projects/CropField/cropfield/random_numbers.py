"""Random numbers that belong to a place, so that a training can be resumed, or an image looked at again, exactly.

Detectron2's augmentations and models draw from the global generators of Python, numpy and torch.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils import comm

STEP, AUGMENTATION = range(2)  # streams of random numbers


def seed_step(seed: int, step: int) -> None:
    """From here on all generators, the GPU's too, are at the start of a step; they differ from process to process."""
    torch.manual_seed(_seed_host(seed, STEP, step, comm.get_rank()))


@contextmanager
def augmenting(seed: int, position: int) -> Iterator[None]:
    """In this block, and only there, the host's generators are those of an image's place in the data's order."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.default_generator.manual_seed(_seed_host(seed, AUGMENTATION, position))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _seed_host(*place: int) -> int:
    """Seed Python's and numpy's generators; returns torch's seed."""
    seeds = np.random.SeedSequence(place).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    return int(seeds[2])
