"""Lines about loops that take a while, which read the same in a terminal, a log and a notebook."""

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

WAITS = (10, 20, 30)  # seconds before the first lines
LATER = 60  # seconds between the others

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    what: str,
    total: int | None = None,
    count: Callable[[Item], int] = lambda item: 1,
    say: Callable[[str], None] | None = None,
) -> Iterator[Item]:
    """Yield `items`, and after 10 s, 30 s and then each minute say how many are done, how fast, and what is left.

        for scene in progress(scenes, "scenes", len(scenes)): ...      "scenes: 120 of 2,000, 48.1/s, 0:00:39 left"

    Args:
        what: the items' name in the plural.
        total: how many there are; None if that is not known.
        count: how many an item counts for, such as the images of a batch.
        say: takes a line, such as a logger's `info`. Default: prints to stderr.
    """
    start = time.monotonic()
    waits, done = iter(WAITS), 0
    due = start + next(waits)
    for item in items:
        yield item  # the consumer's work is part of the time
        done, now = done + count(item), time.monotonic()
        if now >= due and done != total:
            (say or to_stderr)(f"{what}: {so_far(done, total, now - start)}")
            due = now + next(waits, LATER)


def so_far(done: int, total: int | None, seconds: float) -> str:
    """Items done, their rate and the time left."""
    rate = done / seconds
    text = f"{done:,}{f' of {total:,}' if total else ''}, {rate:.1f}/s"
    if total and rate:
        text += f", {datetime.timedelta(seconds=round((total - done) / rate))} left"
    return text


def say_starting() -> None:
    """Tell a terminal that the command is alive, before imports and checks that take seconds."""
    if sys.stderr.isatty():
        to_stderr("importing PyTorch and checking the inputs ...")


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
