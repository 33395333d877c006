"""Contours lie where the map says, and are simplified by no more than is told."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reporting.contours import Contour, iso_contours, point_weights, within_point_limit


def bump(center: tuple[float, float], width: float, grid: int = 64) -> np.ndarray:
    """A Gaussian of height 1 on a grid; centre (row, column) in map pixels, whole pixels being pixel centres."""
    y, x = np.mgrid[:grid, :grid]
    return np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * width**2)).astype(np.float32)


def test_contour_is_a_circle_around_the_maximum_in_image_coordinates() -> None:
    width = 6.0
    (contour,) = iso_contours(bump((20, 40), width)[None], (0.5,), (512, 512))
    # Map pixel (20, 40) covers the CT pixels 160..168 x 320..328, so its centre is at column 324, row 164.
    radius = np.hypot(*(contour.points - [324.0, 164.0]).T)
    assert np.allclose(radius, 8 * width * np.sqrt(2 * np.log(2)), atol=1.0)
    assert np.array_equal(contour.points[0], contour.points[-1])
    assert contour.z == 0


def test_grid_that_is_not_square_is_stretched_both_ways() -> None:
    (contour,) = iso_contours(bump((32, 32), 5)[None], (0.5,), (640, 320))
    center = (contour.points.min(axis=0) + contour.points.max(axis=0)) / 2
    assert np.allclose(center, [32.5 * 5, 32.5 * 10], atol=0.5)


def test_contour_at_the_border_is_closed_and_inside_the_image() -> None:
    maps = bump((0, 63), 8)[None]
    (contour,) = iso_contours(maps, (0.5,), (512, 512))
    assert np.array_equal(contour.points[0], contour.points[-1])
    assert contour.points.min() >= 0
    assert contour.points.max() <= 512


def test_maps_below_the_level_give_nothing() -> None:
    assert iso_contours(np.zeros((3, 64, 64), np.float32), (0.5,), (512, 512)) == ()
    assert iso_contours(0.4 * bump((32, 32), 6)[None], (0.5,), (512, 512)) == ()


def test_tiny_loops_are_left_out_by_their_area_in_mm2() -> None:
    dot = np.zeros((1, 64, 64), np.float32)
    dot[0, 10, 10] = 0.6
    assert iso_contours(dot, (0.5,), (512, 512), pixel_area=0.5) == ()
    assert len(iso_contours(dot, (0.5,), (512, 512), pixel_area=50.0)) == 1


def loop(seed: int, points: int) -> Contour:
    """A ragged closed loop around some centre."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, points))
    radius = rng.uniform(20, 60, points)
    outline = 250 + np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return Contour(seed, 0.5, np.vstack([outline, outline[:1]]))


def distance_to(polyline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance of each point from the nearest segment of a polyline."""
    a, b = polyline[:-1, None], polyline[1:, None]
    along = b - a
    t = np.clip(((points - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12), 0, 1)
    return np.hypot(*(points - a - t[..., None] * along).transpose(2, 0, 1)).min(axis=0)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 60), min_size=1, max_size=12),
    share=st.floats(0.2, 0.95),
    seed=st.integers(0, 99),
)
def test_simplified_loops_stay_within_the_tolerance_that_is_told(
    sizes: list[int], share: float, seed: int
) -> None:
    contours = [loop(seed + i, size) for i, size in enumerate(sizes)]
    total = sum(len(c.points) for c in contours)
    limit = max(4 * len(contours), int(share * total))
    limited = within_point_limit(contours, limit)
    assert sum(len(c.points) for c in limited.contours) <= limit
    assert limited.left_out == 0
    assert limited.sources == tuple(range(len(contours)))
    for before, after in zip(contours, limited.contours, strict=True):
        assert len(after.points) >= 4
        assert np.array_equal(after.points[0], after.points[-1])
        assert distance_to(after.points, before.points).max() <= limited.tolerance + 1e-9


def test_few_points_are_left_as_they_are() -> None:
    contours = [loop(1, 30)]
    limited = within_point_limit(contours, 31)
    assert limited.tolerance == 0
    assert limited.contours[0] is contours[0]


def test_too_many_loops_lose_the_smallest_and_say_how_many() -> None:
    contours = [loop(i, 10) for i in range(50)]
    limited = within_point_limit(contours, 100)
    assert limited.left_out == 25
    smallest_kept = min(contours[i].area for i in limited.sources)
    left = [c.area for i, c in enumerate(contours) if i not in limited.sources]
    assert smallest_kept >= max(left)


def test_weights_of_a_square_with_a_dent() -> None:
    square = np.array([[0, 0], [5, 0.5], [10, 0], [10, 10], [0, 10], [0, 0]], float)
    weights = point_weights(square, np.array([0, 6]))
    assert np.isinf(weights[[0, 3, 5]]).all()
    assert np.isclose(weights[1], 0.5)
    assert np.isinf(weights[2]) or np.isinf(weights[4])
