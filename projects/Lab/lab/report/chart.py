"""Line charts as inline SVG that follow the page's colours, light or dark."""

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 8, 32


@dataclass(frozen=True)
class Series:
    """A line: its `name`, points (x, y), and `color`, a number from 1 to 4 of the page's palette."""

    name: str
    points: list[tuple[float, float]]
    color: int = 1


def line_chart(title: str, series: list[Series], x_label: str) -> str:
    """A titled chart of one or more lines, with a legend where there are several.

    Points that are not finite break no chart: they are left out. Without any point there is no chart: "".
    """
    lines = [Series(s.name, [p for p in s.points if all(map(math.isfinite, p))], s.color) for s in series]
    lines = [s for s in lines if s.points]
    if not lines:
        return ""
    xs, ys = zip(*(point for s in lines for point in s.points), strict=True)
    x_ticks, y_ticks = nice_ticks(0, max(xs), 5), nice_ticks(min(ys), max(ys), 5)
    x_range = (0.0, max(max(xs), x_ticks[-1] if x_ticks[-1] <= max(xs) else max(xs), 1e-9))
    y_range = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(x_ticks, y_ticks, place, x_label)] + [_line(s, place) for s in lines]
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f'<div class="chart"><h3>{escape(title)}</h3>{_legend(lines)}{svg}</div>'


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`; `about` of them, steps 1, 2 or 5 times 10^n."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, last + 1)]


def _grid(x_ticks, y_ticks, place, x_label: str) -> str:
    parts = []
    for y in y_ticks:
        _, row = place(0, y)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{row + 4:.1f}" text-anchor="end" fill="currentColor">{y:.3g}</text>')
    for x in x_ticks:
        across, _ = place(x, y_ticks[0])
        if across <= WIDTH - RIGHT + 1:
            where = f'x="{min(across, WIDTH - RIGHT - 8):.1f}" y="{HEIGHT - BOTTOM + 14}"'
            parts.append(f'<text {where} text-anchor="middle" fill="currentColor">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle" fill="currentColor">{escape(x_label)}</text>'
    )
    return "".join(parts)


def _line(series: Series, place) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in series.points)
    style = f'fill="none" stroke="var(--c{series.color})" stroke-width="2" stroke-linejoin="round"'
    return f'<polyline points="{points}" {style}/>'


def _legend(lines: list[Series]) -> str:
    if len(lines) < 2:
        return ""
    keys = "".join(f'<span><i style="background:var(--c{s.color})"></i>{escape(s.name)}</span>' for s in lines)
    return f'<div class="legend">{keys}</div>'
