"""TensorRT on a real GPU: the same results as torch, recorded calls the same as plain ones, too little memory, speed.

Needs an NVIDIA GPU and `pip install 'lungnode[gpu,train]'`; `pytest -m gpu` runs it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import OutOfDeviceMemory, RunnerFailed
from engine.findings import PneumoniaClass
from engine.loading import load_series
from engine.packages import read_package
from engine.runners import tensorrt_runner
from engine.runners.batches import run_slices
from engine.runners.interface import EngineOptions, Runner, RunnerOptions
from engine.runners.selection import open_runner
from engine.screening import open_systems, screen
from engine.verification import fixed_slices

ROOT = Path(__file__).parents[3]
PACKAGES = [ROOT / "models" / "jcs-compact", ROOT / "models" / "m3lung-compact"]
VERDICTS = {
    "covid-1": (True, PneumoniaClass.COVID19),
    "cap-1": (False, PneumoniaClass.CAP),
    "normal-1": (False, PneumoniaClass.HEALTHY),
}

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> RunnerOptions:
    """TensorRT with engines built here; skipped without library or GPU."""
    try:
        tensorrt_runner.backend("tensorrt").identity()
    except RunnerFailed as error:
        pytest.skip(f"not checked: {error}")
    engines = EngineOptions(tmp_path_factory.mktemp("engines"), ROOT / "trt_engines", "tensorrt")
    return RunnerOptions(device="tensorrt", precision="f16", batch=32, engines=engines)


@pytest.fixture(scope="module")
def runner(options: RunnerOptions) -> Iterator[Runner]:
    """The engines of JCS."""
    opened = open_runner(read_package(PACKAGES[0]), options).runner
    yield opened
    opened.close()


@pytest.mark.real_data
@pytest.mark.parametrize("case", VERDICTS)
def test_results_are_those_of_torch(options: RunnerOptions, real_data: Path, case: str) -> None:
    pytest.importorskip("torch")
    volume = load_series((real_data / "ct" / case).iterdir())
    with open_systems(PACKAGES, RunnerOptions(device="torch", precision="f32")) as systems:
        expected = screen(volume, systems)
    with open_systems(PACKAGES, options) as systems:
        found = screen(volume, systems)
    assert (found.jcs.positive, found.m3lung.label) == VERDICTS[case]
    for one, other, most in (
        (found.jcs.slice_probabilities, expected.jcs.slice_probabilities, 0.01),
        (found.m3lung.probabilities, expected.m3lung.probabilities, 0.01),
        (found.m3lung.location_maps, expected.m3lung.location_maps, 0.02),
    ):
        np.testing.assert_allclose(one, other, atol=most)
    a, b = found.lesion_labels > 0, expected.lesion_labels > 0
    assert 2 * (a & b).sum() >= 0.995 * (a.sum() + b.sum())


def test_recorded_calls_give_what_plain_ones_give(
    options: RunnerOptions, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "CUDA graphs" not in runner.description:
        pytest.skip("not checked: cuda-bindings is not installed")
    calls = [{"hu": np.roll(fixed_slices(512), k, axis=0)} for k in range(6)]
    monkeypatch.setattr(tensorrt_runner, "open_cuda_graphs", lambda: None)
    plain = open_runner(read_package(PACKAGES[0]), options).runner
    for graph in ("classify", "segment"):
        pairs = zip(runner.run_each(graph, calls), plain.run_each(graph, calls), strict=True)
        for recorded, expected in pairs:
            for name, values in expected.items():
                np.testing.assert_array_equal(recorded[name], values)
    plain.close()


def test_too_little_memory_halves_the_batch(runner: Runner) -> None:
    driver: Any = pytest.importorskip("pycuda.driver")
    hu = np.resize(fixed_slices(2048), (32, 2048, 2048))
    expected = [runner.run("segment", {"hu": hu[:1]})["lesion_probability"]]
    context = driver.Device(0).retain_primary_context()
    context.push()
    try:
        free, _ = driver.mem_get_info()
        taken = driver.mem_alloc(int(free - 300e6))  # room for a few slices, not for 32
        try:
            found = list(run_slices(runner, "segment", hu, np.arange(32), (0, 0, 2048, 2048), 32))
        except OutOfDeviceMemory:
            pytest.fail("not even one slice at a time went through")
        finally:
            taken.free()
    finally:
        context.pop()
    assert [len(slices) for slices, _ in found] != [32]
    np.testing.assert_array_equal(found[0][1].tensors["lesion_probability"][:1], expected[0])


def test_it_is_faster_than_torch_on_the_same_gpu(options: RunnerOptions, runner: Runner) -> None:
    """The full table is `make bench`."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("not checked: this torch has no CUDA")
    from engine.runners.torch_runner import TorchRunner

    eager = TorchRunner(read_package(PACKAGES[0]), RunnerOptions(precision="f16"), device="cuda")
    calls = [{"hu": np.resize(fixed_slices(512), (32, 512, 512))}] * 4
    seconds: dict[str, list[float]] = {"tensorrt": [], "torch": []}
    for _ in range(6):
        for name, one in (("tensorrt", runner), ("torch", eager)):
            start = time.perf_counter()
            for _ in one.run_each("segment", calls):
                pass
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"segment, {4 * 32} slices: {medians}")
    assert medians["torch"] >= 2 * medians["tensorrt"]
