"""Workers that are killed or fail. Each test starts real processes."""

import gc
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
import time
from multiprocessing import connection
from multiprocessing.synchronize import Event

import numpy as np
import pytest
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.masks import CropMasks
from pretrain.data.workers import start_worker, watched
from pretrain.errors import UserError


class Deadly:
    """Images of which one ends the process that reads it: by a signal, or by exit code for a negative one."""

    def __init__(self, deadly: int | None, how: int):
        self.deadly, self.how = deadly, how

    def __len__(self):
        return 8

    def name(self, index):
        return f"{index}.jpg"

    def load(self, index, min_pixels=None):
        if index == self.deadly:
            os.kill(os.getpid(), self.how) if self.how > 0 else os._exit(-self.how)
        return np.full((20, 30, 3), index, dtype=np.uint8)


def batches(source, num_workers):
    return CropLoader(source, MultiCrop(16, num_local=0), CropMasks((4, 4)), 4, num_workers).batches()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (signal.SIGKILL, r"was killed by SIGKILL at image 5\.jpg, most often because memory ran out"),
        (signal.SIGSEGV, r"was killed by SIGSEGV at image 5\.jpg, .*crashes its decoder"),
        (-3, r"ended with exit code 3 at image 5\.jpg"),
    ],
)
def test_a_dead_worker_is_one_sentence(how, message):
    start = time.perf_counter()
    with pytest.raises(UserError, match=message) as error:
        for _ in zip(range(8), batches(Deadly(5, how), 2), strict=False):
            pass
    assert time.perf_counter() - start < 5  # torch would look every 5 s
    assert not multiprocessing.active_children()  # the other was stopped, though the error is still held
    del error


def test_a_worker_killed_between_two_batches_is_noticed_at_the_next_one():
    stream = batches(Deadly(None, 0), 1)
    next(stream)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(5)
    time.sleep(0.1)  # here the main process is at its own work, and must not be interrupted
    with pytest.raises(UserError, match=f"process {worker.pid}. was killed by SIGKILL"):
        for _ in range(4):  # some batches were made in time
            next(stream)


def test_a_worker_that_dies_before_the_loader_stands_is_noticed(monkeypatch):
    make = _MultiProcessingDataLoaderIter.__init__

    def slowly(self, loader):
        make(self, loader)
        until = time.perf_counter() + 5
        while len(multiprocessing.active_children()) == 2 and time.perf_counter() < until:  # which forgets the dead
            time.sleep(0.01)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "__init__", slowly)
    with pytest.raises(UserError, match="was killed by SIGKILL"):
        for _ in zip(range(8), batches(Deadly(5, signal.SIGKILL), 2), strict=False):
            pass


class Selfish(Deadly):
    """Its worker is killed at image 5, when told to, with the lock in hand of the event by which torch ends workers."""

    def __init__(self, told):
        super().__init__(5, signal.SIGKILL)
        self.told = told

    def load(self, index, min_pixels=None):
        if index == self.deadly:
            self.told.wait(5)
            for event in [thing for thing in gc.get_objects() if type(thing) is Event]:
                event._cond.acquire(timeout=1)
        return super().load(index)


@pytest.mark.parametrize("when", ["before its batch is asked for", "while it is waited for", "before the run ends"])
def test_a_worker_killed_while_it_holds_a_lock_does_not_hang_the_main_process(when):
    def hang(*_):
        pytest.fail("hangs")  # no Exception: nobody takes it for a fault of the worker

    told = multiprocessing.Event()
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(20)
    try:
        stream = batches(Selfish(told), 2)
        next(stream)
        if when == "while it is waited for":
            threading.Timer(1, told.set).start()
        else:
            told.set()
            connection.wait([worker.sentinel for worker in multiprocessing.active_children()], timeout=5)
        if when == "before the run ends":
            stream.close()
        else:
            with pytest.raises(UserError, match="was killed by SIGKILL"):
                next(stream)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()


class Exhausted(Deadly):
    """A system that runs out of something at image 5, where its batch is made or where it is sent."""

    def __init__(self, error: Exception, sent: bool):
        super().__init__(5, 0)
        self.error, self.sent = error, sent

    def load(self, index, min_pixels=None):
        if index == self.deadly and not self.sent:
            raise self.error
        return np.full((20, 30, 3), index, dtype=np.uint8)

    def name(self, index):
        return f"{index}.jpg"


@pytest.mark.parametrize(
    "error, words",
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"),
            r"shared memory is full .*--shm-size",
        ),
        (
            RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
            r"too many files are open .*ulimit -n",
        ),
        (OSError(24, "Too many open files"), "too many files are open"),
    ],
)
@pytest.mark.parametrize("sent", [False, True])
def test_what_the_system_has_run_out_of_is_one_sentence(monkeypatch, error, words, sent):
    """Torch raises such errors in a worker; in the thread that sends a batch they would only be printed."""

    def fail(*args):
        raise error

    def start(worker):
        start_worker(worker)
        multiprocessing.queues._ForkingPickler.dumps = fail

    if sent:
        monkeypatch.setattr("pretrain.data.workers.start_worker", start)
    with pytest.raises(UserError, match=f"{words}.*num_workers.*--resume"):
        for _ in zip(range(8), batches(Exhausted(error, sent), 2), strict=False):
            pass


def test_another_error_in_a_worker_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="Original Traceback"):
        for _ in zip(range(8), batches(Exhausted(RuntimeError("a bug (3)"), False), 1), strict=False):
            pass


def test_workers_that_have_read_everything_are_no_dead_ones():
    for _ in range(5):
        assert len(list(watched(DataLoader(range(20), num_workers=2), lambda process: None))) == 20
    assert not multiprocessing.active_children()
