"""Ray's own autoscaler with its provider of made-up machines: actors come with the queue, and machines with them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_packages import SYSTEMS, write_package

from engine.loading import load_series
from engine.runners.interface import RunnerOptions
from engine.series_choice import SeriesRules
from engine.volume import Volume
from node.phantom import phantom_study, phantom_volume
from node.stand_in_pacs import free_port

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lungnode[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RUNNER = RunnerOptions(threads=1, precision="f32")
PATIENCE_S = 600.0
CLUSTER: dict[str, Any] = {
    "cluster_name": "tests",
    "max_workers": 2,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 0.1,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "initialization_commands": [],
    "setup_commands": [],
    "rsync_exclude": [],
    "rsync_filter": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "screening": {
            "resources": {"CPU": 1, "object_store_memory": 128 * 2**20},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
}


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """A head without room for an actor, and an autoscaler that makes machines with room for one each; its address."""
    port = free_port()
    provider = CLUSTER["provider"] | {"gcs_address": f"{ray.util.get_node_ip_address()}:{port}"}
    (tmp_path / "cluster.json").write_text(json.dumps(CLUSTER | {"provider": provider}))
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=0"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += [f"--autoscaling-config={tmp_path / 'cluster.json'}", "--include-dashboard=false"]
    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "disabled",  # else a token that lies in the home folder is asked for
        "RAY_FAKE_CLUSTER": "1",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
    try:
        until(lambda: joining(tmp_path / "log") or process.poll() is not None, "the head runs")
        time.sleep(2.0)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield joining(tmp_path / "log")
    finally:
        ray.shutdown()
        end(process)


def joining(log: Path) -> str:
    """The address that Ray says to join at; empty before it does."""
    told = re.search(r"ray start --address='(\S+)'", log.read_text())
    return told[1] if told else ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End what was started, and whatever it has started, and nothing else: `ray stop` would end every Ray."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.2)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / "ct").mkdir()
    for number, dataset in enumerate(phantom_study(phantom_volume(64, 128), datetime(2026, 1, 2))):
        dataset.save_as(tmp_path / "ct" / f"{number}.dcm", enforce_file_format=True)
    return load_series(sorted((tmp_path / "ct").iterdir()))


def machines() -> int:
    """How many machines with room there are."""
    return sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))


def test_actors_and_machines_come_with_the_queue_and_go(head: str, tmp_path: Path, volume: Volume) -> None:
    from node.executors.ray_executor import RayExecutor, RayOptions

    models = [write_package(tmp_path / system, system) for system in SYSTEMS]
    options = RayOptions(head, actors=2, start_seconds=PATIENCE_S, idle_seconds=1.0)
    with RayExecutor(models, RUNNER, options) as executor:
        assert (executor.actors, machines()) == (1, 1)  # there was none before

        def work() -> None:
            executor.screen(volume, SeriesRules())

        with ThreadPoolExecutor(2) as pool:
            until_two = time.monotonic() + PATIENCE_S
            while machines() < 2:  # two studies at a time, until the second machine is there
                assert time.monotonic() < until_two
                for study in [pool.submit(work) for _ in range(2)]:
                    study.result(PATIENCE_S)
        until(lambda: executor.actors == 1, "the actor without work has ended")
        until(lambda: machines() == 1, "its machine is taken away")
        work()
        assert executor.lost_actors == 0
