"""`lungnode package onnx`: checked, tried, written whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from tiny_own_models import dense_lung, identity, mean_score, network
from typer.testing import CliRunner

from engine.errors import PackageInvalid, RunnerFailed
from engine.own_model.packaging import package_own_model, read_description
from engine.packages import read_package


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    file = tmp_path / "net.onnx"
    file.write_bytes(identity("N", 1, "H", "W"))
    return file


def described(**changes: Any) -> dict[str, Any]:
    return dense_lung(license="CC0", training_data=["40 CTs of our ward"], metrics={"dice": 0.9}, **changes)


def test_a_package_is_made_and_read(tmp_path: Path, exported: Path) -> None:
    done = package_own_model(tmp_path / "dense-lung", exported, described())
    package = read_package(tmp_path / "dense-lung")
    assert package.sha256 == done.sha256
    assert package.reference.system == "onnx"
    assert done.said.startswith("Dense lung: Pulmonary consolidation found (")
    card = (tmp_path / "dense-lung" / "MODEL_CARD.md").read_text()
    assert "| dense | Pulmonary consolidation | SCT 95436008 | 0.5 |" in card
    assert "- 40 CTs of our ward" in card
    assert "- dice: 0.9" in card
    assert "## Intended use\n\nNot stated." in card


def test_a_package_that_does_not_fit_leaves_the_old_one_as_it_was(tmp_path: Path, exported: Path) -> None:
    out = tmp_path / "dense-lung"
    first = package_own_model(out, exported, described()).sha256
    exported.write_bytes(mean_score("N", 1, "H", "W"))
    with pytest.raises(RunnerFailed, match="does not do what its description says"):
        package_own_model(out, exported, described())
    with pytest.raises(PackageInvalid, match=r"^the description: title: "):
        package_own_model(out, exported, described(title=""))
    with pytest.raises(PackageInvalid, match=r"absent\.onnx cannot be read"):
        package_own_model(out, tmp_path / "absent.onnx", described())
    assert read_package(out).sha256 == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense-lung", "net.onnx"]


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "when: 2026-01-01\n"])
def test_descriptions_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "meta.yaml"
    path.write_text(text)
    with pytest.raises(PackageInvalid, match=r"meta\.yaml") as caught:
        read_description(path)
    assert "\n" not in str(caught.value)


def test_the_command_needs_no_torch(tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.cli import app

    meta = tmp_path / "meta.yaml"
    meta.write_text(yaml.safe_dump(described()))
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    out = tmp_path / "dense-lung"
    result = CliRunner().invoke(
        app, ["package", "onnx", str(exported), "--metadata", str(meta), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert read_package(out).sha256 in result.output
    assert "tried on made-up slices: Dense lung: " in result.output
    assert json.loads((out / "metadata.json").read_text())["license"] == "CC0"


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    """They go into the package under their name; without them the network cannot be tried."""
    nodes = [onnx.helper.make_node("Mul", ["image", "factor"], ["pred"])]
    shape = ["N", 1, "H", "W"]
    model = onnx.load_from_string(
        network(nodes, {"factor": np.full((1, 1, 1, 1), 0.5, np.float32)}, shape, shape)
    )
    exported = tmp_path / "net.onnx"
    onnx.save(model, exported, save_as_external_data=True, location="net.weights", size_threshold=0)
    with pytest.raises(RunnerFailed, match="does not do what its description says") as caught:
        package_own_model(tmp_path / "own", exported, described())
    assert "\n" not in str(caught.value)
    package_own_model(tmp_path / "own", exported, described(), [tmp_path / "net.weights"])
    assert set(read_package(tmp_path / "own").metadata.files) == {"model.onnx", "net.weights"}
