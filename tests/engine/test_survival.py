"""Runs that are killed and resumed, the short form of `kill_and_resume.py`; and a disk that fills up."""

import importlib.util
import signal
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kill_and_resume", Path(__file__).parent / "kill_and_resume.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA does not outlive a fork: run this file on its own")
def test_killed_and_stopped_runs_end_in_the_bits_of_an_undisturbed_one(script, tmp_path):
    images = script.noise(tmp_path / "images")
    overrides = [
        f"dataloader.train.source.root={images}", "dataloader.train.num_workers=1", "train.max_iter=9", *script.SMALL
    ]  # fmt: skip
    straight = script.Killer(overrides, tmp_path / "straight").run_to_the_end()
    killer = script.Killer([*overrides, "train.checkpointer.period=1"], tmp_path / "killed")
    killer.kill(1, signal.SIGKILL, in_save=True)
    killer.kill(3, signal.SIGTERM, in_save=False)
    killer.kill(5, signal.SIGINT, in_save=True)
    assert script.check_equal(straight, killer.run_to_the_end()) > 100
