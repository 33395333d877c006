"""Screening on a Ray cluster of several nodes, all on this machine: results, node loss, errors, overhead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_own_models import dense_lung, identity, write_own_package
from tiny_packages import SYSTEMS, write_package

from engine.errors import NotScreenable, RunnerFailed
from engine.findings import Findings
from engine.loading import load_series
from engine.runners.interface import RunnerOptions
from engine.screening import open_systems
from engine.series_choice import SeriesRules
from engine.volume import Volume
from node.executors.local import LocalExecutor
from node.phantom import phantom_study, phantom_volume

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lungnode[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RUNNER = RunnerOptions(threads=1, precision="f32")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("models")
    return tuple(write_package(folder / system, system) for system in SYSTEMS)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    folder = tmp_path_factory.mktemp("ct")
    for number, dataset in enumerate(phantom_study(phantom_volume(200, 192), datetime(2026, 1, 2))):
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return load_series(sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def expected(models: tuple[Path, ...], volume: Volume) -> Findings:
    with LocalExecutor(open_systems(models, RUNNER)) as local:
        return local.screen(volume, SeriesRules())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that runs nothing, and two nodes with room for one actor each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.workers = [found.add_node(num_cpus=1), found.add_node(num_cpus=1)]
    yield found
    ray.shutdown()
    found.shutdown()


def assert_same(one: Findings, other: Findings) -> None:
    np.testing.assert_array_equal(one.lesion_labels, other.lesion_labels)
    np.testing.assert_array_equal(one.lung_mask, other.lung_mask)
    np.testing.assert_array_equal(one.jcs.slice_probabilities, other.jcs.slice_probabilities)
    assert one.lesions == other.lesions
    assert one.m3lung.probabilities == other.m3lung.probabilities
    assert one.lung_involvement_percent == other.lung_involvement_percent


def test_a_node_killed_mid_study_costs_no_study(
    cluster: Any, models: tuple[Path, ...], volume: Volume, expected: Findings
) -> None:
    from node.executors.ray_executor import RayExecutor, RayOptions

    options = RayOptions(cluster.address, actors=2, start_seconds=240)
    with RayExecutor(models, RUNNER, options) as executor:
        until_all_are_ready(executor)
        begun = threading.Barrier(3)

        def one(_: int) -> Findings:
            begun.wait()
            return executor.screen(volume, SeriesRules())

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(one, number) for number in range(2)]
            begun.wait()
            time.sleep(0.4)  # both actors are at work, and a study takes longer than this
            assert not any(study.done() for study in running)
            cluster.remove_node(cluster.workers[0], allow_graceful=False)
            found = [study.result(timeout=300) for study in running]
        for findings in found:
            assert_same(findings, expected)
        assert executor.lost_actors >= 1
        assert_same(executor.screen(volume, SeriesRules()), expected)


def until_all_are_ready(executor: Any) -> None:
    """Use as many actors at once as there are, so that all have started."""
    taken = [executor._take() for _ in range(2)]
    for actor in taken:
        executor._give_back(actor)


def test_what_an_actor_raises_arrives_as_it_was(
    cluster: Any, models: tuple[Path, ...], volume: Volume, expected: Findings
) -> None:
    from node.executors.ray_executor import RayExecutor, RayOptions

    options = RayOptions(cluster.address, actors=1, start_seconds=240)
    with RayExecutor(models, RUNNER, options) as executor:
        with pytest.raises(NotScreenable, match="slices"):
            executor.screen(volume, SeriesRules(min_slices=1000))
        assert_same(executor.screen(volume, SeriesRules()), expected)
        assert executor.lost_actors == 0


def test_own_models_speak_there_as_they_do_here(
    cluster: Any, models: tuple[Path, ...], volume: Volume, tmp_path: Path
) -> None:
    from node.executors.ray_executor import RayExecutor, RayOptions

    own = write_own_package(tmp_path / "dense-lung", identity("N", 1, "H", "W"), **dense_lung())
    with LocalExecutor(open_systems((*models, own), RUNNER)) as local:
        here = local.screen(volume, SeriesRules())
    options = RayOptions(cluster.address, actors=1, start_seconds=240)
    with RayExecutor((*models, own), RUNNER, options) as executor:
        there = executor.screen(volume, SeriesRules())
    assert_same(there, here)
    assert [one.package for one in there.own_models] == [one.package for one in here.own_models] != []
    for one, other in zip(there.own_models, here.own_models, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)


def test_a_cluster_without_room_is_told(cluster: Any, models: tuple[Path, ...]) -> None:
    from node.executors.ray_executor import RayExecutor, RayOptions

    with pytest.raises(RunnerFailed, match=r"asks for 64 CPUs.*the cluster has 2"):
        RayExecutor(models, RUNNER, RayOptions(cluster.address, cpus=64, start_seconds=2))
