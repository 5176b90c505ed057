"""Where the time goes: seconds of this thread inside chosen functions while something runs."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import ModuleType
from unittest.mock import patch


def seconds_by_part(
    call: Callable[[], object], parts: Mapping[str, tuple[ModuleType, str]]
) -> tuple[dict[str, tuple[float, int]], float]:
    """Run `call`. parts: a label -> (module, name) of each function to time, as its callers look it up.

    -> (label -> (seconds, calls), seconds of all). Time inside a part that another one calls counts for both.
    """
    spent = {label: [0.0, 0] for label in parts}

    def timed(function: Callable, record: list) -> Callable:
        def run(*args, **options):
            start = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                record[0] += time.thread_time() - start
                record[1] += 1

        return run

    with ExitStack() as patches:
        for label, (module, name) in parts.items():
            patches.enter_context(patch.object(module, name, timed(getattr(module, name), spent[label])))
        start = time.thread_time()
        call()
        total = time.thread_time() - start
    return {label: (seconds, calls) for label, (seconds, calls) in spent.items()}, total
