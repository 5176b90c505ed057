"""Ends a command when the command that started it has ended, even by SIGKILL, lack of memory or a crash."""

import os
import signal
import threading
import time

PARENT = "CROPFIELD_PARENT"  # environment variable: the process without which this one is to stop
PERIOD = 1.0  # seconds between looks


def with_parent() -> dict[str, str]:
    """For the environment of a command of this project that is to end with this process."""
    return {PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Send this process SIGTERM, on which a training saves, once the parent that `with_parent` named has gone."""
    parent = os.environ.pop(PARENT, "")  # commands that this one starts have another
    if parent.isdecimal():
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PERIOD)
    os.kill(os.getpid(), signal.SIGTERM)
