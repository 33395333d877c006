"""INT8: what it is calibrated with, what stays in floating point, how far the committed packages are off in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from engine.backends import WantedEngine, backend_named
from engine.build_process import verify_engine
from engine.drawn_chests import CALIBRATION, FIXED, draw
from engine.errors import RunnerFailed
from engine.packages import JCSMetadata, read_package
from engine.recipes import read_recipe
from engine.runners.openvino_quantised import calibration_slices, outside_convolutions, quantised

ROOT = Path(__file__).parents[3]
GRAPHS = ("classify", "segment")
JCS = ROOT / "models" / "jcs-compact"


def test_a_drawn_chest_is_always_the_same_and_no_other() -> None:
    slices, lungs = draw(FIXED, 64)
    assert (slices.dtype, slices.shape, lungs.shape) == (np.int16, (6, 64, 64), (1, 64, 64))
    np.testing.assert_array_equal(draw(FIXED, 64)[0], slices)
    drawn = [slices, *(draw(chest, 64)[0] for chest in CALIBRATION)]
    assert len({each.tobytes() for each in drawn}) == 1 + len(CALIBRATION)


def test_a_chest_is_as_ill_as_it_says() -> None:
    """Lung that is neither clear nor vessel, in the slice with ground glass."""
    dense = []
    for chest in CALIBRATION:
        slices, lungs = draw(chest, 256)
        dense.append(float((slices[2][lungs[0]] > -700).mean()))
    assert dense == sorted(dense)
    assert dense[0] < 0.15 < 0.4 < dense[-1]


@pytest.mark.parametrize("graph", GRAPHS)
def test_calibration_slices_are_cut_as_screening_cuts_them(graph: str) -> None:
    metadata = read_package(JCS).metadata
    assert isinstance(metadata, JCSMetadata)
    found = calibration_slices(graph, metadata)
    assert len(found) == 6 * len(CALIBRATION)
    assert all(hu.dtype == np.int16 and hu.shape[0] == 1 for hu in found)
    sizes = {hu.shape[1:] for hu in found}
    if graph == "classify":
        assert sizes == {(448, 448)}
    else:  # to the lungs' box, of another size in each chest
        assert len(sizes) == len(CALIBRATION)
        assert all(height < 512 and width < 512 for height, width in sizes)


def test_only_what_lies_between_convolutions_is_quantised() -> None:
    hu = ops.parameter([1, 1, 8, 8], np.float32, "hu")
    window = ops.divide(hu, ops.constant(np.float32(1000)))
    kernel = ops.constant(np.ones((1, 1, 3, 3), np.float32))
    first = ops.convolution(window, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    between = ops.relu(first)
    second = ops.convolution(between, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    scores = ops.sigmoid(second)
    aside = ops.multiply(between, ops.constant(np.float32(255)))
    named = {"window": window, "between": between, "scores": scores, "aside": aside}
    for name, node in named.items():
        node.set_friendly_name(name)
    model = ov.Model([scores, aside], [hu], "two convolutions")
    assert sorted(outside_convolutions(model)) == ["aside", "scores", "window"]


@pytest.mark.parametrize("graph", ["slices", "patient"])
def test_m3lung_sys_is_left_as_it_is(graph: str) -> None:
    package = read_package(ROOT / "models" / "m3lung-compact")
    with pytest.raises(RunnerFailed, match=f"graph {graph} is not quantised"):
        quantised(None, package, graph)


@pytest.mark.parametrize("graph", ["segment", pytest.param("classify", marks=pytest.mark.slow)])
def test_the_committed_packages_pass_in_int8(graph: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="int8 needs nncf: pip install 'lungnode[int8]'")
    backend = backend_named("openvino")
    if not backend.offers("int8"):
        pytest.skip("this processor has no int8")
    package = read_package(JCS)
    (engine := tmp_path / "engine").write_bytes(backend.build(WantedEngine(package, graph, "int8")))
    recipe = read_recipe(ROOT / "trt_engines" / "openvino.yaml")
    checks = verify_engine(package, graph, engine, recipe, "int8")
    assert {check.output for check in checks} == set(recipe.tolerances[graph])
    assert not [str(check) for check in checks if not check.passed]
    assert any(check.limit != recipe.tolerances[graph][check.output].limit for check in checks)
