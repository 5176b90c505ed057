import signal
import sys
from types import SimpleNamespace

import pytest
from detectron2.engine import TrainerBase
from detectron2.utils.events import CommonMetricPrinter, EventWriter

from pretrain.engine.signals import EXIT_STOPPED, StopOnSignal
from pretrain.engine.writers import PeriodicWriter, mirror_to_wandb
from pretrain.errors import UserError


def test_wandb_mirrors_tensorboard(monkeypatch):
    options = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=options.update))
    mirror_to_wandb(project="fields", mode="offline")
    assert options == {"sync_tensorboard": True, "project": "fields", "mode": "offline"}


def test_without_wandb_a_sentence_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="cannot be imported .*wandb.*pip install wandb"):
        mirror_to_wandb(project="fields")


class Noting(EventWriter):
    """Notes the steps at which it writes."""

    def __init__(self, trainer):
        self.trainer, self.written = trainer, []

    def write(self):
        self.written.append(self.trainer.iter)

    def close(self):
        self.written.append("closed")


def test_a_run_that_stops_where_its_figures_are_written_still_says_that_it_stopped():
    trainer = TrainerBase()
    trainer.run_step = lambda: trainer.iter == 19 and signal.raise_signal(signal.SIGTERM)
    noting = Noting(trainer)
    figures = PeriodicWriter([CommonMetricPrinter(99), noting], period=20)  # which divides by the steps since it wrote
    trainer.register_hooks([figures, StopOnSignal(lambda done: None)])
    with pytest.raises(SystemExit) as stop:
        trainer.train(18, 99)
    assert stop.value.code == EXIT_STOPPED
    assert noting.written == [19, "closed"]


def test_what_other_hooks_measure_after_the_last_step_is_written():
    trainer = TrainerBase()
    trainer.run_step = lambda: None
    noting = Noting(trainer)
    trainer.register_hooks([PeriodicWriter([noting], period=20)])
    trainer.train(18, 30)
    assert noting.written == [19, 29, 30, "closed"]
