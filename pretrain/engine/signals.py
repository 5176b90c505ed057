"""Stopping on SIGTERM and SIGINT: a run finishes its step, saves, and leaves with an exit code of its own."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from detectron2.engine import HookBase
from detectron2.utils import comm

# EX_TEMPFAIL of sysexits.h: "not an error, try again later". Not 128 + n: with that a shell also reports a process
# that died of the signal and saved nothing.
EXIT_STOPPED = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # schedulers send the first, Ctrl-C the second

logger = logging.getLogger(__name__)


class StopOnSignal(HookBase):
    """After a SIGTERM or SIGINT: finish the step, save, and leave with `SystemExit(EXIT_STOPPED)`.

    All processes of a run stop after the same step, whichever of them got the signal. From the first signal on, a
    SIGINT leaves at once, as if this hook were not there, and a SIGTERM changes nothing, for schedulers repeat it. The
    former handlers are back when training ends. A signal during the last step needs no stop.

    Args:
        save: called with the number of steps done, in every process.
    """

    def __init__(self, save: Callable[[int], None]):
        self.save = save
        self.received: int | None = None
        self.former: dict[int, object] = {}

    def before_train(self) -> None:
        self.former = _handlers()
        _install(dict.fromkeys(self.former, self._note))

    def after_train(self) -> None:
        _install(self.former)

    def _note(self, number: int, frame) -> None:
        self.received = number
        _install({signal.SIGINT: self.former[signal.SIGINT]})
        if comm.is_main_process():
            _say("stopping after this step, with everything saved; Ctrl-C leaves at once")

    def after_step(self) -> None:
        received = next(filter(None, comm.all_gather(self.received)), None)  # one process: no communication
        done = self.trainer.iter + 1
        if received is None or done == self.trainer.max_iter:
            return
        self.save(done)
        comm.synchronize()  # a launcher ends the others when the first one leaves
        logger.warning("stopped as told: everything is saved after step %d of %d", done, self.trainer.max_iter)
        raise SystemExit(EXIT_STOPPED)


@contextmanager
def passing_on(terminate: Callable[[], None]) -> Iterator[list[int]]:
    """For a process that waits for others: it hands SIGINT and SIGTERM on to them, and goes on waiting.

    A second SIGINT interrupts the waiting.

    Args:
        terminate: sends the others SIGTERM; it is a signal's handler, so it must be short.

    Yields:
        the numbers of the signals received so far.
    """
    received = []

    def pass_on(number: int, frame) -> None:
        received.append(number)
        if number == signal.SIGINT:
            _install({number: former[number]})
        terminate()

    former = _handlers()
    _install(dict.fromkeys(former, pass_on))
    try:
        yield received
    finally:
        _install(former)


def _handlers() -> dict[int, object]:
    """The handlers of `SIGNALS` now. None of them outside the main thread, where Python lets nobody change them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in SIGNALS}


def _install(handlers: dict[int, object]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python


def _say(text: str) -> None:
    """To stderr past Python's buffers, which a signal handler may find in use."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())
