"""Rounding to what bfloat16 and float16 both hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from training.half_weights import in_both_halves

WEIGHTS = arrays(
    np.float32,
    array_shapes(max_dims=3, max_side=8),
    elements=st.one_of(
        st.floats(-65280, 65280, width=32),
        st.floats(-(2**-12), 2**-12, width=32),  # where float16 has few bits left
    ),
)


def of_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """bfloat16 is a float32 whose lower 16 bits are nought."""
    return np.asarray(np.ascontiguousarray(values).view(np.uint32) & 0xFFFF == 0)


@given(WEIGHTS)
def test_the_result_is_near_and_of_both_formats(values: npt.NDArray[np.float32]) -> None:
    halves = in_both_halves(values)
    assert halves.dtype == np.float16
    assert halves.shape == values.shape
    assert of_bfloat16(halves.astype(np.float32)).all()
    exact = values.astype(np.float64)
    assert (np.abs(halves - exact) <= np.maximum(np.abs(exact) * 2**-8, 2**-24)).all()
    np.testing.assert_array_equal(in_both_halves(halves.astype(np.float32)), halves)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2**-8, 1.0),  # a tie goes to the even one
        (1 + 3 * 2**-8, 1 + 2**-6),
        (1 + 2**-8 + 2**-12, 1 + 2**-7),
        (2**-14 * (1 + 2**-7), 2**-14 * (1 + 2**-7)),
        (2**-20 * (1 + 2**-7), 2**-20),  # bfloat16 alone would hold it
        (2**-26, 0.0),
        (-65280.0, -65280.0),
    ],
)
def test_rounding_by_hand(value: float, rounded: float) -> None:
    assert in_both_halves(np.array([value], np.float32)).tolist() == [rounded]


@pytest.mark.parametrize("value", [65410.0, -1e6, np.inf, np.nan])
def test_what_float16_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="does not fit into half precision"):
        in_both_halves(np.array([0.0, value], np.float32))
