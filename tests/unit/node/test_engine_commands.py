"""`lungnode engines` on a cache with one engine of each state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.engine_cache import EngineCache, EngineKey, EngineRecord
from node.cli import app


def key(graph: str, precision: str) -> EngineKey:
    return EngineKey("jcs-compact", "0" * 64, graph, 1, precision, "openvino", "this machine", "1-8-32")  # type: ignore[arg-type]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    cache = EngineCache(tmp_path / "engines")
    cache.put(key("classify", "bf16"), b"engine", 2.0, ("classify.probability: largest 0, allowed <= 0.01",))
    cache.note(EngineRecord(key("segment", "bf16"), "failed", "differs from the reference: dice 0.9"))
    cache.note(EngineRecord(key("segment", "f32"), "building"))
    path = tmp_path / "config.yaml"
    path.write_text("screening: {engine_cache: engines}\n")
    return path


def test_list_says_state_and_reason(configuration: Path) -> None:
    result = CliRunner().invoke(app, ["engines", "list", "--config", str(configuration)])
    assert result.exit_code == 0
    lines = sorted(result.output.splitlines())
    assert lines == [
        "jcs-compact classify bf16 (openvino) ready, 0.0 MB, built in 2.0 s",
        "jcs-compact segment bf16 (openvino) failed: differs from the reference: dice 0.9",
        "jcs-compact segment f32 (openvino) building",
    ]


def test_list_as_json(configuration: Path) -> None:
    result = CliRunner().invoke(app, ["engines", "list", "--json", "--config", str(configuration)])
    assert {row["state"] for row in json.loads(result.output)} == {"ready", "failed", "building"}


def test_an_empty_cache_says_how_to_fill_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("screening: {engine_cache: none}\n")
    result = CliRunner().invoke(app, ["engines", "list", "--config", str(path)])
    assert "lungnode engines build" in result.output
