"""Only the process that made a data worker may end it, and it ends with that process.

Ctrl-C and schedulers signal a whole process group. The main process then finishes its step, for which it needs its
workers, and ends them itself, with SIGTERM as the last resort.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PERIOD = 2.0  # seconds between looks at whether the parent lives


@contextmanager
def signals_held() -> Iterator[None]:
    """Block SIGINT, SIGTERM and SIGCHLD while workers are made; in a worker, until `obey_parent_alone`."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def obey_parent_alone() -> None:
    """In a worker: ignore SIGINT, and SIGTERM from others than the parent; end when the parent has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler would not be told the sender. Threads that start later, torch's queue feeder say, inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # At once: while one is pending, the parent's own would be lost in it.
    _exit_if_from_parent(signal.sigtimedwait({signal.SIGTERM}, 0))
    threading.Thread(target=_wait_for_the_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_the_parent(parent: int) -> None:
    while os.getppid() == parent:
        _exit_if_from_parent(signal.sigtimedwait({signal.SIGTERM}, PERIOD))
    os._exit(1)  # it was killed: writing to its pipes, which sister processes keep open, would wait for ever


def _exit_if_from_parent(received: signal.struct_siginfo | None) -> None:
    if received is not None and received.si_pid == os.getppid():
        os._exit(0)
