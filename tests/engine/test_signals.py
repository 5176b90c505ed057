import os
import signal
import threading
from types import SimpleNamespace

import pytest
from detectron2.engine import TrainerBase
from detectron2.utils import comm

from pretrain.engine.signals import EXIT_STOPPED, SIGNALS, StopOnSignal, passing_on


class Counting(TrainerBase):
    """Counts steps and sends itself signals: {step: numbers}."""

    def __init__(self, signals: dict[int, tuple]):
        super().__init__()
        self.signals, self.steps, self.saved = signals, 0, []
        self.register_hooks([StopOnSignal(self.saved.append)])

    def run_step(self):
        for number in self.signals.get(self.iter, ()):
            os.kill(os.getpid(), number)
        self.steps += 1  # reached: the signal did not cut the step short


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """A shell's background jobs ignore it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_training_after_its_step_and_saves(number):
    former, trainer = handlers(), Counting({2: (number,)})
    with pytest.raises(SystemExit) as stop:
        trainer.train(0, 9)
    assert stop.value.code == EXIT_STOPPED == 75
    assert trainer.steps == 3 and trainer.saved == [3]
    assert handlers() == former


def test_a_scheduler_may_repeat_itself():
    trainer = Counting({2: (signal.SIGTERM, signal.SIGTERM)})
    with pytest.raises(SystemExit):
        trainer.train(0, 9)
    assert trainer.saved == [3]


def test_a_second_ctrl_c_leaves_at_once():
    former, trainer = handlers(), Counting({2: (signal.SIGINT, signal.SIGINT)})
    with pytest.raises(KeyboardInterrupt):
        trainer.train(0, 9)
    assert trainer.steps == 2 and trainer.saved == []
    assert handlers() == former


def test_a_signal_in_the_last_step_changes_nothing():
    trainer = Counting({8: (signal.SIGTERM,)})
    trainer.train(0, 9)
    assert trainer.steps == 9 and trainer.saved == []  # the last checkpoint is the checkpointer's


def test_all_processes_stop_when_one_got_a_signal(monkeypatch):
    told = []
    monkeypatch.setattr(comm, "all_gather", lambda mine: told.append(mine) or [mine, signal.SIGTERM])
    hook = StopOnSignal(told.append)
    hook.trainer = SimpleNamespace(iter=4, max_iter=9)
    with pytest.raises(SystemExit):
        hook.after_step()
    assert told == [None, 5]


def test_outside_the_main_thread_signals_are_left_alone():
    former, trainer = handlers(), Counting({})
    thread = threading.Thread(target=trainer.train, args=(0, 2))
    thread.start()
    thread.join()
    assert trainer.steps == 2 and handlers() == former


def test_a_waiting_process_passes_signals_on():
    former, passed = handlers(), []
    with passing_on(lambda: passed.append("terminate")) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGTERM, signal.SIGINT] and len(passed) == 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == former
