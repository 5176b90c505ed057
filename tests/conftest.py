import importlib.util
import multiprocessing
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

SEED = 15  # none that a test gives to a generator of its own


def seed_everything():
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """What several tests share is the same whichever of them asks for it first."""
    if fixturedef.scope != "function":
        seed_everything()


@pytest.fixture(autouse=True)
def seeded():
    """Each test draws the same numbers, whatever ran before it."""
    seed_everything()


def _work(rank, world_size, function, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    comm._LOCAL_PROCESS_GROUP = dist.group.WORLD
    torch.save(function(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def tiny_datasets():
    """tests/tiny_datasets.py, which writes small datasets in the layouts of the large ones."""
    spec = importlib.util.spec_from_file_location("tiny_datasets", Path(__file__).parent / "tiny_datasets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_ranks(tmp_path_factory):
    """on_ranks(function, world_size=2) -> what `function()` returned in each of so many processes, joined by gloo."""
    if torch.cuda.is_available():
        pytest.skip("forks this process, which CUDA does not survive")

    def run(function, world_size=2):
        folder, fork = tmp_path_factory.mktemp("ranks"), multiprocessing.get_context("fork")
        processes = [fork.Process(target=_work, args=(r, world_size, function, folder)) for r in range(world_size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        hung = [process for process in processes if process.is_alive()]
        for process in hung:
            process.kill()
        assert not hung and all(process.exitcode == 0 for process in processes)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]

    return run
