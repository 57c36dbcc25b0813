"""A small painted chart of the epochs, the same in Slicer and without its plot views: lines of points over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import qt

from RVQCRefineLib.progress import Point, by_candidate

COLORS = ("#0b5c8f", "#e0a100", "#8c1141", "#2e7d32", "#5e35b1", "#566270")
INK, GRID = "#1b2530", "#d5dbe1"
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 26, 34


@dataclass(frozen=True)
class Line:
    """A named line through points (x, y)."""

    name: str
    points: tuple[tuple[float, float], ...]


def flagged_lines(points: Sequence[Point]) -> list[Line]:
    """Flagged stacks by epoch, a line a candidate."""
    found = by_candidate(points)
    return [Line(name, tuple((p.epoch, p.flagged) for p in own)) for name, own in found.items()]


def guard_lines(points: Sequence[Point]) -> list[Line]:
    """The guard's Dice by epoch, a line a candidate."""
    found = by_candidate(points)
    return [Line(name, tuple((p.epoch, p.guard) for p in own if p.guard is not None)) for name, own in found.items()]


class Chart:
    """One chart in a label. `title` stands above it; below are the epochs."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.widget = qt.QLabel()
        self.widget.setMinimumSize(300, 190)
        self.lines: list[Line] = []
        self.show([], 1)

    def show(self, lines: Sequence[Line], epochs: int, *, least: float | None = None) -> None:
        """Paint `lines` over epochs 0 to `epochs`; the values begin at `least`, by default a little under the lowest."""
        self.lines = [line for line in lines if line.points]
        width, height = 430, 210
        picture = qt.QPixmap(width, height)
        picture.fill(qt.QColor("#ffffff"))
        painter = qt.QPainter()
        painter.begin(picture)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        values = [y for line in self.lines for _, y in line.points] or [0.0, 1.0]
        low, high = _span(values, least)
        area = qt.QRectF(LEFT, TOP, width - LEFT - RIGHT, height - TOP - BOTTOM)
        place = lambda x, y: qt.QPointF(  # noqa: E731
            area.x() + area.width() * x / max(epochs, 1), area.y() + area.height() * (high - y) / (high - low)
        )
        self._axes(painter, area, low, high, epochs, place)
        for number, line in enumerate(self.lines):
            self._line(painter, line, COLORS[number % len(COLORS)], place)
        self._legend(painter, height)
        painter.end()
        self.widget.setPixmap(picture)

    def _axes(self, painter, area, low: float, high: float, epochs: int, place) -> None:
        painter.setPen(qt.QColor(INK))
        painter.drawText(qt.QPointF(8, 16), self.title)
        step = _step(high - low)
        counts = range(math.ceil(low / step), math.floor(high / step) + 1) if self.lines else ()
        for count in counts:
            at = place(0, count * step)
            painter.setPen(qt.QColor(GRID))
            painter.drawLine(at, place(max(epochs, 1), count * step))
            painter.setPen(qt.QColor(INK))
            painter.drawText(
                qt.QPointF(4, at.y() + 4), f"{count * step:.{0 if step >= 1 else 2 if step >= 0.01 else 3}f}"
            )
        for epoch in range(0, epochs + 1, max(1, round(epochs / 8))):
            at = place(epoch, low)
            painter.drawText(qt.QPointF(at.x() - 3, at.y() + 14), str(epoch))
        if not self.lines:
            painter.drawText(qt.QPointF(area.x() + 12, area.y() + area.height() / 2), "no epoch has ended yet")

    def _line(self, painter, line: Line, color: str, place) -> None:
        pen = qt.QPen(qt.QColor(color))
        pen.setWidthF(2.0)
        painter.setPen(pen)
        painter.setBrush(qt.QColor(color))
        spots = [place(x, y) for x, y in line.points]
        for start, end in zip(spots, spots[1:], strict=False):
            painter.drawLine(start, end)
        for spot in spots:
            painter.drawEllipse(spot, 3.0, 3.0)

    def _legend(self, painter, height: int) -> None:
        x = LEFT
        for number, line in enumerate(self.lines):
            painter.setPen(qt.QColor(COLORS[number % len(COLORS)]))
            painter.drawText(qt.QPointF(x, height - 4), "\N{BLACK CIRCLE}")
            painter.setPen(qt.QColor(INK))
            painter.drawText(qt.QPointF(x + 12, height - 4), line.name)
            x += 26 + 7 * len(line.name)


def _span(values: Sequence[float], least: float | None) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.1 or 0.05
    return (low - room if least is None else min(least, low)), max(high + room, (least or 0) + 1e-6)


def _step(span: float) -> float:
    """A round step of which at most six fit into `span`."""
    power = 10.0 ** math.floor(math.log10(span / 6))
    return next(power * k for k in (1, 2, 5, 10) if power * k * 6 >= span)
