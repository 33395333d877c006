"""What of TensorRT can be tried without a GPU: half graphs, real FP16 builds for RTX, and the fallbacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.backends import WantedEngine, backend_named
from engine.errors import OutOfDeviceMemory, RunnerFailed
from engine.half_precision import to_half
from engine.packages import read_package
from engine.recipes import Profile
from engine.runners import tensorrt_runner
from engine.runners.batches import run_slices
from engine.tensorrt_graph import adapted

MODELS = Path(__file__).parents[3] / "models"


def small_network() -> onnx.ModelProto:
    """hu int16 [N, H, W] -> Conv with half weights -> Relu -> mean -> softmax [N, 2]; and the HU as they came."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.1, (2, 1, 3, 3)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["hu"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["x", "thousand"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "one"], ["image"]),
        helper.make_node("Cast", ["weight_half"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", "weight", "bias"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("ReduceMean", ["positive", "plane"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["probability"], axis=1),
    ]
    constants = {
        "thousand": np.float32(1000),
        "one": np.array([1]),
        "plane": np.array([2, 3]),
        "weight_half": weight,
        "bias": np.zeros(2, np.float32),
    }
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [info("hu", TensorProto.INT16, ["N", "H", "W"])],
        [
            info("probability", TensorProto.FLOAT, ["N", 2]),
            info("positive", TensorProto.FLOAT, ["N", 2, "H", "W"]),
        ],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, hu: np.ndarray) -> list[np.ndarray]:
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return [np.array(value) for value in compiled([hu]).values()]


def test_half_graph_is_half_where_it_may_be_and_computes_the_same() -> None:
    model = small_network()
    half = to_half(model)
    types = {
        v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(half).graph.value_info
    }
    assert types["map"] == TensorProto.FLOAT16
    assert types["mean"] == TensorProto.FLOAT
    assert [o.type.tensor_type.elem_type for o in half.graph.output] == [TensorProto.FLOAT] * 2
    assert not any(
        t.data_type == TensorProto.FLOAT and t.name.startswith("weight") for t in half.graph.initializer
    )
    hu = np.random.default_rng(1).integers(-1024, 400, (3, 20, 24)).astype(np.int16)
    for expected, found in zip(run(model, hu), run(half, hu), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_weight_beyond_half_is_refused() -> None:
    model = small_network()
    big = numpy_helper.from_array(np.full(2, 1e6, np.float32), "bias")
    next(t for t in model.graph.initializer if t.name == "bias").CopyFrom(big)
    with pytest.raises(ValueError, match="bias does not fit"):
        to_half(model)


def test_adapted_graph_takes_half_hu_and_softmax_over_rows() -> None:
    copy = adapted(small_network())
    assert copy.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert np.arange(-1024, 2048).astype(np.float16).astype(int).tolist() == list(range(-1024, 2048))
    vector = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        "vector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    model = adapted(helper.make_model(vector, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    assert [n.op_type for n in model.graph.node] == ["Unsqueeze", "Softmax", "Squeeze"]
    np.testing.assert_allclose(run(model, np.zeros(4, np.float32))[0], [0.25] * 4)


@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_tensorrt_for_rtx_builds_without_a_gpu(precision: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    model = adapted(small_network())
    content = (to_half(model) if precision == "f16" else model).SerializeToString()
    built = tensorrt_runner.build_network(trt, content, Profile(), tensorrt_runner.WITHOUT_GPU)
    assert len(built.content) > 1000
    assert built.layers[f"CONVOLUTION {'HALF' if precision == 'f16' else 'FLOAT'}"] == 1
    assert built.layers["SOFTMAX FLOAT"] == 1


@pytest.mark.parametrize(
    ("package", "graph"),
    [
        ("jcs-compact", "classify"),
        ("jcs-compact", "segment"),
        ("m3lung-compact", "slices"),
        ("m3lung-compact", "patient"),
    ],
)
def test_half_engines_of_the_committed_packages_are_half_where_the_work_is(package: str, graph: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    model = tensorrt_runner.typed_onnx(read_package(MODELS / package), graph, "f16")
    built = tensorrt_runner.build_network(trt, model, Profile(), tensorrt_runner.WITHOUT_GPU)
    print(f"{package} {graph}: {len(built.content)} bytes, {built.layers}")
    kind = "MATRIX_MULTIPLY" if graph == "patient" else "CONVOLUTION"
    assert built.layers[f"{kind} HALF"] > 0
    assert not built.layers.get("CONVOLUTION FLOAT")


class ScriptedConfig:
    """The timing caches of a builder's configuration. fits: what a cache has to begin with to be taken."""

    def __init__(self, fits: bytes) -> None:
        self._fits = fits
        self.taken: bytes | None = None

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        fits = not cache or cache.startswith(self._fits)
        self.taken = cache if fits else self.taken
        return fits


@pytest.mark.parametrize(
    ("known", "taken"), [(b"this GPU", b"this GPU"), (b"another GPU", b""), (b"damaged", b""), (b"", b"")]
)
def test_timings_of_another_gpu_or_damaged_ones_are_not_used(known: bytes, taken: bytes) -> None:
    config = ScriptedConfig(b"this GPU")
    tensorrt_runner._use_timings(config, known)
    assert config.taken == taken


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_what_a_build_measures_is_kept_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TensorRT for RTX in the place of TensorRT: it has the same calls, and nothing to measure."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setattr(tensorrt_runner, "_library", lambda name: trt)
    monkeypatch.setattr(
        tensorrt_runner, "typed_onnx", lambda *_: adapted(small_network()).SerializeToString()
    )
    timings = tmp_path / "tensorrt.timings"
    wanted = WantedEngine(read_package(MODELS / "jcs-compact"), "classify", "f32", timings=timings)
    for damaged in (False, False, True):
        if damaged:
            timings.write_bytes(b"damaged")
        plan = tensorrt_runner.TensorRTBackend("tensorrt").build(wanted)
        assert len(plan) > 1000
        assert timings.stat().st_size > len(b"damaged")
    kept = timings.read_bytes()
    assert tensorrt_runner.TensorRTBackend("tensorrt_rtx").build(wanted)
    assert timings.read_bytes() == kept


def test_tensorrt_reports_what_it_cannot_read() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises(RunnerFailed, match="cannot read the graph"):
        tensorrt_runner.build_network(trt, b"no onnx", Profile(), tensorrt_runner.WITHOUT_GPU)


def test_missing_library_and_missing_gpu_are_reasons(package_paths: list[Path], monkeypatch) -> None:
    def absent(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt_runner, "import_module", absent)
    with pytest.raises(RunnerFailed, match="tensorrt is not usable: No module named 'tensorrt'"):
        backend_named("tensorrt")
    with pytest.raises(RunnerFailed, match="pycuda is not usable"):
        tensorrt_runner.TensorRTRunner(None, read_package(package_paths[0]), {}, "")


class Hungry:
    """A runner that has memory for three slices."""

    description = "hungry"

    def __init__(self, room: int) -> None:
        self.room, self.sizes = room, []

    def run(self, graph: str, inputs):
        count = len(inputs["hu"])
        self.sizes.append(count)
        if count > self.room:
            raise OutOfDeviceMemory("too many")
        return {"mean": inputs["hu"].mean(axis=(1, 2))}

    def run_each(self, graph: str, inputs):
        return (self.run(graph, given) for given in inputs)

    def close(self) -> None:
        self.sizes.clear()


def test_out_of_memory_halves_the_batch_and_loses_no_slice() -> None:
    hu = np.arange(11, dtype=np.int16)[:, None, None].repeat(4, 1).repeat(4, 2)
    runner = Hungry(3)
    results = list(run_slices(runner, "g", hu, np.arange(11), (0, 0, 4, 4), 8))
    assert np.concatenate([out.floats("mean", (None,)) for _, out in results]).tolist() == list(range(11))
    assert runner.sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    with pytest.raises(OutOfDeviceMemory):
        list(run_slices(Hungry(0), "g", hu, np.arange(11), (0, 0, 4, 4), 8))
