"""Progress: nothing about short loops, a few lines about long ones, and the items as they are."""

import pytest

from pretrain import progress as module
from pretrain.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless moved: clock.now += 1."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def run(clock, seconds: float, items: int, **options) -> list[tuple[float, str]]:
    """Lines about so many items that take `seconds` each, with the times at which they came."""
    said = []
    told = progress(range(items), "scenes", **options, say=lambda line: said.append((clock.now, line)))
    for place, item in enumerate(told):
        assert item == place
        clock.now += seconds
    assert place == items - 1
    return said


def test_a_short_loop_says_nothing(clock):
    assert run(clock, 0.001, 5_000, total=5_000) == []


def test_a_long_loop_says_it_soon_and_then_every_minute(clock):
    said = run(clock, 0.5, 1_000, total=1_000)
    assert [when for when, _ in said] == [10, 30, 60, 120, 180, 240, 300, 360, 420, 480]
    assert said[0][1] == "scenes: 20 of 1,000, 2.0/s, 0:08:10 left"


def test_the_end_is_not_told(clock):
    assert run(clock, 10, 1, total=1) == []


def test_items_count_for_several_and_need_no_total(clock):
    assert run(clock, 5, 3, count=lambda item: 600)[0][1] == "scenes: 1,200, 120.0/s"


def test_lines_go_to_stderr(clock, capsys):
    for _ in progress(range(2), "images", 2):
        clock.now += 10
    assert capsys.readouterr() == ("", "images: 1 of 2, 0.1/s, 0:00:10 left\n")
