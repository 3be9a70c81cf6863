"""Names beside the points of a picture, so that none has to be looked up by its colour, and none covers another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from math import cos, hypot, pi, sin

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

SIZE = 8.0
DISTANCES = (9.0, 14.0, 22.0, 32.0, 44.0, 60.0, 80.0, 105.0)
DIRECTIONS = 24
FAR = 15.0
POINT_RADIUS = 6.0
LINE_STEP = 6.0
NAMES_WEIGH = 5.0
"""How much worse it is to cover a name than a point or a line, by area."""
Point = tuple[float, float]
Extents = npt.NDArray[np.float64]


def label(axes: Axes, named: Mapping[str, tuple[Point, object]], lines: Iterable[Sequence[Point]] = ()) -> None:
    """Write each name beside its point, in its colour, and beside lines; one that went far is tied to its point.

    The axes must have their scales and limits: places are looked for in pixels.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    scale = figure.dpi / 72.0
    pixels = {name: _pixel(axes, point) for name, (point, _) in named.items()}
    taken = [Bbox.from_bounds(x - 1, y - 1, 2, 2).padded(POINT_RADIUS * scale) for x, y in pixels.values()]
    taken += [Bbox.from_bounds(x - 1, y - 1, 2, 2).padded(scale) for line in lines for x, y in _along(axes, line)]
    frame = axes.get_window_extent(renderer)
    written: list[Bbox] = []
    for name, (point, color) in sorted(named.items(), key=lambda item: pixels[item[0]]):
        text = axes.annotate(
            name, point, (0, 0), textcoords="offset points", fontsize=SIZE, color=color, va="center", zorder=5
        )
        text.set_path_effects([withStroke(linewidth=2.0, foreground="white")])
        size = text.get_window_extent(renderer)
        points, names = _extents(taken), _extents(written)
        offset, box = min(
            _places(pixels[name], size, scale), key=lambda place: _badness(place, frame, points, names, DISTANCES[-1])
        )
        written.append(box.padded(scale))
        text.set(x=offset[0], y=offset[1], ha="left" if offset[0] >= 0 else "right")
        if max(abs(offset[0]), abs(offset[1])) > FAR:
            end = pixels[name][0] + offset[0] * scale, pixels[name][1] + offset[1] * scale
            taken += [Bbox.from_bounds(x - 1, y - 1, 2, 2).padded(scale) for x, y in _dotted(pixels[name], end)]
            line = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0.0, "shrinkB": 4.0}
            axes.annotate("", point, offset, textcoords="offset points", arrowprops=line, zorder=3)


def _along(axes: Axes, line: Sequence[Point]) -> Iterator[Point]:
    """Pixels on a line, close to each other."""
    ends = [_pixel(axes, point) for point in line]
    for start, end in pairwise(ends):
        yield from _dotted(start, end)


def _pixel(axes: Axes, point: Point) -> Point:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _dotted(start: Point, end: Point) -> Iterator[Point]:
    across, up = end[0] - start[0], end[1] - start[1]
    count = max(1, int(hypot(across, up) / LINE_STEP))
    yield from ((start[0] + across * place / count, start[1] + up * place / count) for place in range(count + 1))


def _places(at: Point, size: Bbox, scale: float) -> Iterator[tuple[Point, Bbox]]:
    """Offsets in points around a point, the nearest first, with what the text would cover there."""
    for distance, turn in product(DISTANCES, range(DIRECTIONS)):
        angle = 2 * pi * turn / DIRECTIONS
        offset = distance * cos(angle), distance * sin(angle)
        if abs(offset[0]) < 1.0:
            offset = 0.0, offset[1]
        x, y = at[0] + offset[0] * scale, at[1] + offset[1] * scale - size.height / 2
        yield offset, Bbox.from_bounds(x if offset[0] >= 0 else x - size.width, y, size.width, size.height)


def _badness(place: tuple[Point, Bbox], frame: Bbox, points: Extents, names: Extents, far: float) -> float:
    """How much of others a name would cover or leave the frame by; of places that are free, how far it is."""
    offset, box = place
    covered = _overlap(box, points) + NAMES_WEIGH * _overlap(box, names)
    outside = box.width * box.height - _overlap(box, _extents([frame]))
    return covered + outside + hypot(*offset) / far


def _extents(boxes: Sequence[Bbox]) -> Extents:
    """(boxes, 4): x0, y0, x1, y1."""
    return np.array([box.extents for box in boxes]).reshape(-1, 4)


def _overlap(box: Bbox, others: Extents) -> float:
    """Area in square pixels that a box shares with others."""
    low, high = np.maximum(others[:, :2], box.extents[:2]), np.minimum(others[:, 2:], box.extents[2:])
    return float(np.prod(np.clip(high - low, 0.0, None), axis=1).sum())
