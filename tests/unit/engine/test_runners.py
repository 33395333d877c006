"""Runners agree with each other, and say what failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import RunnerFailed
from engine.packages import read_package
from engine.runners.batches import Output
from engine.runners.interface import RunnerOptions
from engine.runners.openvino_runner import OpenVINORunner

EXACT = RunnerOptions(precision="f32", threads=1)


@pytest.mark.parametrize("graph", ["classify", "segment", "slices", "patient"])
def test_torch_and_openvino_agree(graph: str, package_paths: list[Path], chest_of) -> None:
    torch_runner = pytest.importorskip("engine.runners.torch_runner")
    package = read_package(package_paths[0 if graph in ("classify", "segment") else 1])
    values = {"hu": chest_of(lesion=True)[15:22]}
    if graph == "patient":
        values = {"features": np.random.default_rng(3).random((11, 4), dtype=np.float32)}
    expected = torch_runner.TorchRunner(package, EXACT).run(graph, values)
    got = OpenVINORunner(package, EXACT).run(graph, values)
    assert set(expected) <= set(got)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_allclose(got[name], values, atol=1e-5)


def test_outputs_are_copies(package_paths: list[Path], chest_of) -> None:
    runner = OpenVINORunner(read_package(package_paths[0]), EXACT)
    hu = chest_of(lesion=True)
    first = runner.run("classify", {"hu": hu[18:20]})["probability"]
    kept = first.copy()
    runner.run("classify", {"hu": hu[:2]})
    np.testing.assert_array_equal(first, kept)


def test_several_under_way_come_back_in_order_and_are_taken_as_they_go(package_paths, chest_of) -> None:
    hu = chest_of(lesion=True)
    runner = OpenVINORunner(read_package(package_paths[0]), replace(EXACT, threads=2))
    expected = [runner.run("classify", {"hu": hu[z : z + 1]})["probability"][0] for z in range(len(hu))]
    taken: list[int] = []

    def inputs():
        for z in range(len(hu)):
            taken.append(z)
            yield {"hu": hu[z : z + 1]}

    results = runner.run_each("classify", inputs())
    found = [next(results)["probability"][0]]
    assert len(taken) <= 3
    found += [output["probability"][0] for output in results]
    assert found == expected
    assert 0 < sum(p > 0.5 for p in found) < len(hu)


def test_calls_that_nobody_waits_for_leave_the_runner_usable(package_paths, chest_of) -> None:
    runner = OpenVINORunner(read_package(package_paths[0]), replace(EXACT, threads=2))
    inputs = {"hu": chest_of(lesion=True)[10:14]}
    expected = runner.run("segment", inputs)["lesion_probability"]
    abandoned = runner.run_each("segment", [inputs] * 4)
    next(abandoned)
    abandoned.close()
    np.testing.assert_array_equal(runner.run("segment", inputs)["lesion_probability"], expected)


def test_wrong_inputs_are_reported(package_paths: list[Path]) -> None:
    runner = OpenVINORunner(read_package(package_paths[0]), EXACT)
    with pytest.raises(RunnerFailed, match="classify of jcs-tiny"):
        runner.run("classify", {"hu": np.zeros((3, 3), dtype=np.int16)})


def test_what_nothing_has_verified_runs_in_float32_unless_asked_otherwise(package_paths: list[Path]) -> None:
    package = read_package(package_paths[0])
    assert OpenVINORunner(package, RunnerOptions()).description.endswith("f32")
    assert OpenVINORunner(package, RunnerOptions(precision="bf16")).description.endswith("bf16")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "no output p"),
        ({"p": np.zeros((2, 2))}, "is \\(2, 2\\), not \\(3,\\)"),
        ({"p": np.array([0, 1, np.nan])}, "not finite"),
    ],
)
def test_outputs_that_break_the_contract(tensors, reason: str) -> None:
    with pytest.raises(RunnerFailed, match=reason):
        Output("g", tensors).floats("p", (3,))


def test_masks_have_to_be_bytes() -> None:
    with pytest.raises(RunnerFailed, match="float64, not uint8"):
        Output("g", {"p": np.zeros((1, 2, 2))}).bytes("p", (1, 2, 2))
