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

from engine.backends import WantedEngine
from engine.engine_cache import write_atomically
from engine.errors import DeviceLost, OutOfDeviceMemory, RunnerFailed
from engine.packages import ModelPackage
from engine.recipes import Backend, BuildPrecision, Profile
from engine.runners.cuda_graphs import open_cuda_graphs
from engine.runners.interface import Results, RunnerOptions, Tensors
from engine.runners.tensorrt_lane import Lane, execution_context

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
    """A serialized engine. layers: how many layers of each kind have outputs of each type, before fusion.

    timings: what was measured of kernels, for the next build; empty where nothing was to be kept.
    """

    content: bytes
    layers: dict[str, int]
    timings: bytes = b""


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

    def build(self, wanted: WantedEngine) -> bytes:
        model = typed_onnx(wanted.package, wanted.graph, wanted.precision)
        timings = wanted.timings
        if timings is None or self._name == "tensorrt_rtx":  # which measures nothing
            return build_network(self._trt, model, wanted.profile, self._capabilities()).content
        known = timings.read_bytes() if timings.is_file() else b""
        built = build_network(self._trt, model, wanted.profile, self._capabilities(), known)
        with suppress(OSError):  # without it the next build measures anew
            write_atomically(timings, built.timings)
        return built.content

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


def build_network(
    trt: Any, model: bytes, profile: Profile, capabilities: tuple[str, ...], timings: bytes | None = None
) -> BuiltNetwork:
    """Parse and build; `capabilities` are for TensorRT for RTX without a GPU. Raises RunnerFailed.

    timings: what earlier builds measured of kernels, empty at first; None measures anew and keeps nothing.
    """
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
    if timings is not None:
        _use_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RunnerFailed("TensorRT could not build the engine; its log says why")
    measured = b"" if timings is None else bytes(config.get_timing_cache().serialize())
    return BuiltNetwork(bytes(plan), _layers(network), measured)


def _use_timings(config: Any, timings: bytes) -> None:
    """Give the builder a timing cache: what is damaged or of another GPU or version is left for an empty one."""
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


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


class _KernelCache:
    """What TensorRT for RTX compiles when an engine first runs, kept in a file beside the engine."""

    def __init__(self, trt: Any, engine: Any, file: Path) -> None:
        self._file = file
        self.settings = engine.create_runtime_config()
        self.settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self.settings.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        self._cache = self.settings.create_runtime_cache()
        if file.is_file():
            self._cache.deserialize(file.read_bytes())  # False where it is not fit: then it stays empty
        self.settings.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the file; without it the next process compiles anew."""
        with suppress(OSError):
            write_atomically(self._file, bytes(self._cache.serialize()))


class TensorRTRunner:
    """Engines of one package on the first GPU, two calls under way: one is copied while the other is computed."""

    def __init__(self, trt: Any, package: ModelPackage, engines: Mapping[str, Path], precisions: str) -> None:
        self._trt, self._package, self._said = trt, package, precisions
        self._cuda = _Cuda()
        with self._current("engines"):
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            self._opened = {graph: self._engine(path) for graph, path in engines.items()}
            by_itself = hasattr(trt, "CudaGraphStrategy")  # TensorRT for RTX records its calls
            self._graphs = None if by_itself else open_cuda_graphs()
            self._kernels = {
                graph: _KernelCache(trt, engine, engines[graph].with_suffix(".kernels"))
                for graph, engine in self._opened.items()
                if by_itself
            }
            self._lanes = [self._lane() for _ in range(LANES)]

    @property
    def description(self) -> str:
        recorded = ", CUDA graphs" if self._graphs is not None or self._kernels else ""
        return f"TensorRT {self._trt.__version__}, {self._cuda.device}, {self._said}{recorded}"

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
        under_way: deque[Lane] = deque()
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
        for lane in self._lanes:
            lane.close()
        for kernels in self._kernels.values():
            kernels.save()
        self._lanes.clear()
        self._kernels.clear()
        self._opened.clear()
        self._cuda.context.pop()
        self._cuda.context.detach()

    def _lane(self) -> Lane:
        by_lane = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        contexts = {
            graph: execution_context(
                graph, engine, self._kernels[graph].settings if self._kernels else by_lane
            )
            for graph, engine in self._opened.items()
        }
        return Lane(self._trt, self._cuda.driver, contexts, self._graphs)

    def _finished(self, graph: str, lane: Lane) -> Results:
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
