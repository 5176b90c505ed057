import math
import re
from xml.etree import ElementTree

import pytest

from lab.report.chart import HEIGHT, WIDTH, Series, line_chart, nice_ticks


@pytest.mark.parametrize("low, high", [(0, 1), (0.13, 0.87), (-3.2, 14.4), (5, 5), (0, 0), (1e-5, 3e-5), (0, 123456)])
def test_ticks_cover_the_range_in_even_steps(low, high):
    ticks = nice_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    steps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps))


def polylines(html):
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", html).group())
    return [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in svg.iter("polyline")]


def test_lines_keep_order_shape_and_frame():
    html = line_chart("loss", [Series("a", [(0, 4.0), (10, 2.0), (20, 3.0)]), Series("b", [(20, 8.0)], 2)], "step")
    first, second = polylines(html)
    xs, ys = zip(*first, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    assert ys[0] < ys[2] < ys[1]  # larger values lie higher, and y points down
    assert second[0][1] < min(ys)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in first + second)


def test_values_that_are_not_finite_are_left_out():
    html = line_chart("loss", [Series("a", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)])], "step")
    assert len(polylines(html)[0]) == 2 and "nan" not in html
    assert line_chart("loss", [Series("a", [(0, math.nan)])], "step") == ""


def test_text_is_escaped():
    assert "<x>" not in line_chart("<x>", [Series("<x>", [(0, 1)]), Series("b", [(0, 2)])], "<x>")
