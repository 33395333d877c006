"""Graphs of slices are compiled for a fixed number of them; callers see nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset13 as ops

from engine.packages import read_package
from engine.runners.interface import RunnerOptions, Tensors
from engine.runners.openvino_runner import OpenVINORunner
from engine.slices_per_call import BUDGET, MOST, for_calls, joined, needed_bytes, pieces

EXACT = RunnerOptions(precision="f32", threads=1)


def chain(widths: list[int]) -> ov.Model:
    """Images of as many channels as `widths` says, one after the other, of int16 [N, H, W]."""
    hu = ops.parameter([-1, -1, -1], np.int16, "hu")
    image = ops.unsqueeze(ops.convert(hu, np.float32), np.int64(1))
    before = 1
    for width in widths:
        kernel = ops.constant(np.ones((width, before, 1, 1), np.float32))
        image, before = ops.convolution(image, kernel, [1, 1], [0, 0], [0, 0], [1, 1]), width
    return ov.Model([ops.result(image)], [hu], "chain")


def test_what_is_alive_at_the_same_time_is_counted() -> None:
    model = chain([2, 8, 4])
    model.reshape([1, 10, 10])
    assert needed_bytes(model) == (8 + 4) * 100 * 4


@pytest.mark.parametrize(("widths", "slices"), [([4], MOST), ([24], 2), ([64, 64], 1)])
def test_a_call_is_of_as_many_slices_as_the_budget_holds(widths: list[int], slices: int) -> None:
    model = for_calls(chain(widths), MOST)
    shape = model.input(0).get_partial_shape()
    assert shape[0].get_length() == slices
    assert shape[1].is_dynamic and shape[2].is_dynamic
    model.reshape([slices, 512, 512])
    assert slices == 1 or needed_bytes(model) <= BUDGET


def test_no_more_slices_than_asked_for() -> None:
    assert for_calls(chain([1]), 2).input(0).get_partial_shape()[0].get_length() == 2


@given(st.integers(0, 11), st.integers(1, 5))
def test_pieces_joined_are_the_call(count: int, slices: int) -> None:
    hu = np.random.default_rng(count).integers(-1000, 400, (count, 3, 2)).astype(np.int16)
    divided = list(pieces(hu, slices))
    assert {len(piece) for piece in divided} == {slices}
    results: list[Tensors] = [{"map": p, "features": np.stack([p, p + 1, p + 2])} for p in divided]
    whole = joined(results, count)
    np.testing.assert_array_equal(whole["map"], hu)
    np.testing.assert_array_equal(whole["features"], np.stack([hu, hu + 1, hu + 2]))


def test_a_runner_gives_each_slice_the_same_whatever_the_calls(package_paths: list[Path], chest_of) -> None:
    hu = chest_of(lesion=True)[12:25]
    jcs, m3lung = (read_package(path) for path in package_paths)
    for package, graph in ((jcs, "classify"), (jcs, "segment"), (m3lung, "slices")):
        expected = OpenVINORunner(package, replace(EXACT, batch=1)).run(graph, {"hu": hu})
        runner = OpenVINORunner(package, replace(EXACT, threads=2))
        ends = np.cumsum([1, 4, 6, 2])
        calls: Iterator[Tensors] = ({"hu": hu[e - n : e]} for e, n in zip(ends, [1, 4, 6, 2], strict=True))
        found = list(runner.run_each(graph, calls))
        for name, values in expected.items():
            parts = [outputs[name] for outputs in found]
            together = np.concatenate(parts, axis=1 if name == "features" else 0)
            np.testing.assert_array_equal(together, values)
