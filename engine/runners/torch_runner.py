"""torch: the reference for every other runner, and for GPUs without TensorRT.

A package carries ONNX, so its nodes are run one by one with the functions of `torch_operators`. Needs the `train`
extra (torch and onnx); nothing else of serving does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from engine.errors import DeviceLost, OutOfDeviceMemory, RunnerFailed
from engine.packages import ModelPackage
from engine.runners.interface import Results, RunnerOptions, Tensors
from engine.runners.torch_operators import OPERATORS

_HALF = {"cpu": torch.bfloat16, "cuda": torch.float16}


class TorchRunner:
    """The graphs of one package in eager torch, on `device` ("cpu" or "cuda").

    Precision f32 is the reference: no TF32. bf16 (CPU) and f16 (GPU) run under autocast: convolutions and products
    in half, softmax and sums in float32.
    """

    def __init__(self, package: ModelPackage, options: RunnerOptions, device: str = "cpu") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise RunnerFailed("torch finds no CUDA device")
        self._package, self._device = package, torch.device(device)
        self._half = options.precision in ("bf16", "f16")
        self._graphs: dict[str, _Graph] = {}
        if options.threads and device == "cpu":
            torch.set_num_threads(options.threads)

    @property
    def description(self) -> str:
        precision = str(_HALF[self._device.type]).removeprefix("torch.") if self._half else "f32"
        return f"torch {torch.__version__}, {self._device.type}, {precision}"

    def run(self, graph: str, inputs: Tensors) -> dict[str, npt.NDArray[np.generic]]:
        """See `engine.runners.interface.Runner`."""
        try:
            loaded = self._graphs.get(graph) or self._loaded(graph)
            with torch.inference_mode(), self._autocast():
                values = {
                    name: torch.from_numpy(np.asarray(x)).to(self._device) for name, x in inputs.items()
                }
                outputs = loaded.run(values)
            return {name: _to_numpy(x) for name, x in outputs.items()}
        except (RuntimeError, NotImplementedError, OSError, KeyError, onnx.checker.ValidationError) as error:
            raise _fault(error)(f"graph {graph} of {self._package.metadata.name} failed: {error}") from error

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        """See `engine.runners.interface.Runner`: one after the other."""
        return (self.run(graph, given) for given in inputs)

    def close(self) -> None:
        self._graphs.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, _HALF[self._device.type]) if self._half else nullcontext()

    def _loaded(self, graph: str) -> _Graph:
        self._graphs[graph] = _load(str(self._package.graph_path(graph)), self._device)
        return self._graphs[graph]


def _fault(error: Exception) -> type[RunnerFailed]:
    """What a fault is to the caller. After "CUDA error" the context is unusable for the rest of the process."""
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfDeviceMemory
    return DeviceLost if "CUDA error" in str(error) else RunnerFailed


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    last_uses: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Graph:
    """Nodes in order; each names the values that are not needed after it."""

    constants: dict[str, Tensor]
    nodes: tuple[_Node, ...]
    outputs: tuple[str, ...]

    def run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        values = {**self.constants, **inputs}
        for node in self.nodes:
            arguments = [values[name] if name else None for name in node.inputs]
            result = OPERATORS[node.operator](node.attributes, *arguments)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.outputs, results, strict=False))
            for name in node.last_uses:
                values.pop(name, None)
        return {name: values[name] for name in self.outputs}


def _load(path: str, device: torch.device) -> _Graph:
    graph = onnx.load(path).graph
    constants = {t.name: _constant(t, device) for t in graph.initializer}
    nodes = []
    for n in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        if n.op_type == "Constant":
            constants[n.output[0]] = _constant(attributes["value"], device)
        elif n.op_type not in OPERATORS:
            raise NotImplementedError(f"operator {n.op_type} is not known to the torch runner")
        elif n.op_type == "Cast" and all(name in constants for name in n.input):
            constants[n.output[0]] = OPERATORS["Cast"](attributes, constants[n.input[0]])
        else:
            nodes.append(_Node(n.op_type, tuple(n.input), tuple(n.output), attributes, ()))
    outputs = tuple(o.name for o in graph.output)
    return _Graph(constants, _with_last_uses(nodes, {*constants, *outputs}), outputs)


def _constant(tensor: onnx.TensorProto, device: torch.device) -> Tensor:
    values = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
    return values.to(device) if values.is_floating_point() else values


def _with_last_uses(nodes: list[_Node], kept: set[str]) -> tuple[_Node, ...]:
    seen = set(kept)
    result = []
    for node in reversed(nodes):
        last = tuple(name for name in dict.fromkeys(node.inputs) if name and name not in seen)
        seen.update(node.inputs)
        result.append(_Node(node.operator, node.inputs, node.outputs, node.attributes, last))
    return tuple(reversed(result))


def _to_numpy(tensor: Tensor) -> npt.NDArray[np.generic]:
    whole = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
    return np.ascontiguousarray(whole.cpu().numpy())
