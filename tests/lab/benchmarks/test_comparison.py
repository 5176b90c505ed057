"""Pairs of runs, with a clock that only the runs move."""

import json
import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from lab.benchmarks import comparison
from lab.benchmarks.comparison import Comparison, compare, machine, seconds_by_part, share_table
from pretrain.errors import UserError


@pytest.fixture
def clock():
    """clock.runs(name, seconds, ...) -> a callable that takes so long, call by call; clock.calls: who ran, in order."""

    class Clock:
        now, calls = 0.0, []

        def runs(self, name, *seconds):
            durations = iter(seconds)

            def call():
                self.now += next(durations)
                self.calls.append(name)

            return call

    clock = Clock()
    clock.calls = []
    clock.read = lambda: clock.now
    return clock


def test_the_ratio_is_the_median_of_pairs_and_the_warm_up_does_not_count(clock):
    ours = clock.runs("A", 1000.0, 1.0, 3.0, 2.0, 8.0, 5.0)
    plain = clock.runs("B", 0.001, 2.0, 12.0, 4.0, 8.0, 50.0)
    result = compare("case", ours, plain, 5, {"images": 3}, clock.read)
    assert (result.ours, result.plain) == (3.0, 8.0)
    assert result.ratio == 0.5  # of 0.5, 0.25, 0.5, 1, 0.1: not 3 / 8
    assert result.spread == (0.25, 0.5)
    assert result.what == {"images": 3, "pairs": 5} and result.unit == "s"


def test_who_runs_first_alternates(clock):
    compare("case", clock.runs("A", *[1.0] * 5), clock.runs("B", *[1.0] * 5), 4)
    assert "".join(clock.calls) == "AB" + "ABBAABBA"


def test_another_clock(clock):
    ticks = iter(range(100))
    result = compare("case", clock.runs("A", 1.0, 1.0), clock.runs("B", 1.0, 5.0), 1, clock=lambda: next(ticks))
    assert (result.ours, result.plain) == (1, 1)


def test_no_pair_is_refused_before_anything_runs(clock):
    with pytest.raises(UserError, match="--pairs 0"):
        compare("case", clock.runs("A"), clock.runs("B"), 0)


def test_other_figures_than_time():
    result = Comparison.of("memory", [10.0, 30.0], [20.0, 20.0], {"images": 4}, unit="MiB")
    assert (result.ours, result.plain, result.ratio, result.unit) == (20.0, 20.0, 1.0, "MiB")


def test_all_of_it_can_be_written_as_json():
    result = Comparison.of("case", [1.0], [2.0], {"images": 3})
    result.tables["parts"] = [{"part": "decode", "share": 0.5}]
    read = json.loads(json.dumps({"machine": machine(), "comparison": asdict(result)}))
    assert read["comparison"]["tables"] == {"parts": [{"part": "decode", "share": 0.5}]}
    assert {"name", "ours", "plain", "ratio", "spread", "what"} <= set(read["comparison"])
    assert {"cpu", "threads", "torch", "load_average_at_start"} <= set(read["machine"])


def test_seconds_and_calls_of_each_part(monkeypatch):
    now = 0.0

    def takes(seconds, answer=None):
        def run(*_):
            nonlocal now
            now += seconds
            return answer

        return run

    monkeypatch.setattr(comparison.time, "thread_time", lambda: now)
    module = SimpleNamespace(long=takes(3.0, "answer"), short=takes(0.5), rest=takes(1.0))
    untouched = module.long

    def work():
        assert module.long(1) == "answer"
        module.short(), module.short(), module.rest()

    parts, total = seconds_by_part(work, {"a": (module, "long"), "b": (module, "short")})
    assert parts == {"a": (3.0, 1), "b": (1.0, 2)} and total == 5.0
    assert module.long is untouched
    shares = share_table({part: seconds for part, (seconds, _) in parts.items()}, total)
    assert [(row["part"], row["share"]) for row in shares] == [("a", 0.6), ("b", 0.2), ("the rest", 0.2)]


def test_what_was_replaced_is_put_back_after_an_error():
    before = math.sqrt
    with pytest.raises(ValueError):
        seconds_by_part(lambda: math.sqrt(-1), {"root": (math, "sqrt")})
    assert math.sqrt is before
