"""What a worker screens with while engines are built, and after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError
from tiny_packages import SYSTEMS, write_package

from engine.engine_cache import EngineRecord
from engine.errors import NotScreenable, RunnerFailed
from node.casework import Casework
from node.caseworks import Caseworks, CaseworksAtHand, open_caseworks
from node.configuration import Configuration, ScreeningConfiguration

LONG = 60.0


class Executor:
    """Stands for an executor; says whether it was closed."""

    def __init__(self, description: str) -> None:
        self.descriptions = {"jcs": description}
        self.reasons: dict[str, str] = {}
        self.closed = False

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


def a_casework(description: str) -> Casework:
    return cast(
        Casework, SimpleNamespace(executor=Executor(description), equipment=f"packages of {description}")
    )


def is_closed(caseworks: Caseworks) -> bool:
    return cast(Executor, caseworks.usual.executor).closed


@pytest.mark.parametrize("waits", [False, True])
def test_built_engines_take_the_place_of_what_there_was(waits: bool) -> None:
    first, built = Caseworks(a_casework("onnx")), Caseworks(a_casework("engines"))
    may_end = threading.Event()

    def build() -> Caseworks:
        assert may_end.wait(LONG)
        return built

    with CaseworksAtHand(first, build, waits=waits) as at_hand:
        assert at_hand.now() is (None if waits else first)
        assert at_hand.equipment == "packages of onnx"
        may_end.set()
        at_hand.wait(LONG)
        assert not is_closed(first), "nobody has asked since"
        assert at_hand.now() is built and at_hand.now() is built
        assert is_closed(first) and not is_closed(built)
    assert is_closed(built)


def test_what_building_raises_is_raised_to_the_worker() -> None:
    def build() -> Caseworks:
        raise RunnerFailed("no engine")

    with CaseworksAtHand(Caseworks(a_casework("onnx")), build) as at_hand:
        at_hand.wait(LONG)
        with pytest.raises(RunnerFailed, match="no engine"):
            at_hand.now()


def test_a_study_gets_the_packages_of_its_rule_or_the_processor() -> None:
    usual, special, processor = a_casework("usual"), a_casework("special"), a_casework("processor")
    caseworks = Caseworks(usual, {("a", "b"): special}, lambda: processor)
    assert [caseworks.for_study(None, attempt) for attempt in (1, 2, 3)] == [usual, usual, processor]
    assert Caseworks(usual).for_study(None, 3) is usual
    assert caseworks.for_study(("a", "b"), 3) is special
    with pytest.raises(NotScreenable, match="packages c, which no rule names"):
        caseworks.for_study(("c",), 1)


@pytest.fixture
def package_paths(tmp_path: Path) -> list[Path]:
    """A tiny package of each system."""
    return [write_package(tmp_path / system, system) for system in SYSTEMS]


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    """What was opened, as (with built engines, device); opens nothing."""
    opened: list[tuple[bool, str]] = []

    def open_casework(configuration: Configuration, report: Any = None) -> Casework:
        screening = configuration.screening
        opened.append((screening.uses_built_engines, screening.device))
        return a_casework(f"{screening.device} {screening.uses_built_engines}")

    monkeypatch.setattr("node.caseworks.open_casework", open_casework)
    return opened


@pytest.mark.parametrize(
    ("screening", "expected", "waits"),
    [
        ({}, [(False, "openvino"), (True, "auto")], False),
        ({"while_building": "wait"}, [(False, "openvino"), (True, "auto")], True),
        ({"device": "tensorrt"}, [(False, "openvino"), (True, "tensorrt")], True),
        ({"built_engines": False}, [(False, "auto")], False),
        ({"device": "torch"}, [(False, "torch")], False),
        ({"executor": "ray"}, [(True, "auto")], False),
    ],
)
def test_what_is_opened_first_and_what_comes_then(
    builds: list[tuple[bool, str]], screening: dict[str, Any], expected: list[tuple[bool, str]], waits: bool
) -> None:
    configuration = Configuration(screening=ScreeningConfiguration(**screening))
    with open_caseworks(configuration) as at_hand:
        at_hand.wait(LONG)
        assert builds == expected
        assert at_hand._waits is waits
        assert at_hand.now() is not None


def test_a_worker_screens_with_verified_engines_by_default(package_paths: list[Path], tmp_path: Path) -> None:
    told: list[EngineRecord] = []
    screening = ScreeningConfiguration(engine_cache=tmp_path / "engines", precision="f32")
    configuration = Configuration(models=tuple(package_paths), screening=screening)
    with open_caseworks(configuration, told.append) as at_hand:
        first = at_hand.now()
        at_hand.wait(LONG)
        now = at_hand.now()
        assert now is not None
        if first is not now:
            assert first is not None and first.usual.executor.descriptions["jcs"].endswith("CPU, f32")
        assert "classify f32, segment f32" in now.usual.executor.descriptions["jcs"]
    ready = {record.key.graph for record in told if record.state == "ready"}
    assert ready == {"classify", "segment", "slices", "patient"}


def test_a_cache_that_cannot_be_written_costs_speed_not_the_study(
    package_paths: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    screening = ScreeningConfiguration(engine_cache=tmp_path / "file" / "engines")
    configuration = Configuration(models=tuple(package_paths), screening=screening)
    with open_caseworks(configuration) as at_hand:
        at_hand.wait(LONG)
        now = at_hand.now()
        assert now is not None
        assert now.usual.executor.descriptions["jcs"].endswith("CPU, f32")


def test_a_store_that_is_away_does_not_end_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.engine_states import engine_reporter

    class Away:
        def write(self) -> Callable[[], None]:
            raise OperationalError("insert", {}, Exception("away"))

    key = SimpleNamespace(stem="x", package="p", graph="g", precision="f32", backend="openvino")
    engine_reporter(cast(Any, Away()), cast(Any, lambda: None))(EngineRecord(cast(Any, key), "building"))
