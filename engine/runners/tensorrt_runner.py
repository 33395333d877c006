"""TensorRT on NVIDIA GPUs, and TensorRT for RTX, which has the same API and builds without a GPU.

Both have strongly typed networks only: half precision is made in the ONNX (`engine.half_precision`). Building needs
TensorRT and onnx; running needs pycuda and a GPU as well (extra `gpu`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

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
LANES = 2
"""Calls under way on the GPU."""

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


class _Lane:
    """One call at a time on a stream of its own: pinned host buffers, device buffers, one context for each graph.

    Buffers are kept while the shape stays. All needs the GPU's context to be current.
    """

    def __init__(self, trt: Any, driver: Any, engines: Mapping[str, Any]) -> None:
        self._trt, self._driver = trt, driver
        self._stream = driver.Stream()
        self._contexts = {graph: _execution_context(graph, engine) for graph, engine in engines.items()}
        self._buffers: dict[str, tuple[Any, Any]] = {}
        self._outputs: dict[str, tuple[Any, Any]] = {}

    def start(self, graph: str, inputs: Tensors) -> None:
        """Copy in, compute and copy out, all in the order of the stream; returns before any of it is done."""
        context = self._contexts[graph]
        for name, values in inputs.items():
            if not context.set_input_shape(name, values.shape):
                raise RunnerFailed(
                    f"graph {graph}: shape {values.shape} is outside of what the engine was built for"
                )
            dtype = np.dtype(self._trt.nptype(context.engine.get_tensor_dtype(name)))
            host, device = self._buffer(f"{graph}/{name}", values.shape, dtype)
            host[...] = values
            self._driver.memcpy_htod_async(device, host, self._stream)
            context.set_tensor_address(name, int(device))
        self._outputs = {name: self._output(graph, context, name) for name in self._output_names(context)}
        if not context.execute_async_v3(self._stream.handle):
            raise RunnerFailed(f"graph {graph} did not run; TensorRT's log says why")
        for host, device in self._outputs.values():
            self._driver.memcpy_dtoh_async(host, device, self._stream)

    def finish(self) -> Results:
        """Wait for what was started; its outputs as arrays of their own."""
        self._stream.synchronize()
        return {name: np.array(host) for name, (host, _) in self._outputs.items()}

    def _output_names(self, context: Any) -> list[str]:
        engine = context.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [name for name in names if engine.get_tensor_mode(name) == self._trt.TensorIOMode.OUTPUT]

    def _output(self, graph: str, context: Any, name: str) -> tuple[Any, Any]:
        dtype = np.dtype(self._trt.nptype(context.engine.get_tensor_dtype(name)))
        buffers = self._buffer(f"{graph}/{name}", tuple(context.get_tensor_shape(name)), dtype)
        context.set_tensor_address(name, int(buffers[1]))
        return buffers

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
        known = self._buffers.get(name)
        if known is None or known[0].shape != shape or known[0].dtype != dtype:
            self._buffers.pop(name, None)
            host = self._driver.pagelocked_empty(shape, dtype)
            self._buffers[name] = (host, self._driver.mem_alloc(max(host.nbytes, 1)))
        return self._buffers[name]


def _execution_context(graph: str, engine: Any) -> Any:
    context = engine.create_execution_context()
    if context is None:
        raise OutOfDeviceMemory(f"no memory on the GPU for graph {graph}")
    return context


class TensorRTRunner:
    """Engines of one package on the first GPU, two calls under way: one is copied while the other is computed."""

    def __init__(self, trt: Any, package: ModelPackage, engines: Mapping[str, Path], precisions: str) -> None:
        self._trt, self._package, self._said = trt, package, precisions
        self._cuda = _Cuda()
        with self._current("engines"):
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            self._opened = {graph: self._engine(path) for graph, path in engines.items()}
            self._lanes = [_Lane(trt, self._cuda.driver, self._opened) for _ in range(LANES)]

    @property
    def description(self) -> str:
        return f"TensorRT {self._trt.__version__}, {self._cuda.device}, {self._said}"

    def run(self, graph: str, inputs: Tensors) -> Results:
        """See `engine.runners.interface.Runner`.

        Raises OutOfDeviceMemory where fewer slices may go through. A fault while the GPU works (an illegal address, a
        launch that fails or times out) ends the context for good: DeviceLost.
        """
        return next(self.run_each(graph, [inputs]))

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        """See `engine.runners.interface.Runner`; raises as `run` does."""
        if graph not in self._opened:
            raise RunnerFailed(f"no engine for graph {graph} of {self._package.metadata.name}")
        under_way: deque[_Lane] = deque()
        lanes = cycle(self._lanes)
        try:
            for given in inputs:
                if len(under_way) == LANES:
                    yield self._finished(graph, under_way.popleft())
                lane = next(lanes)
                with self._current(graph):
                    lane.start(graph, given)
                under_way.append(lane)
            while under_way:
                yield self._finished(graph, under_way.popleft())
        finally:  # a lane's buffers are not to be written while a call that nobody waits for still reads them
            for lane in under_way:
                with suppress(RunnerFailed):
                    self._finished(graph, lane)

    def close(self) -> None:
        self._cuda.context.push()
        self._lanes.clear()
        self._opened.clear()
        self._cuda.context.pop()
        self._cuda.context.detach()

    def _finished(self, graph: str, lane: _Lane) -> Results:
        with self._current(graph):
            return lane.finish()

    @contextmanager
    def _current(self, graph: str) -> Iterator[None]:
        """The GPU's context made current, and what the driver raises told apart."""
        driver = self._cuda.driver
        self._cuda.context.push()
        try:
            yield
        except driver.MemoryError as error:
            raise OutOfDeviceMemory(f"graph {graph}: {error}") from error
        except (driver.LaunchError, driver.RuntimeError) as error:
            raise DeviceLost(f"graph {graph}: the GPU's context is lost: {error}") from error
        except driver.Error as error:
            raise RunnerFailed(f"graph {graph} of {self._package.metadata.name} failed: {error}") from error
        finally:
            self._cuda.context.pop()

    def _engine(self, path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RunnerFailed(f"{path.name} is no engine for this GPU and TensorRT")
        return engine
