"""Which part of a slice a network sees: rectangles in the coordinates of `grid_sample`, -1 to 1 over the slice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Box = tuple[float, float, float, float]
"""Top, left, bottom, right as shares of the slice."""


@dataclass(frozen=True)
class View:
    """A rectangle: centre and half of its sides as (x, y); the whole slice is (0, 0), (1, 1)."""

    centre: tuple[float, float] = (0.0, 0.0)
    half: tuple[float, float] = (1.0, 1.0)


WHOLE = View()


def centred_square(aspect: float, fraction: float) -> View:
    """The centred square of `fraction` of the shorter side of a slice `aspect` times as wide as high."""
    return View(half=(fraction * min(1.0, 1 / aspect), fraction * min(1.0, aspect)))


def of_box(box: Box) -> View:
    """The view of a box."""
    top, left, bottom, right = box
    return View((left + right - 1, top + bottom - 1), (right - left, bottom - top))


def random_part(view: View, zoom: tuple[float, float], stretch: float, rng: np.random.Generator) -> View:
    """A part of `view` whose sides are a random share of its own, from `zoom`, at a random place in the slice.

    `stretch`: by up to this, as a natural logarithm, each side is longer or shorter than the share says.
    """
    share = np.exp(rng.uniform(np.log(zoom[0]), np.log(zoom[1])))
    half = np.minimum(np.array(view.half) * share * np.exp(rng.uniform(-stretch, stretch, 2)), 1.0)
    centre = (1 - half) * rng.uniform(-0.8, 0.8, 2)
    return View((float(centre[0]), float(centre[1])), (float(half[0]), float(half[1])))


def moved_edges(view: View, by: float, rng: np.random.Generator) -> View:
    """`view` with every edge moved at random by up to `by` of its side."""
    low, high = rng.uniform(-2 * by, 2 * by, (2, 2)) * np.array(view.half)
    centre, half = np.array(view.centre) + (low + high) / 2, np.array(view.half) + (high - low) / 2
    return replace(view, centre=(float(centre[0]), float(centre[1])), half=(float(half[0]), float(half[1])))
