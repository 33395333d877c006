"""Faults of a GPU, with a scripted driver and a scripted TensorRT in place of NVIDIA's modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.errors import DeviceLost, OutOfDeviceMemory, RunnerFailed
from engine.packages import read_package
from engine.runners import tensorrt_runner
from engine.runners.cuda_graphs import CudaGraphs
from engine.runners.tensorrt_runner import TensorRTRunner


class ScriptedDriver:
    """pycuda.driver as far as the runner uses it, with arrays for memory. fault: raised by the next copy."""

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class LaunchError(Error):
        pass

    class RuntimeError(Error):
        pass

    class MemoryError(Error):
        pass

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.pushed = 0
        self.memory: dict[int, np.ndarray] = {}
        self.allocated = self.streams = 0
        self.sizes: list[int] = []
        self.log: list[str] = []
        self.recording: list[Callable[[], None]] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """At once, or later where the stream is being recorded."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def init(self) -> None:
        pass

    def Device(self, number: int) -> Any:  # noqa: N802 - pycuda's name
        def push() -> None:
            self.pushed += 1

        def pop() -> None:
            self.pushed -= 1

        context = SimpleNamespace(push=push, pop=pop, detach=lambda: None)
        return SimpleNamespace(
            retain_primary_context=lambda: context, compute_capability=lambda: (9, 0), name=lambda: "scripted"
        )

    def Stream(self) -> Any:  # noqa: N802 - pycuda's name
        number = self.streams = self.streams + 1
        return SimpleNamespace(handle=number, synchronize=lambda: self.log.append(f"wait {number}"))

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def mem_alloc(self, size: int) -> int:
        self.allocated += 1
        self.sizes.append(size)
        return self.allocated

    def memcpy_htod_async(self, device: int, host: np.ndarray, stream: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.do(lambda: self.memory.__setitem__(device, host.copy()))

    def memcpy_dtoh_async(self, host: np.ndarray, device: int, stream: Any) -> None:
        self.do(lambda: np.copyto(host, self.memory[device]))


class ScriptedEngine:
    """An engine with input hu int16 [N] and output probability float32 [N] = hu / 10.

    It computes by way of a working memory that it was given, of 1000 bytes for each of the N.
    """

    num_io_tensors = 2
    working_bytes = 1000

    def __init__(self, driver: ScriptedDriver) -> None:
        self.engine = self
        self._driver, self._addresses, self._shape = driver, {}, ()

    def create_execution_context(self, *settings: Any) -> ScriptedEngine:
        self.settings = settings
        return ScriptedEngine(self._driver)

    def get_tensor_name(self, index: int) -> str:
        return ("hu", "probability")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return np.int16 if name == "hu" else np.float32

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return len(shape) == 1

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def update_device_memory_size_for_shapes(self) -> int:
        return self.working_bytes * self._shape[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.working_bytes * self._shape[0]
        self._working = memory

    def execute_async_v3(self, stream: int) -> bool:
        working = self._working

        def compute() -> None:
            memory = self._driver.memory
            self._driver.log.append(f"compute {stream}")
            assert self._working == working, "a recording names memory that was given back"
            memory[working] = memory[self._addresses["hu"]] / np.float32(10)
            memory[self._addresses["probability"]] = memory[working]

        self._driver.do(compute)
        return True


class ScriptedBindings:
    """cuda.bindings.driver as far as recording needs it. refused: the calls that fail."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)

    def __init__(self, driver: ScriptedDriver, *refused: str) -> None:
        self._driver, self._refused = driver, refused
        self.alive = 0

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:  # noqa: N802 - NVIDIA's name
        if "begin" in self._refused:
            return (801,)
        self._driver.recording = []
        return (0,)

    def cuStreamEndCapture(self, stream: int) -> tuple[int, Any]:  # noqa: N802 - NVIDIA's name
        recorded, self._driver.recording = self._driver.recording, None
        return (901, None) if "end" in self._refused else (0, recorded)

    def cuGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:  # noqa: N802 - NVIDIA's name
        if "instantiate" in self._refused:
            return (2, None)
        self.alive += 1
        return (0, graph)

    def cuGraphDestroy(self, graph: Any) -> tuple[int]:  # noqa: N802 - NVIDIA's name
        return (0,)

    def cuGraphLaunch(self, executable: Any, stream: int) -> tuple[int]:  # noqa: N802 - NVIDIA's name
        if "launch" in self._refused:
            return (700,)
        self._driver.log.append(f"launch {stream}")
        for work in executable:
            work()
        return (0,)

    def cuGraphExecDestroy(self, executable: Any) -> tuple[int]:  # noqa: N802 - NVIDIA's name
        self.alive -= 1
        return (0,)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ScriptedDriver:
    scripted = ScriptedDriver()
    monkeypatch.setattr(tensorrt_runner, "import_module", lambda name: scripted)
    return scripted


@pytest.fixture
def opened(
    driver: ScriptedDriver, tmp_path: Path, package_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TensorRTRunner]:
    """opened(bindings, **library): a runner, its calls recorded with `bindings`; `library`: more of TensorRT."""
    engine = tmp_path / "engine"
    engine.write_bytes(b"plan")
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    runtime = SimpleNamespace(
        deserialize_cuda_engine=lambda plan: ScriptedEngine(driver) if plan == b"plan" else None
    )
    trt = {
        "__version__": "0",
        "Logger": logger,
        "Runtime": lambda log: runtime,
        "nptype": lambda dtype: dtype,
        "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="by the lane"),
    }
    package = read_package(package_paths[0])

    def open_runner(bindings: ScriptedBindings | None = None, **library: Any) -> TensorRTRunner:
        graphs = None if bindings is None else CudaGraphs(bindings)
        monkeypatch.setattr(tensorrt_runner, "open_cuda_graphs", lambda: graphs)
        return TensorRTRunner(SimpleNamespace(**trt, **library), package, {"classify": engine}, "f16")

    return open_runner


def test_what_goes_in_comes_out_and_the_context_is_left(opened, driver: ScriptedDriver) -> None:
    runner = opened()
    for values in ([10, 20], [30, 40], [5]):
        found = runner.run("classify", {"hu": np.array(values, dtype=np.int16)})["probability"]
        np.testing.assert_allclose(found, np.array(values) / 10)
    assert driver.pushed == 0
    assert "SM90" in runner.description


def test_the_next_call_is_under_way_before_the_last_is_waited_for(opened, driver: ScriptedDriver) -> None:
    runner = opened()
    calls = [{"hu": np.array([10 * k, 5], dtype=np.int16)} for k in range(4)]
    found = [outputs["probability"][0] for outputs in runner.run_each("classify", calls)]
    np.testing.assert_allclose(found, [0, 1, 2, 3])
    assert driver.log == [
        *("compute 1", "compute 2", "wait 1", "compute 1", "wait 2", "compute 2", "wait 1", "wait 2"),
    ]
    assert driver.allocated == 6, (
        "input, output and working memory for each of the two, kept from call to call"
    )
    assert driver.pushed == 0


def test_graphs_take_turns_in_a_working_memory_as_large_as_the_largest_call(
    opened, driver: ScriptedDriver
) -> None:
    runner = opened(ScriptedBindings(driver))
    for count in (2, 2, 2, 8, 8, 8, 3, 3, 3):  # each is recorded at its second call with the same shape
        hu = np.arange(count, dtype=np.int16)
        lane_by_lane = runner.run_each("classify", [{"hu": hu}, {"hu": hu}])
        for found in lane_by_lane:
            np.testing.assert_allclose(found["probability"], hu / 10, rtol=1e-6)
    working = [size for size in driver.sizes if size >= ScriptedEngine.working_bytes]
    assert working == [2000, 2000, 8000, 8000], (
        "it grows for each of the two lanes, and is kept for fewer slices"
    )


def test_calls_that_nobody_waits_for_are_let_end(opened, driver: ScriptedDriver) -> None:
    results = opened().run_each("classify", [{"hu": np.array([k], dtype=np.int16)} for k in range(5)])
    next(results)
    results.close()
    assert driver.log.count("compute 1") == driver.log.count("wait 1")
    assert driver.log.count("compute 2") == driver.log.count("wait 2")
    assert driver.pushed == 0


def tenths(runner: TensorRTRunner, *calls: list[int]) -> list[list[float]]:
    """What the runner gives for each of the calls, one after the other."""
    given = ({"hu": np.array(values, dtype=np.int16)} for values in calls)
    return [outputs["probability"].round(3).tolist() for outputs in runner.run_each("classify", given)]


SAME_SHAPE = [[10, 20], [30, 40], [50, 60], [70, 80], [90, 100], [110, 120]]


def test_a_call_that_was_made_before_is_replayed_and_gives_what_it_would_have(
    opened, driver: ScriptedDriver
) -> None:
    bindings = ScriptedBindings(driver)
    runner = opened(bindings)
    assert tenths(runner, *SAME_SHAPE) == tenths(opened(), *SAME_SHAPE)
    first = driver.log[: driver.log.index("launch 1")]
    assert [line for line in first if line.startswith("compute")] == ["compute 1", "compute 2"]
    assert driver.log.count("launch 1") == driver.log.count("launch 2") == 2
    assert "CUDA graphs" in runner.description
    runner.close()
    assert bindings.alive == 0


def test_another_shape_makes_a_recording_void(opened, driver: ScriptedDriver) -> None:
    bindings = ScriptedBindings(driver)
    runner = opened(bindings)
    calls = [*SAME_SHAPE, [5], *SAME_SHAPE]
    assert tenths(runner, *calls) == [[value / 10 for value in call] for call in calls]
    runner.close()
    assert bindings.alive == 0


@pytest.mark.parametrize("refused", ["begin", "end", "instantiate", "launch"])
def test_what_cannot_be_recorded_is_called_as_usual(refused: str, opened, driver: ScriptedDriver) -> None:
    runner = opened(ScriptedBindings(driver, refused))
    assert tenths(runner, *SAME_SHAPE) == [[value / 10 for value in call] for call in SAME_SHAPE]
    assert "launch 1" not in driver.log
    assert driver.pushed == 0


def test_a_fault_while_recording_is_told_as_one_of_the_call(opened, driver: ScriptedDriver) -> None:
    runner = opened(ScriptedBindings(driver))
    runner.run("classify", {"hu": np.zeros(2, dtype=np.int16)})
    driver.fault = ScriptedDriver.MemoryError("out of memory")
    with pytest.raises(OutOfDeviceMemory):
        runner.run("classify", {"hu": np.zeros(2, dtype=np.int16)})
    assert driver.recording is None


class ScriptedKernels:
    """The runtime settings and the kernel cache of TensorRT for RTX in one."""

    def __init__(self) -> None:
        self.cuda_graph_strategy: str | None = None
        self.strategy: str | None = None
        self.content = b""

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> ScriptedKernels:
        return self

    def set_runtime_cache(self, cache: ScriptedKernels) -> None:
        pass

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content + b"|compiled"


def test_tensorrt_for_rtx_records_by_itself_and_keeps_its_kernels(
    opened, driver: ScriptedDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ScriptedKernels] = []
    monkeypatch.setattr(
        ScriptedEngine,
        "create_runtime_config",
        lambda self: made.append(ScriptedKernels()) or made[-1],
        raising=False,
    )
    strategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    for _ in range(2):
        runner = opened(ScriptedBindings(driver), CudaGraphStrategy=strategy)
        assert tenths(runner, *SAME_SHAPE)[-1] == [11, 12]
        runner.close()
    assert "launch 1" not in driver.log, "it is not recorded twice"
    assert [settings.cuda_graph_strategy for settings in made] == ["whole", "whole"]
    assert [settings.strategy for settings in made] == ["by the lane", "by the lane"]
    assert (tmp_path / "engine.kernels").read_bytes() == b"|compiled|compiled"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ScriptedDriver.LaunchError("an illegal memory access"), DeviceLost),
        (ScriptedDriver.RuntimeError("device lost"), DeviceLost),
        (ScriptedDriver.MemoryError("out of memory"), OutOfDeviceMemory),
        (ScriptedDriver.LogicError("invalid argument"), RunnerFailed),
    ],
)
def test_faults_are_told_apart(fault: Exception, expected: type, opened, driver: ScriptedDriver) -> None:
    runner = opened()
    driver.fault = fault
    with pytest.raises(RunnerFailed, match=str(fault)) as raised:
        runner.run("classify", {"hu": np.zeros(2, dtype=np.int16)})
    assert type(raised.value) is expected
    assert driver.pushed == 0


def test_a_foreign_engine_and_a_shape_outside_of_its_profile_are_reasons(opened, tmp_path: Path) -> None:
    with pytest.raises(RunnerFailed, match="outside of what the engine was built for"):
        opened().run("classify", {"hu": np.zeros((2, 2), dtype=np.int16)})
    (tmp_path / "engine").write_bytes(b"of another GPU")
    with pytest.raises(RunnerFailed, match="no engine for this GPU"):
        opened()
