"""Runs that are killed and resumed, the short form of `kill_and_resume.py`; and a disk that fills up."""

import importlib.util
import signal
from pathlib import Path

import pytest
import torch

from pretrain.errors import UserError
from pretrain.outputs import LOCK


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kill_and_resume", Path(__file__).parent / "kill_and_resume.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.import_early()
    module.tool("lazyconfig_train_net")
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
    assert killer.landed
    assert script.check_equal(straight, killer.run_to_the_end()) > 100


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA does not outlive a fork: run this file on its own")
def test_a_killed_and_a_stopped_detector_end_in_the_bits_of_an_undisturbed_one(script, tmp_path):
    kind = script.KINDS["detector"]
    overrides = [*kind.overrides(script.noise(tmp_path / "images"), 4, 0), *kind.small, "train.log_period=1"]
    straight = script.Killer(overrides, tmp_path / "straight", kind=kind).run_to_the_end()
    killer = script.Killer([*overrides, *kind.killed], tmp_path / "killed", kind=kind)
    killer.kill(1, signal.SIGKILL, in_save=True)
    killer.kill(2, signal.SIGTERM, in_save=False)
    assert killer.landed == 2 and killer.done >= 1
    assert script.check_equal(straight, killer.run_to_the_end()) > 100


def test_a_disk_that_fills_up_under_the_figures_ends_the_run_with_a_sentence(script, tmp_path):
    images = script.noise(tmp_path / "images")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).touch()  # a folder that a tool has opened before
    (tmp_path / "run" / "metrics.json").symlink_to("/dev/full")
    overrides = [
        f"dataloader.train.source.root={images}", f"train.output_dir={tmp_path / 'run'}", "train.max_iter=9",
        "train.log_period=2", "train.checkpointer.period=1", "dataloader.train.num_workers=0", *script.SMALL,
    ]  # fmt: skip
    with pytest.raises(UserError, match="cannot write the run's figures.*No space left.*--resume"):
        script.pretrain(script.load_config(script.CONFIG, overrides))
    assert script.load_checkpoint(tmp_path / "run" / "last.pth")["iteration"] == 2
