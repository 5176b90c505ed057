"""How OpenMP's threads wait for one another. Imports no torch: what is set after torch is loaded comes too late."""

import os
import time
from pathlib import Path

SECONDS = 0.1  # to look at the machine for
BUSY = 0.3  # cores


def choose_waiting() -> None:
    """Let threads sleep while they wait for one another if other processes keep this machine busy.

    By default they spin, which is quicker where each has a core of its own. Where another process wants one of the
    cores, a thread that is not running keeps all others spinning: on two cores beside one busy process a training falls
    to 0.41 of its speed, and to 0.6 with sleeping threads. What the environment says already stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys() and busy_cores() > BUSY:
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def busy_cores() -> float:
    """Cores that other processes are using now, on average over `SECONDS`; 0 where the system does not say."""
    try:
        before = busy_ticks(Path("/proc/stat").read_text())
        time.sleep(SECONDS)
        return (busy_ticks(Path("/proc/stat").read_text()) - before) / os.sysconf("SC_CLK_TCK") / SECONDS
    except (OSError, ValueError, IndexError):
        return 0.0


def busy_ticks(stat: str) -> int:
    """Clock ticks of all cores in user, nice and system mode since the start: the first line of /proc/stat."""
    return sum(map(int, stat.split()[1:4]))
