"""Export of serving graphs: batch normalisations become part of kernels, and kernels fit into both halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from training.export import EXTERNAL_FROM_BYTES, store_graphs, to_onnx
from training.serving import ServingGraph


class ConvolutionsGraph(ServingGraph):
    """Normalised convolutions, one with a bias and one of groups; kernels below and above what is stored as float16."""

    input_name = "x"
    output_names = ("y",)
    dynamic_axes = ("n",)

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        norms = [nn.BatchNorm2d(channels) for channels in (4, 16, 16)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator)
            nn.init.normal_(norm.bias, 0, 0.3, generator)
            nn.init.normal_(norm.running_mean, 0, 0.5, generator)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.3, 2, generator)  # type: ignore[arg-type]
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, bias=False), norms[0], nn.ReLU()),
            *(nn.Conv2d(4, 16, 3), norms[1], nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, groups=4, bias=False), norms[2]),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.2, generator)

    def example(self) -> Tensor:
        return torch.linspace(-1, 1, 2 * 3 * 9 * 9).reshape(2, 3, 9, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", [1, 2])
def test_folded_normalisations_leave_the_network_the_same(seed: int, tmp_path: Path) -> None:
    graph = ConvolutionsGraph(seed)
    path = store_graphs(tmp_path, {"graph": to_onnx(graph)}, half=False)["graph"]
    kinds = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    assert kinds == {"Conv", "Relu"}
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    x = graph.example()
    found = core.compile_model(core.read_model(path), "CPU", exact)(x.numpy())["y"]
    with torch.no_grad():
        np.testing.assert_allclose(found, graph.eval()(x).numpy(), atol=1e-5)


def test_all_kernels_of_a_half_package_are_of_bfloat16(tmp_path: Path) -> None:
    path = store_graphs(tmp_path, {"graph": to_onnx(ConvolutionsGraph(3))}, half=True)["graph"]
    tensors = [numpy_helper.to_array(t, str(tmp_path)) for t in onnx.load(path).graph.initializer]
    kernels = [t for t in tensors if t.ndim == 4]
    assert sorted({k.dtype for k in kernels}) == [np.float16, np.float32]
    for kernel in kernels:
        assert (kernel.astype(np.float32).nbytes < EXTERNAL_FROM_BYTES) == (kernel.dtype == np.float32)
        assert not (kernel.astype(np.float32).view(np.uint32) & 0xFFFF).any()
