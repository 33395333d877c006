"""TensorRT on NVIDIA GPUs, and TensorRT for RTX, which has the same API and builds without a GPU.

Both have strongly typed networks only: half precision is made in the ONNX (`engine.half_precision`). Building needs
TensorRT and onnx; running needs pycuda and a GPU as well (extra `gpu`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DeviceLost, OutOfDeviceMemory, RunnerFailed
from engine.packages import ModelPackage
from engine.recipes import Backend, BuildPrecision, Profile
from engine.runners.interface import Results, RunnerOptions, Tensors

_LIBRARIES: dict[Backend, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}

WITHOUT_GPU = ("SM86", "SM89")
"""Compute capabilities that TensorRT for RTX builds for where no GPU is."""

SMALLEST_SIDE, USUAL_SIDE, LARGEST_SIDE = 32, 512, 2048
USUAL_SLICES, LARGEST_SLICES = 300, 5000
"""Rows of the patient network's input."""


@dataclass(frozen=True)
class BuiltNetwork:
    """A serialized engine. layers: how many layers of each kind have outputs of each type, before fusion."""

    content: bytes
    layers: dict[str, int]


class TensorRTBackend:
    """Builds and opens TensorRT engines; see `engine.backends.EngineBackend`."""

    def __init__(self, name: Backend) -> None:
        self._name = name
        self._trt = _library(name)

    def identity(self) -> str:
        library = f"{self._name} {self._trt.__version__}"
        try:
            device = _Cuda().device
        except RunnerFailed:
            if self._name == "tensorrt":
                raise
            return f"{library}, built for {' '.join(WITHOUT_GPU)}"
        return f"{library}, {device}"

    def offers(self, precision: BuildPrecision) -> bool:
        return precision in ("f16", "f32")

    def build(self, package: ModelPackage, graph: str, precision: BuildPrecision, profile: Profile) -> bytes:
        model = typed_onnx(package, graph, precision)
        return build_network(self._trt, model, profile, self._capabilities()).content

    def open(
        self, package: ModelPackage, engines: Mapping[str, Path], options: RunnerOptions, precisions: str = ""
    ) -> TensorRTRunner:
        return TensorRTRunner(self._trt, package, engines, precisions)

    def _capabilities(self) -> tuple[str, ...]:
        try:
            _Cuda()
        except RunnerFailed:
            return WITHOUT_GPU
        return ()


def backend(name: Backend) -> TensorRTBackend:
    """See `engine.backends.backend_named`."""
    return TensorRTBackend(name)


def build_network(trt: Any, model: bytes, profile: Profile, capabilities: tuple[str, ...]) -> BuiltNetwork:
    """Parse and build; `capabilities` are for TensorRT for RTX without a GPU. Raises RunnerFailed."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    if builder is None:
        raise RunnerFailed("TensorRT gave no builder: no driver, or the GPU is not supported")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise RunnerFailed(f"TensorRT cannot read the graph: {_first_error(parser)}")
    config = builder.create_builder_config()
    config.add_optimization_profile(_shapes(builder, network, profile))
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RunnerFailed("TensorRT could not build the engine; its log says why")
    return BuiltNetwork(bytes(plan), _layers(network))


def _library(name: Backend) -> Any:
    reasons = []
    for module in _LIBRARIES[name]:
        try:
            return import_module(module)
        except ImportError as error:
            reasons.append(str(error))
    raise RunnerFailed(
        f"{name} is not usable: {reasons[-1]}; it needs an NVIDIA GPU and pip install 'lungnode[gpu]', "
        "without one set screening.device: auto"
    )


def typed_onnx(package: ModelPackage, graph: str, precision: BuildPrecision) -> bytes:
    """A graph of a package as ONNX that TensorRT reads, its weights inside, in half where so wanted.

    Raises RunnerFailed.
    """
    try:
        import onnx

        from engine.half_precision import to_half
        from engine.tensorrt_graph import adapted
    except ImportError as error:
        raise RunnerFailed(f"building needs onnx ({error}): pip install lungnode[gpu]") from error
    try:
        model = adapted(onnx.load(str(package.graph_path(graph))))
        result: bytes = (to_half(model) if precision == "f16" else model).SerializeToString()
    except (OSError, ValueError) as error:
        raise RunnerFailed(f"graph {graph} cannot be turned into {precision}: {error}") from error
    return result


def _first_error(parser: Any) -> str:
    return str(parser.get_error(0).desc()) if parser.num_errors else "unknown reason"


def _shapes(builder: Any, network: Any, profile: Profile) -> Any:
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if len(tensor.shape) == 3:
            smallest = (profile.smallest, SMALLEST_SIDE, SMALLEST_SIDE)
            usual = (profile.usual, USUAL_SIDE, USUAL_SIDE)
            largest = (profile.largest, LARGEST_SIDE, LARGEST_SIDE)
        else:
            width = tensor.shape[1]
            smallest, usual, largest = (1, width), (USUAL_SLICES, width), (LARGEST_SLICES, width)  # type: ignore[assignment]
        shapes.set_shape(tensor.name, smallest, usual, largest)
    return shapes


def _layers(network: Any) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            kind = str(layer.type).rpartition(".")[2]
            counts[f"{kind} {str(layer.get_output(0).dtype).rpartition('.')[2]}"] += 1
    return dict(counts)


class _Cuda:
    """The first GPU through pycuda, with a context of its own. Raises RunnerFailed where there is none."""

    def __init__(self) -> None:
        try:
            self.driver: Any = import_module("pycuda.driver")
            self.driver.init()
            device = self.driver.Device(0)
        except ImportError as error:
            raise RunnerFailed(f"pycuda is not usable: {error}") from error
        except RuntimeError as error:  # pycuda.driver.Error derives from it
            raise RunnerFailed(f"no usable GPU: {error}") from error
        self.context: Any = device.retain_primary_context()
        major, minor = device.compute_capability()
        self.device = f"{device.name()}, SM{major}{minor}"


class TensorRTRunner:
    """Engines of one package on the first GPU, one stream, pinned host buffers kept from call to call."""

    def __init__(self, trt: Any, package: ModelPackage, engines: Mapping[str, Path], precisions: str) -> None:
        self._trt, self._package, self._said = trt, package, precisions
        self._cuda = _Cuda()
        self._cuda.context.push()
        try:
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            self._stream = self._cuda.driver.Stream()
            self._contexts = {graph: self._opened(graph, path) for graph, path in engines.items()}
            self._buffers: dict[str, tuple[Any, Any]] = {}
        finally:
            self._cuda.context.pop()

    @property
    def description(self) -> str:
        return f"TensorRT {self._trt.__version__}, {self._cuda.device}, {self._said}"

    def run(self, graph: str, inputs: Tensors) -> dict[str, npt.NDArray[np.generic]]:
        """See `engine.runners.interface.Runner`. Raises OutOfDeviceMemory where fewer slices may go through.

        A fault while the GPU works (an illegal address, a launch that fails or times out) ends the context for good:
        DeviceLost.
        """
        if graph not in self._contexts:
            raise RunnerFailed(f"no engine for graph {graph} of {self._package.metadata.name}")
        self._cuda.context.push()
        try:
            return self._run(graph, self._contexts[graph], inputs)
        except self._cuda.driver.MemoryError as error:
            raise OutOfDeviceMemory(f"graph {graph}: {error}") from error
        except (self._cuda.driver.LaunchError, self._cuda.driver.RuntimeError) as error:
            raise DeviceLost(f"graph {graph}: the GPU's context is lost: {error}") from error
        except self._cuda.driver.Error as error:
            raise RunnerFailed(f"graph {graph} of {self._package.metadata.name} failed: {error}") from error
        finally:
            self._cuda.context.pop()

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        """See `engine.runners.interface.Runner`."""
        return (self.run(graph, given) for given in inputs)

    def close(self) -> None:
        self._cuda.context.push()
        self._buffers.clear()
        self._contexts.clear()
        self._cuda.context.pop()
        self._cuda.context.detach()

    def _opened(self, graph: str, path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RunnerFailed(f"{path.name} is no engine for this GPU and TensorRT")
        context = engine.create_execution_context()
        if context is None:
            raise OutOfDeviceMemory(f"no memory on the GPU for graph {graph}")
        return context

    def _run(self, graph: str, context: Any, inputs: Tensors) -> dict[str, npt.NDArray[np.generic]]:
        engine, trt = context.engine, self._trt
        for name, values in inputs.items():
            if not context.set_input_shape(name, values.shape):
                raise RunnerFailed(
                    f"graph {graph}: shape {values.shape} is outside of what the engine was built for"
                )
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            host, device = self._buffer(f"{graph}/{name}", values.shape, dtype)
            host[...] = values
            self._cuda.driver.memcpy_htod_async(device, host, self._stream)
            context.set_tensor_address(name, int(device))
        outputs = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                shape, dtype = (
                    tuple(context.get_tensor_shape(name)),
                    trt.nptype(engine.get_tensor_dtype(name)),
                )
                outputs[name] = self._buffer(f"{graph}/{name}", shape, np.dtype(dtype))
                context.set_tensor_address(name, int(outputs[name][1]))
        if not context.execute_async_v3(self._stream.handle):
            raise RunnerFailed(
                f"graph {graph} of {self._package.metadata.name} did not run; TensorRT's log says why"
            )
        for host, device in outputs.values():
            self._cuda.driver.memcpy_dtoh_async(host, device, self._stream)
        self._stream.synchronize()
        return {name: np.array(host) for name, (host, _) in outputs.items()}

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
        known = self._buffers.get(name)
        if known is None or known[0].shape != shape or known[0].dtype != dtype:
            self._buffers.pop(name, None)
            host = self._cuda.driver.pagelocked_empty(shape, dtype)
            self._buffers[name] = (host, self._cuda.driver.mem_alloc(max(host.nbytes, 1)))
        return self._buffers[name]
