import math
from types import SimpleNamespace

import pytest

from lab.benchmarks import time_by_part as where


def test_seconds_and_calls_of_each_part(monkeypatch):
    now = 0.0

    def takes(seconds, answer=None):
        def run(*_):
            nonlocal now
            now += seconds
            return answer

        return run

    monkeypatch.setattr(where.time, "thread_time", lambda: now)
    module = SimpleNamespace(long=takes(3.0, "answer"), short=takes(0.5), rest=takes(1.0))
    untouched = module.long

    def work():
        assert module.long(1) == "answer"
        module.short(), module.short(), module.rest()

    parts, total = where.seconds_by_part(work, {"a": (module, "long"), "b": (module, "short")})
    assert parts == {"a": (3.0, 1), "b": (1.0, 2)} and total == 5.0
    assert module.long is untouched


def test_what_was_replaced_is_put_back_after_an_error():
    before = math.sqrt
    with pytest.raises(ValueError):
        where.seconds_by_part(lambda: math.sqrt(-1), {"root": (math, "sqrt")})
    assert math.sqrt is before
