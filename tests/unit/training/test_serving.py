"""Serving graphs: preprocessing by hand, and ONNX run by OpenVINO against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import pytest
import torch
from torch import Tensor, nn

from networks.jcs import JCSClassifier, JCSJoint, JCSSegmenter
from networks.m3lung import M3PatientNet, M3SliceNet
from training.export import store_graphs, to_onnx
from training.preprocessing import IMAGENET_MEAN, IMAGENET_STD, normalise_grey, window
from training.serving import JCSClassifyGraph, JCSSegmentGraph, M3PatientGraph, M3SlicesGraph, ServingGraph

TRUNK = {"depths": (1, 1, 1, 1), "planes": (16, 16, 16, 16)}
VGG = {"widths": (4, 8, 8, 16, 16), "depths": (1, 1, 1, 1, 1)}
RESNET = {"depths": (1, 1, 1, 1), "planes": (4, 4, 4, 4), "stem": 4}


def spread_(module: nn.Module) -> nn.Module:
    """Weights that make the outputs vary from place to place, as after training."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        if isinstance(layer, nn.Conv2d) and layer.out_channels == 1:
            nn.init.normal_(layer.weight, std=3.0)
    return module.eval()


def hu(n: int, rows: int, columns: int) -> Tensor:
    return torch.randint(-1300, 200, (n, rows, columns), dtype=torch.int16)


def classify_graph() -> JCSClassifyGraph:
    return JCSClassifyGraph(spread_(JCSClassifier(**TRUNK)), size=64)  # type: ignore[arg-type]


def segment_graph() -> JCSSegmentGraph:
    return JCSSegmentGraph(spread_(JCSSegmenter(**VGG, encoder_norm="train")), size=64)  # type: ignore[arg-type]


def joint_graph(profile: str) -> JCSSegmentGraph:
    joint = JCSJoint(
        profile,  # type: ignore[arg-type]
        segmenter=JCSSegmenter(profile, **VGG),  # type: ignore[arg-type]
        trunk=JCSClassifier(**TRUNK).encoder,  # type: ignore[arg-type]
    )
    return JCSSegmentGraph(spread_(joint), size=64)  # type: ignore[arg-type]


def slices_graph() -> M3SlicesGraph:
    return M3SlicesGraph(spread_(M3SliceNet(**RESNET)), size=64)  # type: ignore[arg-type]


def run_onnx(path: Path, x: Tensor) -> list[npt.NDArray[Any]]:
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(path), "CPU", exact)
    found = compiled(x.numpy())
    return [found[output] for output in compiled.outputs]


def compare(graph: ServingGraph, inputs: list[Tensor], directory: Path, atol: float = 1e-4) -> None:
    path = store_graphs(directory, {"graph": to_onnx(graph)}, half=False)["graph"]
    for x in inputs:
        with torch.no_grad():
            expected = graph.eval()(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for wanted, got in zip(expected, run_onnx(path, x), strict=True):
            assert got.dtype == wanted.numpy().dtype
            np.testing.assert_allclose(got, wanted.numpy(), atol=atol, rtol=1e-4)


def test_window_by_hand() -> None:
    """-600 +- 750: -1350 is black, 150 white, -600 the middle."""
    values = window(torch.tensor([-2000.0, -1350.0, -600.0, 150.0, 3000.0]), -600, 1500)
    assert values.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_normalised_grey_has_three_channels() -> None:
    channels = normalise_grey(torch.full((1, 1, 1, 1), 0.5)).flatten().tolist()
    expected = [(0.5 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert channels == pytest.approx(expected)


def test_classify_graph_is_the_network_behind_window_and_normalisation() -> None:
    graph = classify_graph()
    x = hu(2, 64, 64)
    grey = torch.clamp((x.float() + 1350) / 1500, 0, 1)[:, None]
    logits, am = graph.classifier.with_activation_map(normalise_grey(grey))
    probability, map_ = graph(x)
    assert torch.allclose(probability, logits.softmax(1)[:, 1])
    assert torch.allclose(map_, am)


def test_segment_graph_gives_255_times_the_probability() -> None:
    graph = segment_graph()
    x = hu(1, 64, 64)
    grey = torch.clamp((x.float() + 1350) / 1500, 0, 1)[:, None]
    probability = torch.sigmoid(graph.segmenter.prediction(normalise_grey(grey)))[:, 0]
    assert torch.equal(graph(x), torch.round(probability * 255).to(torch.uint8))
    assert graph(x).unique().numel() > 20


def test_slices_graph_is_the_mean_over_three_windows() -> None:
    graph = slices_graph()
    x = hu(2, 64, 64)
    lesion, disease, location, features = graph(x)
    singles = []
    for centre in (-700, -600, -500):
        grey = torch.clamp((x.float() - (centre - 600)) / 1200, 0, 1)[:, None]
        singles.append(graph.network(normalise_grey(grey)))
    assert torch.allclose(
        lesion, torch.stack([s.lesion_logits.softmax(1) for s in singles]).mean(0), atol=1e-6
    )
    assert torch.allclose(
        disease, torch.stack([s.class_logits.softmax(1) for s in singles]).mean(0), atol=1e-6
    )
    assert torch.allclose(location, torch.stack([s.location_map for s in singles]).mean(0), atol=1e-6)
    assert torch.allclose(features, torch.stack([s.features for s in singles]), atol=1e-5)


def test_classify_onnx_equals_torch(tmp_path: Path) -> None:
    compare(classify_graph(), [hu(3, 90, 70), hu(1, 64, 64), hu(2, 512, 500)], tmp_path)


@pytest.mark.parametrize(
    "which",
    ["alone", pytest.param("paper", marks=pytest.mark.slow), pytest.param("public", marks=pytest.mark.slow)],
)
def test_segment_onnx_equals_torch(which: str, tmp_path: Path) -> None:
    """One grey level apart at most: a value on the edge of rounding may fall either way."""
    graph = segment_graph() if which == "alone" else joint_graph(which)
    compare(graph, [hu(2, 90, 70), hu(1, 200, 64)], tmp_path, atol=1)


def test_slices_onnx_equals_torch(tmp_path: Path) -> None:
    compare(slices_graph(), [hu(3, 90, 70), hu(1, 64, 130)], tmp_path)


@pytest.mark.parametrize(
    ("axis", "norm"),
    [("channel", "sum"), ("slice", "softmax"), pytest.param("channel", "relu_sum", marks=pytest.mark.slow)],
)
def test_patient_onnx_equals_torch(axis: str, norm: str, tmp_path: Path) -> None:
    graph = M3PatientGraph(M3PatientNet(24, 4, 3, axis=axis, norm=norm))  # type: ignore[arg-type]
    compare(graph, [torch.rand(n, 24) for n in (1, 2, 3, 4, 7, 40)], tmp_path)


def test_export_leaves_the_mode_as_it_was() -> None:
    graph = M3PatientGraph(M3PatientNet(24, 4, 3)).train()
    to_onnx(graph)
    assert graph.training


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_full_size_graphs_onnx_equal_torch(tmp_path: Path) -> None:
    compare(JCSClassifyGraph(JCSClassifier()), [hu(1, 448, 448)], tmp_path)
    compare(JCSSegmentGraph(JCSJoint()), [hu(1, 512, 512)], tmp_path, atol=1)
    compare(M3SlicesGraph(M3SliceNet()), [hu(1, 300, 400)], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_full_size_patient_onnx_equals_torch(tmp_path: Path) -> None:
    compare(M3PatientGraph(M3PatientNet(norm="softmax")), [torch.rand(n, 3072) for n in (3, 50)], tmp_path)
