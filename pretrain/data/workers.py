"""Data workers; one that dies (out of memory, a crash in a decoder) ends the run with a clear error.

Torch notices too, but raises a bare RuntimeError, and from a signal handler: wherever the main process happens to be,
halfway through an optimizer step perhaps. Here the error comes where the next batch is asked for, and names the image.
"""

import errno
import multiprocessing
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pretrain.data.worker_signals import obey_parent_alone, signals_held
from pretrain.errors import UserError

LIKELY_CAUSE = {
    signal.SIGKILL: "most often because memory ran out: use fewer workers (num_workers), or get more memory",
    signal.SIGBUS: "most often because shared memory is full: enlarge /dev/shm (docker run --shm-size=8g), "
    "or use fewer workers (num_workers)",
}
EXHAUSTED = {  # system errors that a worker or the main process may meet in handing a batch over
    errno.ENOSPC: ("shared memory is full", "enlarge /dev/shm (docker run --shm-size=8g)"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n 65536)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENOMEM: ("memory ran out", "get more memory"),
}
GO_ON = "then run the command again, a training with --resume"
CRASH = "if it happens again, that file crashes its decoder: remove it"


class _WorkerDied(BaseException):
    """No Exception: torch would take it for its own, and ask an event whose lock the dead worker may have held."""


class NowReading:
    """Which image each worker is reading, in shared memory, so that it is known after the worker has died."""

    def __init__(self, num_workers: int):
        self.rows = torch.full((num_workers, 2), -1, dtype=torch.int64)  # process id, image
        with _exhaustion_as_user_error():
            self.rows.share_memory_()

    def note(self, index: int) -> None:
        worker = get_worker_info()
        if worker is not None:
            self.rows[worker.id, 0], self.rows[worker.id, 1] = os.getpid(), index

    def by(self, process: int) -> int | None:
        """The index of the image that this worker process was reading; None before its first."""
        return next((index for pid, index in self.rows.tolist() if pid == process), None)


def read_in_workers(
    dataset: Dataset, keys: Iterable, num_workers: int, name_of: Callable[[int], str], **options
) -> Iterator:
    """`dataset[key]` for each of `keys`, in their order, made in worker processes; with 0 of them, in this one.

    Args:
        dataset: notes the index of each image that it reads in its attribute `now_reading`, a `NowReading`.
        name_of: the image of an index, for the error about a worker that died.
        options: more of `DataLoader`'s.

    Raises:
        UserError: see `watched`.
    """
    now_reading = dataset.now_reading = NowReading(num_workers)
    loader = DataLoader(
        dataset,
        sampler=keys,
        batch_size=None,  # whatever a key stands for is whole already
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else each start would shift torch's global generator
        **options,
    )

    def image_of(process: int) -> str | None:
        index = now_reading.by(process)
        return None if index is None else name_of(index)

    return watched(loader, image_of)


def _as_it_is(item):
    return item


def start_worker(worker: int) -> None:
    """A `worker_init_fn`. Stop signals reach all processes of a job, but only the main one has state to save."""
    obey_parent_alone()
    cv2.setNumThreads(0)  # one worker, one core; torch sees to its own threads
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_cannot_send)


def _cannot_send(error: Exception, batch) -> None:
    """Called in a worker's thread that sends batches. By default an error there is only printed, and the run hangs."""
    if number := _exhausted(error):
        os._exit(number)  # the main process knows these
    traceback.print_exception(error)
    os._exit(1)


def watched(loader: DataLoader, image_of: Callable[[int], str | None]) -> Iterator:
    """Yield from `loader`. image_of: process id -> the image that this worker is reading.

    Raises `UserError` when a worker has died, even while its batch is being waited for.
    """
    with signals_held(), _sigchld(signal.getsignal(signal.SIGCHLD)):  # takes torch's handler off again
        try:
            with _exhaustion_as_user_error():
                batches = iter(loader)
        except UserError as error:
            _kill_workers_behind(error.__cause__)
            raise
    workers = getattr(batches, "_workers", [])  # also one that has died since; none where this process reads itself
    sentinels = [worker.sentinel for worker in workers]

    def interrupt(*caught) -> None:
        if getattr(batches, "_shutdown", False):
            return  # torch ends the workers, after the last batch
        if connection.wait(sentinels, timeout=0):  # never the exit code: asking for it may be what was interrupted
            if caught:  # by a signal: once is enough, and what follows is not to be interrupted
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise _WorkerDied

    try:
        while True:
            try:
                with _sigchld(interrupt):
                    interrupt()  # one may have died before the handler stood
                    batch = next(batches)
            except StopIteration:
                return
            except (_WorkerDied, RuntimeError, OSError, EOFError):  # torch's, or what reading from the dying one met
                if not (dead := _dead(workers, timeout=1)):
                    with _exhaustion_as_user_error():
                        raise
            else:
                yield batch
                continue
            raise UserError(_cause_of_death(dead.pid, dead.exitcode, image_of(dead.pid)))
    finally:
        if workers:
            _kill_workers(batches, workers)


@contextmanager
def _exhaustion_as_user_error() -> Iterator[None]:
    """Turn an error about an exhausted system resource into a `UserError`."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if number := _exhausted(error):
            raise UserError(f"{_of_exhaustion(number)}; {GO_ON}") from error
        raise


def _exhausted(error: Exception) -> int | None:
    """The error number if it is in `EXHAUSTED`; torch wraps such errors in a RuntimeError."""
    text = str(error)
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"\[Errno (\d+)\]|shared memory.*\((\d+)\)", text)):
        number = int(found[1] or found[2])
    if "received 0 items of ancdata" in text:  # a file descriptor that did not fit into this process
        number = errno.EMFILE
    return number if number in EXHAUSTED else None


def _of_exhaustion(number: int) -> str:
    what, remedy = EXHAUSTED[number]
    return f"{what} while data workers handed over their images: {remedy}, or use fewer workers (num_workers)"


def _dead(workers: list[BaseProcess], timeout: float = 0) -> BaseProcess | None:
    """A worker that has ended, or does so within `timeout` seconds."""
    ended = connection.wait([worker.sentinel for worker in workers], timeout)
    dead = next((worker for worker in workers if worker.sentinel in ended), None)
    if dead:
        dead.join()  # which may be a moment later, and gives the exit code
    return dead


def _kill_workers(batches: Iterator, workers: list[BaseProcess]) -> None:
    """Kill the workers at once, which only read, instead of leaving them to the garbage collector.

    Torch would ask them to stop through an event whose lock a killed worker may still hold, and would wait forever.
    """
    for worker in workers:
        worker.kill()
        worker.join()
    batches._workers_done_event = multiprocessing.Event()
    batches._shutdown_workers()


def _kill_workers_behind(error: BaseException) -> None:
    """Kill the workers of the half-built iterator that raised `error`; torch cannot clean it up."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        half = frame.f_locals.get("self")
        if hasattr(half, "_workers"):
            for worker in half._workers:
                worker.kill()
            half._workers_status = [False] * len(half._workers)


@contextmanager
def _sigchld(handler) -> Iterator[None]:
    """Install `handler` for SIGCHLD inside the block; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _cause_of_death(process: int, exitcode: int | None, image: str | None) -> str:
    if exitcode in EXHAUSTED:
        return f"{_of_exhaustion(exitcode)}; {GO_ON}"
    number = -(exitcode or 0)
    known = number in set(signal.Signals)
    how = f"was killed by {signal.Signals(number).name}" if known else f"ended with exit code {exitcode}"
    where = f" at image {image}" if image else ""
    cause = LIKELY_CAUSE.get(number, CRASH)
    return f"a data worker (process {process}) {how}{where}, {cause}; {GO_ON}"
