"""The outline of a region as one polygon along the sides of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The four sides of a pixel, clockwise on the screen: the corner where one starts, and the step to the next.
_CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outline(column: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]) -> list[int]:
    """The polygon x0, y0, x1, y1, ... of a region, in pixel corners.

    What does not hang together, a hole above all, is joined to the first point by a line there and back:
    filled by the even-odd rule, as COCO's programs do, the polygon gives the region's very pixels.

    Args:
        column, start, stop: int64 (N,), the runs of the region down the columns, half-open.
    """
    top, left = int(start.min()) - 1, int(column.min()) - 1
    inside = np.zeros(
        (int(stop.max()) - top + 1, int(column.max()) - left + 2), bool
    )  # an empty pixel around it
    for at, first, end in zip(column - left, start - top, stop - top, strict=True):
        inside[first:end, at] = True
    (first_loop, *others) = _loops(inside)
    points = [*first_loop]
    for loop in others:
        points += [first_loop[0], *loop, loop[0]]
    return [value for x, y in points for value in (x + left, y + top)]


def _loops(inside: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The corners of all closed ways between inside and outside, with the inside on the right hand."""
    width = inside.shape[1] + 1
    ways_from: dict[int, list[int]] = {}
    for way, ((corner_x, corner_y), (step_x, step_y)) in enumerate(zip(_CORNERS, _STEPS, strict=True)):
        on_the_left = np.roll(inside, (step_x, -step_y), (0, 1))
        rows, columns = np.nonzero(inside & ~on_the_left)
        for point in ((rows + corner_y) * width + columns + corner_x).tolist():
            ways_from.setdefault(point, []).append(way)
    loops = []
    while ways_from:
        # Points are in reading order, those with a way to the right first: this one is a corner.
        point, way, loop = next(iter(ways_from)), -1, []
        while point in ways_from:
            ways = ways_from[point]
            if ways[-1] != way:
                loop.append((point % width, point // width))
            way = ways.pop()
            if not ways:
                del ways_from[point]
            point += _STEPS[way][0] + _STEPS[way][1] * width
        loops.append(loop)
    return loops
