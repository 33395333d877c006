"""Executors: what crosses between machines comes back as it was; Ray is imported only when it is asked for."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_packages import SYSTEMS, write_package

from engine.errors import PackageInvalid, RunnerFailed, Undecodable
from engine.findings import Findings, JCSFindings, M3LungFindings, PackageReference, PneumoniaClass
from engine.runners.interface import RunnerOptions
from engine.series_choice import SeriesRules
from engine.volume import Volume
from node.configuration import Configuration, ScreeningConfiguration
from node.executors.selection import open_executor
from node.executors.shipping import packed_package, unpacked_package
from node.stand_in_pacs import free_port


def findings(labels: np.ndarray, lungs: np.ndarray) -> Findings:
    """Findings with these masks."""
    count = len(labels)
    maps = np.zeros((count, 4, 4), dtype=np.float32)
    jcs = PackageReference("jcs-tiny", "1.0.0", "jcs", "0" * 64)
    return Findings(
        jcs=JCSFindings(jcs, True, 3, 2.0, "absolute", False, maps[:, 0, 0], maps),
        m3lung=M3LungFindings(
            replace(jcs, name="m3lung-tiny", system="m3lung"),
            PneumoniaClass.CAP,
            (0.1, 0.2, 0.3, 0.4),
            maps[:, 0],
            maps[:, 0, 0],
            maps,
        ),
        lesion_labels=labels,
        lesions=(),
        lung_mask=lungs,
        lesion_volume_ml=1.0,
        lung_volume_ml=2.0,
        lung_involvement_percent=50.0,
        key_slices=(0,),
        timings_s={"lungs": 0.5},
    )


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    filled=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_masks_arrive_as_they_were(shape: tuple[int, int, int], filled: float, seed: int) -> None:
    chance = np.random.default_rng(seed)
    labels = np.where(chance.random(shape) < filled, chance.integers(1, 9, shape), 0).astype(np.uint16)
    sent = findings(labels, chance.random(shape) < 0.5)
    arrived = pickle.loads(pickle.dumps(sent))
    assert arrived.lesion_labels.dtype == np.uint16
    assert arrived.lung_mask.dtype == np.bool_
    np.testing.assert_array_equal(arrived.lesion_labels, sent.lesion_labels)
    np.testing.assert_array_equal(arrived.lung_mask, sent.lung_mask)
    assert arrived.m3lung.probabilities == sent.m3lung.probabilities
    assert arrived.lung_involvement_percent == sent.lung_involvement_percent


def test_hardly_anything_is_sent_for_an_empty_mask() -> None:
    empty = np.zeros((64, 128, 128), dtype=np.uint16)
    maps = findings(empty[:, :1, :1], empty[:, :1, :1] > 0)
    both = len(pickle.dumps(findings(empty, empty > 0))) - len(pickle.dumps(maps))
    assert both <= empty.size / 1000


def test_a_package_arrives_with_all_its_files(tmp_path: Path) -> None:
    package = write_package(tmp_path / "here" / "jcs", "jcs")
    there = tmp_path / "there"
    there.mkdir()
    arrived = unpacked_package(packed_package(package), there)
    assert {f.name: f.read_bytes() for f in arrived.iterdir()} == {
        f.name: f.read_bytes() for f in package.iterdir()
    }


def test_a_package_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PackageInvalid, match="cannot be read"):
        packed_package(tmp_path / "none")


def test_the_usual_executor_screens_here(tmp_path: Path) -> None:
    models = tuple(write_package(tmp_path / system, system) for system in SYSTEMS)
    with open_executor(models, RunnerOptions(), Configuration(models=models)) as executor:
        assert [package.system for package in executor.packages] == ["jcs", "m3lung"]
        assert "OpenVINO" in executor.descriptions["jcs"]


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "node.executors.ray_executor", raising=False)
    wanted = Configuration(screening=ScreeningConfiguration(executor="ray"))
    with pytest.raises(RunnerFailed, match=r"lungnode\[ray\]"):
        open_executor(wanted.models, RunnerOptions(), wanted)


def test_a_head_that_does_not_answer_is_told() -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'lungnode[ray]'")
    from node.cli import _PASSING
    from node.executors.ray_executor import ClusterAway, RayExecutor, RayOptions

    assert ClusterAway.__name__ in _PASSING  # else a service manager would not start the worker again
    with pytest.raises(ClusterAway, match=r"Ray at 127\.0\.0\.1:\d+: .*start it, or set ray\.address"):
        RayExecutor((), RunnerOptions(), RayOptions(f"127.0.0.1:{free_port()}", start_seconds=0.1))


def test_a_study_that_cannot_be_decoded_keeps_no_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'lungnode[ray]'")
    from node.executors import ray_executor

    class Damaged:
        def whole(self) -> Volume:
            raise Undecodable("slice 7 cannot be decoded")

    handle = SimpleNamespace(equipment=SimpleNamespace(remote=lambda: "answer"))
    cluster = SimpleNamespace(
        is_initialized=lambda: True,
        put=lambda value: value,
        remote=lambda kind: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: handle)),
        wait=lambda answers, **_: (answers, []),
        get=lambda answer: ray_executor.Equipment((), {}),
        shutdown=lambda: None,
    )
    monkeypatch.setattr(ray_executor, "ray", cluster)
    with ray_executor.RayExecutor((), RunnerOptions(), ray_executor.RayOptions(actors=1)) as executor:
        for _ in range(2):
            with pytest.raises(Undecodable):
                executor.screen(Damaged(), SeriesRules())  # type: ignore[arg-type]
            assert not executor._busy, "with the only actor gone the next study would wait for ever"


def test_ray_is_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, node.executors.selection; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
