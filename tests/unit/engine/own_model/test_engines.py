"""Own models as built engines: made and verified like those of the two systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_own_models import DENSE, data_format, dense_lung, identity, two_channels, write_own_package

from engine.backends import WantedEngine, backend_named
from engine.build_process import BuildJob, verify_engine
from engine.builder import BuiltContent, EngineBuilder
from engine.engine_cache import EngineCache
from engine.packages import read_package
from engine.recipes import read_recipe
from engine.runners.interface import RunnerOptions

RECIPE = Path(__file__).parents[4] / "trt_engines" / "openvino.yaml"
PATCHES: dict[str, Any] = {
    "network_data_format": data_format([16, 16, 16], "segmentation", channels=2, is_patch_data=True),
    "preprocessing": {"hu_windows": [[-900, -400]], "spacing_mm": [3, 3, 3]},
    "postprocessing": {"activation": "softmax"},
    "classes": [{"channel": 1, "key": "dense", "code": DENSE}],
}


@pytest.mark.parametrize(
    ("graph", "changes"),
    [(identity("N", 1, "H", "W"), {}), (two_channels("N", 1, 16, 16, 16), PATCHES)],
    ids=["slices", "patches"],
)
def test_an_engine_is_built_and_checked_against_the_reference(
    tmp_path: Path, graph: bytes, changes: dict[str, Any]
) -> None:
    package = read_package(write_own_package(tmp_path / "own", graph, **dense_lung(**changes)))
    recipe = read_recipe(RECIPE)

    def build_here(job: BuildJob, timeout_s: float) -> BuiltContent:
        content = backend_named(recipe.backend).build(WantedEngine(package, job.graph, job.precision))
        (engine := tmp_path / "engine").write_bytes(content)
        return BuiltContent(content, verify_engine(package, job.graph, engine, recipe, job.precision))

    builder = EngineBuilder(recipe, EngineCache(tmp_path / "cache"), build=build_here)
    record = builder.ensure(package, "model", "f32")
    assert record.state == "ready"
    assert [check.split(":")[0] for check in record.checks] == ["model.pred"]
    runner = builder.open(package, [record], RunnerOptions())
    assert "model f32" in runner.description
    runner.close()
