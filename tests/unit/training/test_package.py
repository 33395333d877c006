"""Writing of model packages: contents, hashes, weights stored once, half precision, all or nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import Tensor, nn

from training.package import package_hash, write_package
from training.serving import ServingGraph

WIDTH = 40


class TinyGraph(ServingGraph):
    """A shared layer and one of its own: enough to see what lies where."""

    input_name = "x"
    output_names = ("y",)
    dynamic_axes = ("n",)

    def __init__(self, shared: nn.Linear) -> None:
        super().__init__()
        self.shared = shared
        self.own = nn.Linear(WIDTH, WIDTH)

    def example(self) -> Tensor:
        return torch.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.own(torch.relu(self.shared(x))))


Graphs = dict[str, ServingGraph]


@pytest.fixture
def graphs() -> Graphs:
    """Two graphs that share one layer."""
    shared = nn.Linear(WIDTH, WIDTH)
    return {"classify": TinyGraph(shared), "segment": TinyGraph(shared)}


def write(directory: Path, graphs: Graphs, metadata: dict[str, Any], **options: Any) -> Path:
    write_package(directory, graphs, metadata, "# Tiny\n", **options)
    return directory


def test_a_package_has_what_the_contract_lists(
    tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]
) -> None:
    package = write(tmp_path / "tiny", graphs, metadata)
    names = {"MODEL_CARD.md", "classify.onnx", "metadata.json", "segment.onnx", "weights.bin"}
    assert {p.name for p in package.iterdir()} == names
    assert list(tmp_path.iterdir()) == [package]
    written = json.loads((package / "metadata.json").read_text())
    assert written["schema"] == "lungnode-package/1"
    assert written["graphs"] == {"classify": {"file": "classify.onnx"}, "segment": {"file": "segment.onnx"}}
    assert metadata.items() <= written.items()
    assert set(written["files"]) == {"classify.onnx", "segment.onnx", "weights.bin"}
    for name, digest in written["files"].items():
        assert hashlib.sha256((package / name).read_bytes()).hexdigest() == digest


def test_package_hash_is_over_the_sorted_lines(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"B")
    (tmp_path / "a").write_bytes(b"A")
    lines = sorted(f"{hashlib.sha256(c.encode()).hexdigest()}  {c.lower()}\n" for c in "AB")
    assert package_hash(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_writing_twice_gives_the_same_hash(tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]) -> None:
    first = write_package(tmp_path / "tiny", graphs, metadata, "card")
    assert write_package(tmp_path / "tiny", graphs, metadata, "card") == first
    assert package_hash(tmp_path / "tiny") == first


def test_shared_weights_lie_once(tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]) -> None:
    """Three matrices for two graphs of two layers; biases stay in the graphs."""
    package = write(tmp_path / "tiny", graphs, metadata, half=False)
    assert (package / "weights.bin").stat().st_size == 3 * WIDTH * WIDTH * 4


def test_matrices_are_half_and_vectors_are_not(
    tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]
) -> None:
    half = write(tmp_path / "half", graphs, metadata)
    full = write(tmp_path / "full", graphs, metadata, half=False)
    sizes = [(p / "weights.bin").stat().st_size for p in (half, full)]
    assert sizes[0] * 2 == sizes[1]
    kinds = {len(t.dims): t.data_type for t in onnx.load(half / "classify.onnx").graph.initializer}
    assert kinds == {1: onnx.TensorProto.FLOAT, 2: onnx.TensorProto.FLOAT16}


def test_half_package_is_near_torch_in_openvino(
    tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]
) -> None:
    package = write(tmp_path / "half", graphs, metadata)
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(package / "classify.onnx"), "CPU", options)
    x = graphs["classify"].example()
    with torch.no_grad():
        expected = graphs["classify"](x).numpy()
    got = compiled(x.numpy())["y"]
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert not np.array_equal(got, expected)


def test_weights_too_large_for_half_are_refused(
    tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]
) -> None:
    with torch.no_grad():
        graphs["segment"].own.weight[0] = 1e5  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match="half=False"):
        write(tmp_path / "tiny", graphs, metadata)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "tiny", graphs, metadata, half=False)


def test_a_failed_write_leaves_the_old_package(
    tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]
) -> None:
    package = write(tmp_path / "tiny", graphs, metadata)
    before = package_hash(package)
    with pytest.raises(TypeError):
        write(package, graphs, {**metadata, "metrics": object()})
    assert package_hash(package) == before
    assert list(tmp_path.iterdir()) == [package]


def test_incomplete_metadata_is_named(tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]) -> None:
    del metadata["license"], metadata["metrics"]
    with pytest.raises(ValueError, match="lacks license, metrics"):
        write(tmp_path / "tiny", graphs, metadata)


@pytest.mark.parametrize(("system", "says"), [("m3lung", "graphs of system m3lung"), ("x", "system must be")])
def test_graphs_must_belong_to_the_system(
    tmp_path: Path, graphs: Graphs, metadata: dict[str, Any], system: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        write(tmp_path / "tiny", graphs, {**metadata, "system": system})


def test_graphs_name_no_path_of_this_machine(
    tmp_path: Path, graphs: Graphs, metadata: dict[str, Any]
) -> None:
    package = write(tmp_path / "tiny", graphs, metadata)
    here = str(Path(__file__).parents[3]).encode()
    assert all(here not in p.read_bytes() for p in package.iterdir())
