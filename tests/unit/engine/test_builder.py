"""Engines: built once, verified, refused when they differ, rebuilt when the cache is damaged."""

from __future__ import annotations

import fcntl
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import builder as building
from engine.backends import WantedEngine, backend_named
from engine.builder import BuiltContent, EngineBuilder, build_in_child, list_engines, verify_engines
from engine.engine_cache import EngineCache, EngineRecord, write_atomically
from engine.errors import DeviceLost, OutOfDeviceMemory, RunnerFailed
from engine.packages import JCSMetadata, ModelPackage, read_package
from engine.recipes import Recipe, RecipeInvalid, Tolerance, read_recipe
from engine.runners.interface import EngineOptions, Precision, RunnerOptions
from engine.runners.selection import open_runner
from engine.verification import OutputCheck, compare, crops, fixed_slices, shown

RECIPES = Path(__file__).parents[3] / "trt_engines"

GOOD = OutputCheck("classify", "probability", "largest", 0.001, 2, 0.01)
BAD = OutputCheck("classify", "probability", "largest", 0.2, 3, 0.01)


@pytest.fixture
def package(package_paths: list[Path]) -> ModelPackage:
    return read_package(package_paths[0])


@pytest.fixture
def recipe() -> Recipe:
    return read_recipe(RECIPES / "openvino.yaml")


class FakeBuild:
    """Stands in for the child process: what it answers per precision, and what it was asked."""

    def __init__(self, **answers: OutputCheck | Exception) -> None:
        self.answers, self.asked = answers, []

    def __call__(self, job, timeout_s: float) -> BuiltContent:
        self.asked.append((job.graph, job.precision))
        answer = self.answers[job.precision]
        if isinstance(answer, Exception):
            raise answer
        return BuiltContent(b"engine " + job.precision.encode(), (answer,))


def make(
    recipe: Recipe, folder: Path, build: FakeBuild, precisions=("bf16", "f32"), report=None
) -> EngineBuilder:
    recipe = recipe.model_copy(update={"precisions": precisions})
    builder = EngineBuilder(
        recipe, EngineCache(folder), report or (lambda record: None), build, itertools.count().__next__
    )
    builder._backend.offers = lambda precision: True  # type: ignore[method-assign]
    return builder


def test_an_engine_is_built_once(package, recipe, tmp_path: Path) -> None:
    build, seen = FakeBuild(bf16=GOOD), []
    builder = make(recipe, tmp_path / "cache", build, report=seen.append)
    first = builder.ensure(package, "classify")
    again = make(recipe, tmp_path / "cache", build).ensure(package, "classify")
    assert build.asked == [("classify", "bf16")]
    assert first == again
    assert [record.state for record in seen] == ["building", "ready"]
    assert builder.cache.engine_path(first.key).read_bytes() == b"engine bf16"
    assert first.checks == ("classify.probability: largest 0.001, worst in slice 2, allowed <= 0.01",)


def test_an_engine_that_differs_is_refused_and_the_next_precision_taken(
    package, recipe, tmp_path: Path
) -> None:
    build = FakeBuild(bf16=BAD, f32=GOOD)
    record = make(recipe, tmp_path, build).ensure(package, "classify")
    assert record.key.precision == "f32"
    refused = next(r for r in list_engines(tmp_path) if r.key.precision == "bf16")
    assert refused.state == "failed"
    assert "differs from the reference: classify.probability: largest 0.2, worst in slice 3" in refused.why
    make(recipe, tmp_path, build).ensure(package, "classify")
    assert len(build.asked) == 2  # the refused one is not tried again
    make(recipe, tmp_path, build).ensure(package, "classify", again=True)
    assert build.asked[2:] == [("classify", "bf16")]


def test_int8_is_tried_in_front_of_what_the_recipe_names(package, recipe, tmp_path: Path) -> None:
    build = FakeBuild(int8=RunnerFailed("graph patient is not quantised"), bf16=BAD, f32=GOOD)
    assert make(recipe, tmp_path, build).ensure(package, "classify", "int8").key.precision == "f32"
    assert [precision for _, precision in build.asked] == ["int8", "bf16", "f32"]


@pytest.mark.parametrize(
    ("asked", "tried"),
    [("auto", ("f16", "f32")), ("int8", ("f16", "f32")), ("f32", ("f32",)), ("bf16", ("bf16", "f32"))],
)
def test_int8_is_left_out_where_the_machine_has_none(
    recipe, tmp_path: Path, asked: Precision, tried: tuple[str, ...]
) -> None:
    builder = make(recipe, tmp_path, FakeBuild(), precisions=("f16", "f32"))
    builder._backend.offers = lambda precision: precision != "int8"  # type: ignore[method-assign]
    assert builder.candidates(asked) == tried


def test_int8_has_tolerances_of_its_own(recipe: Recipe) -> None:
    """Wider ones, for outputs that are checked in any precision; what it does not name keeps to the common ones."""
    for graph, outputs in recipe.tolerances.items():
        common, own = recipe.allowed(graph, "bf16"), recipe.allowed(graph, "int8")
        assert common == outputs
        assert set(own) == set(outputs)
    assert recipe.allowed("classify", "int8")["probability"].limit > 0.01
    assert recipe.allowed("segment", "int8")["lesion_probability"].limit < 0.995
    assert recipe.allowed("patient", "int8") == recipe.tolerances["patient"]
    assert recipe.allowed("no such graph", "int8") == {}


def test_without_any_engine_every_reason_is_told(package, recipe, tmp_path: Path) -> None:
    build = FakeBuild(bf16=RunnerFailed("no memory"), f32=BAD)
    with pytest.raises(RunnerFailed, match=r"bf16: no memory; f32: differs from the reference"):
        make(recipe, tmp_path, build).ensure(package, "classify")


@pytest.mark.parametrize("damage", [b"", b"engine bf1", b"something else"])
def test_a_damaged_engine_file_is_rebuilt(package, recipe, tmp_path: Path, damage: bytes) -> None:
    build = FakeBuild(bf16=GOOD)
    builder = make(recipe, tmp_path, build)
    path = builder.cache.engine_path(builder.ensure(package, "classify").key)
    path.write_bytes(damage)
    builder.ensure(package, "classify")
    assert path.read_bytes() == b"engine bf16"
    path.unlink()
    builder.ensure(package, "classify")
    assert len(build.asked) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"key": {}}', '{"key": {"x": 1}, "checks": []}'])
def test_a_damaged_state_file_is_rebuilt(package, recipe, tmp_path: Path, content: str) -> None:
    build = FakeBuild(bf16=GOOD)
    builder = make(recipe, tmp_path, build)
    builder.ensure(package, "classify")
    state = next(tmp_path.glob("*.json"))
    state.write_text(content)
    assert builder.ensure(package, "classify").state == "ready"
    assert len(build.asked) == 2


def test_a_build_that_did_not_end_is_taken_up_again(package, recipe, tmp_path: Path) -> None:
    build = FakeBuild(bf16=GOOD)
    builder = make(recipe, tmp_path, build)
    key = builder.key(package, "classify", "bf16")
    builder.cache.note(EngineRecord(key, "building"))
    assert builder.ensure(package, "classify").state == "ready"


def test_the_key_changes_with_everything_that_matters(package, recipe, tmp_path: Path) -> None:
    builder = make(recipe, tmp_path, FakeBuild(bf16=GOOD))
    key = builder.key(package, "classify", "bf16")
    others = [
        builder.key(replace(package, sha256="0" * 64), "classify", "bf16"),
        builder.key(package, "segment", "bf16"),
        builder.key(package, "classify", "f32"),
        replace(key, recipe_version=key.recipe_version + 1),
        replace(key, identity="another processor"),
        replace(key, profile="1-8-64"),
        replace(key, backend="tensorrt"),
    ]
    assert len({k.stem for k in [key, *others]}) == 8


def test_one_process_builds_at_a_time(package, recipe, tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    key = make(recipe, tmp_path, FakeBuild()).key(package, "classify", "bf16")
    with (
        cache.locked(key),
        (tmp_path / f"{key.stem}.lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / f"{key.stem}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.engine"
    write_atomically(path, b"old")
    monkeypatch.setattr(
        "engine.engine_cache.os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "no space"))
    )
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.engine"]


def test_a_real_build_serves_and_verifies(package_paths: list[Path], tmp_path: Path, chest_of) -> None:
    engines = EngineOptions(tmp_path / "cache", RECIPES)
    options = RunnerOptions(precision="f32", threads=1, engines=engines, device="openvino")
    package = read_package(package_paths[0])
    hu = chest_of(lesion=True)[18:22]
    chosen = open_runner(package, options)
    direct = open_runner(package, replace(options, engines=None))
    assert "classify f32" in chosen.runner.description
    for graph in ("classify", "segment"):
        expected = direct.runner.run(graph, {"hu": hu})
        for name, values in chosen.runner.run(graph, {"hu": hu}).items():
            np.testing.assert_allclose(values, expected[name], atol=1e-6)
    records = list_engines(tmp_path / "cache")
    assert {record.state for record in records} == {"ready"}
    assert all(v.passed for v in verify_engines([package_paths[0]], replace(engines, precision="f32")))


def test_a_child_that_fails_crashes_or_hangs_is_a_reason(
    package, recipe, monkeypatch, tmp_path: Path
) -> None:
    job = building.BuildJob(str(tmp_path), "classify", "f32", recipe, "")
    with pytest.raises(RunnerFailed, match="no model package"):
        build_in_child(job, 60)
    with pytest.raises(RunnerFailed, match=r"longer than 0\.01 s"):
        build_in_child(replace(job, package=str(package.path)), 0.01)
    monkeypatch.setattr(building, "job_to_json", lambda job: "not json")
    with pytest.raises(RunnerFailed, match="JSONDecodeError"):
        build_in_child(job, 60)


def test_auto_falls_back_to_openvino_and_says_why(package, recipe, tmp_path: Path, monkeypatch) -> None:
    def open_builder(options: EngineOptions, report) -> EngineBuilder:
        if options.backend == "tensorrt":
            raise RunnerFailed("no driver")
        return make(recipe, tmp_path, FakeBuild(bf16=GOOD))

    monkeypatch.setattr("engine.runners.selection.open_builder", open_builder)
    chosen = open_runner(package, RunnerOptions(engines=EngineOptions(tmp_path, RECIPES)))
    assert chosen.reason == "openvino; not tensorrt: no driver"
    assert "classify bf16, segment bf16" in chosen.runner.description
    with pytest.raises(RunnerFailed, match="no driver"):
        open_runner(package, RunnerOptions(engines=EngineOptions(tmp_path, RECIPES), device="tensorrt"))


def test_auto_takes_torch_for_a_gpu_without_tensorrt(package, recipe, tmp_path: Path, monkeypatch) -> None:
    torch_runner = pytest.importorskip("engine.runners.torch_runner")
    monkeypatch.setattr("engine.runners.selection.gpu_models", lambda: ("a GPU",))

    def open_builder(options: EngineOptions, report) -> EngineBuilder:
        if options.backend == "tensorrt":
            raise RunnerFailed("no tensorrt")
        return make(recipe, tmp_path, FakeBuild(bf16=GOOD))

    monkeypatch.setattr("engine.runners.selection.open_builder", open_builder)
    options = RunnerOptions(engines=EngineOptions(tmp_path, RECIPES))
    chosen = open_runner(package, options)
    assert chosen.reason == "openvino; not tensorrt: no tensorrt; not torch: torch finds no CUDA device"

    opened = []

    class WithCUDA(torch_runner.TorchRunner):
        def __init__(self, package: ModelPackage, options: RunnerOptions, device: str) -> None:
            opened.append((device, options.precision))

    monkeypatch.setattr("engine.runners.torch_runner.TorchRunner", WithCUDA)
    assert open_runner(package, options).reason == "torch; not tensorrt: no tensorrt"
    assert (
        open_runner(package, RunnerOptions(device="torch", precision="f16")).reason == "torch, as configured"
    )
    assert opened == [("cuda", "f32"), ("cuda", "f16")]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("OutOfMemoryError", OutOfDeviceMemory),
        ("CUDA error: an illegal memory access was encountered", DeviceLost),
        ("sizes do not match", RunnerFailed),
    ],
)
def test_faults_of_torch_on_a_gpu_are_told_apart(
    package, monkeypatch, error: str, kind: type[Exception]
) -> None:
    torch = pytest.importorskip("torch")
    from engine.runners.torch_runner import TorchRunner

    runner = TorchRunner(package, RunnerOptions())
    raised = torch.OutOfMemoryError(error) if error == "OutOfMemoryError" else RuntimeError(error)

    def fails(graph: str) -> None:
        raise raised

    monkeypatch.setattr(runner, "_loaded", fails)
    with pytest.raises(RunnerFailed) as caught:
        runner.run("classify", {"hu": np.zeros((1, 8, 8), dtype=np.int16)})
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("backend: openvino", "version"),
        ("[1", "cannot be read"),
        ("backend: abacus\nversion: 1\nprecisions: [f32]\ntolerances: {}", "backend"),
        ("backend: openvino\nversion: 1\nprecisions: []\ntolerances: {}", "precisions"),
        ("backend: openvino\nversion: 1\nprecisions: [f32]\ntolerances: {}\ncolour: red", "colour"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeInvalid, match=reason):
        read_recipe(path)


def test_all_recipes_are_sound_and_cover_every_graph() -> None:
    for path in RECIPES.glob("*.yaml"):
        recipe = read_recipe(path)
        assert set(recipe.tolerances) == {"classify", "segment", "slices", "patient", "model"}, path


def test_the_fixed_slices_never_change_unseen() -> None:
    slices = fixed_slices(128)
    assert slices.shape == (6, 128, 128)
    assert slices.dtype == np.int16
    np.testing.assert_array_equal(slices, fixed_slices(128))
    assert -900 < np.median(slices[0][40:88, 30:50]) < -820


def test_comparison_finds_the_worst_slice() -> None:
    expected = {"p": np.zeros(6), "m": np.zeros((6, 4, 4), np.uint8)}
    expected["m"][:, :2] = 255
    found = {"p": np.array([0, 0, 0.3, 0, 0.1, 0]), "m": expected["m"].copy()}
    found["m"][5, 2] = 255  # 8 of 8 and 4 more: Dice 96 / 100 of all
    tolerances = {"p": Tolerance(measure="largest", limit=0.2), "m": Tolerance(measure="dice", limit=0.97)}
    p, m = compare("g", expected, found, tolerances)
    assert (p.worst, p.worst_slice, p.passed) == (0.3, 2, False)
    assert (m.worst, m.worst_slice, m.passed) == (0.96, 5, False)
    same = compare("g", expected, expected, tolerances)
    assert all(check.passed for check in same)


@pytest.mark.parametrize("found", [None, np.zeros(5), np.full(6, np.nan)])
def test_a_missing_or_broken_output_fails(found) -> None:
    tolerances = {"p": Tolerance(measure="largest", limit=0.2)}
    found = {} if found is None else {"p": found}
    assert not compare("g", {"p": np.zeros(6)}, found, tolerances)[0].passed


def test_maps_count_where_they_are_shown() -> None:
    """Of probabilities 0.9, 0.2 and 0.6 at a threshold of 0.75 one; where none is positive the likeliest."""
    metadata = read_package(Path(__file__).parents[3] / "models/jcs-compact").metadata
    assert isinstance(metadata, JCSMetadata)
    for probabilities, kept in (([0.9, 0.2, 0.6], [1, 0, 0]), ([0.1, 0.3, 0.2], [0, 1, 0])):
        output = {"probability": np.array(probabilities), "activation_map": np.ones((3, 2, 2))}
        found = shown("classify", metadata, output, output)
        assert found["activation_map"][:, 0, 0].tolist() == kept
        assert found["probability"].tolist() == probabilities


def test_state_files_are_json_that_people_can_read(package, recipe, tmp_path: Path) -> None:
    make(recipe, tmp_path, FakeBuild(bf16=GOOD)).ensure(package, "classify")
    content = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert content["state"] == "ready"
    assert content["key"]["graph"] == "classify"


@pytest.mark.parametrize(
    ("package", "graph", "shape"),
    [
        ("jcs-compact", "classify", (448, 448)),
        ("jcs-compact", "segment", None),
        ("m3lung-compact", "slices", None),
    ],
)
def test_the_committed_packages_pass_on_what_they_see(
    package: str, graph: str, shape: tuple[int, int] | None, recipe: Recipe, tmp_path: Path
) -> None:
    """In bfloat16, which is what they are run in."""
    found = read_package(Path(__file__).parents[3] / "models" / package)
    seen = crops(graph, found.metadata)
    assert seen.shape[1:] == shape or (shape is None and seen.shape[1] < 512 and seen.shape[2] < 512)
    backend = backend_named("openvino")
    if not backend.offers("bf16"):
        pytest.skip("this processor has no bfloat16")
    (engine := tmp_path / "engine").write_bytes(backend.build(WantedEngine(found, graph, "bf16")))
    checks = building.verify_engine(found, graph, engine, recipe, "bf16")
    assert checks
    assert not [str(check) for check in checks if not check.passed]
