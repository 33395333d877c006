"""Engines that are built are seen in the store."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tiny_packages import write_package

from engine.build_process import BuildJob
from engine.builder import BuiltContent, EngineBuilder
from engine.engine_cache import EngineCache
from engine.errors import RunnerFailed
from engine.packages import read_package
from engine.recipes import Recipe
from node.engine_states import engine_reporter
from store import engines, migrations
from store.database import open_database

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def _build(job: BuildJob, timeout_s: float) -> BuiltContent:
    if job.precision == "bf16":
        raise RunnerFailed("no memory")
    return BuiltContent(b"engine", ())


def test_a_failed_build_and_the_one_that_follows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrations.upgrade(url)
    database = open_database(url)
    recipe = Recipe(backend="openvino", version=1, precisions=("bf16", "f32"), tolerances={})
    package = read_package(write_package(tmp_path / "jcs", "jcs"))
    builder = EngineBuilder(
        recipe, EngineCache(tmp_path / "cache"), engine_reporter(database, lambda: NOW), _build
    )
    for precision in ("bf16", "f32"):
        builder.ensure(package, "classify", precision)  # type: ignore[arg-type]
    with database.read() as session:
        found = {e.news.precision: e for e in engines.known(session)}
    database.close()
    assert found["f32"].news.state == "ready"
    if "bf16" in found:  # a processor without bfloat16 does not try it
        assert (found["bf16"].news.state, found["bf16"].news.why) == ("failed", "no memory")
        assert found["bf16"].failures == 1
    assert {(e.news.package, e.news.graph) for e in found.values()} == {("jcs-tiny", "classify")}
