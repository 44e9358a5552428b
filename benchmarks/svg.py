"""Panels of lines as SVG, with a ground of their own: as legible on a dark page as on a light one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

_WIDTH, _HEIGHT = 360, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 26, 48, 74
_INK, _GRID, _GROUND = "#1f2328", "#d8dce1", "#ffffff"


class Point(NamedTuple):
    """A value."""

    x: float
    y: float
    hollow: bool = False
    """Not measured, extrapolated."""


class Line(NamedTuple):
    """Values that belong together."""

    name: str
    colour: str
    points: list[Point]
    dashed: bool = False
    """Without marks: a bound, not values."""


class Axis(NamedTuple):
    """From its first tick to its last."""

    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool

    def place(self, value: float) -> float:
        """Between 0 and 1."""
        first, last, it = (self._scaled(each) for each in (self.ticks[0][0], self.ticks[-1][0], value))
        return (it - first) / (last - first) if last > first else 0.5

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


class Panel(NamedTuple):
    """One drawing, all its lines over the number of Services."""

    title: str
    subtitle: str
    x: Axis
    y: Axis
    lines: list[Line]


def document(panels: Sequence[Panel], *, columns: int) -> str:
    """The picture, its panels row by row."""
    width, height = columns * _WIDTH, -(-len(panels) // columns) * _HEIGHT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{_INK}">'
    )
    parts = [head, f'<rect width="{width}" height="{height}" rx="8" fill="{_GROUND}"/>']
    for number, panel in enumerate(panels):
        x, y = number % columns * _WIDTH, number // columns * _HEIGHT
        parts += [f'<g transform="translate({x},{y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> Iterator[str]:
    yield _text(panel.title, x=_LEFT, y=22, more='font-weight="bold" font-size="14"')
    yield _text(panel.subtitle, x=_LEFT, y=39, more='font-size="11"')
    for value, name in panel.y.ticks:
        y = _down(panel, value)
        yield f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>'
        yield _text(name, x=_LEFT - 6, y=y + 4, more='text-anchor="end"')
    for value, name in panel.x.ticks:
        x = _across(panel, value)
        yield f'<path d="M{x} {_HEIGHT - _BOTTOM}v4" stroke="{_INK}"/>'
        yield _text(name, x=x, y=_HEIGHT - _BOTTOM + 18, more='text-anchor="middle"')
    yield _text(
        "Services", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - _BOTTOM + 34, more='text-anchor="middle"'
    )
    yield from _legend(panel.lines)
    for line in panel.lines:
        yield from _drawn(panel, line)


def _legend(lines: Sequence[Line]) -> Iterator[str]:
    x, y = 14.0, _HEIGHT - 16
    for line in lines:
        if line.points:
            yield f'<path d="M{x} {y - 4}h18" {_stroke(line)}/>'
            yield _text(line.name, x=x + 23, y=y, more='font-size="11"')
            x += 23 + 5.6 * len(line.name) + 12


def _drawn(panel: Panel, line: Line) -> Iterator[str]:
    places = [(_across(panel, point.x), _down(panel, point.y)) for point in line.points]
    if not places:
        return
    yield f'<path d="M{" L".join(f"{x} {y}" for x, y in places)}" fill="none" {_stroke(line)}/>'
    for point, (x, y) in zip(line.points, places, strict=True):
        if not line.dashed:
            inside = _GROUND if point.hollow else line.colour
            yield f'<circle cx="{x}" cy="{y}" r="3.5" fill="{inside}" stroke="{line.colour}" stroke-width="1.5"/>'


def _stroke(line: Line) -> str:
    return f'stroke={quoteattr(line.colour)} stroke-width="2"' + (
        ' stroke-dasharray="5 4"' if line.dashed else ""
    )


def _across(panel: Panel, value: float) -> float:
    return round(_LEFT + panel.x.place(value) * (_WIDTH - _LEFT - _RIGHT), 1)


def _down(panel: Panel, value: float) -> float:
    return round(_HEIGHT - _BOTTOM - panel.y.place(value) * (_HEIGHT - _TOP - _BOTTOM), 1)


def _text(text: str, *, x: float, y: float, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'
