"""A whole node as a process, a PACS beside it, and a small simulated study."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_packages import ENGINE_CACHE, SYSTEMS, write_package

from node.phantom import phantom_study, phantom_volume
from node.sending import SendReport, send_folder
from node.stand_in_pacs import PACS, find_orthanc, free_port, open_pacs
from reporting.delivery.scu import PeerUnreachableError, echo
from scp.peer import Peer, Timeouts
from store import migrations, queries
from store.database import Database, open_database
from store.states import StudyState

QUIET = 0.5
ENDED = (StudyState.DELIVERED, StudyState.SKIPPED, StudyState.FAILED)


@dataclass
class RunningNode:
    """`lungnode serve` with a configuration of its own; may be stopped and started again."""

    folder: Path
    settings: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    peer: Peer = field(init=False)

    def __post_init__(self) -> None:
        self.peer = Peer("LUNGNODE", "127.0.0.1", self.settings["listener"]["port"])
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.settings))

    @property
    def log(self) -> str:
        return (self.folder / "node.log").read_text(errors="replace")

    def start(self) -> None:
        program = [sys.executable, "-c", "from node.cli import main; main()", "serve", "-c", "config.yaml"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LUNGNODE_")}
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(program, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.until(self.answers, "the node answers")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the node ended: {self.log}"
        try:
            echo(self.peer, "TEST", Timeouts(1, 2, 2))
        except PeerUnreachableError:
            return False
        return True

    def send(self, folder: Path) -> SendReport:
        return send_folder(folder, self.peer, "SCANNER", advance=lambda sent, total: None)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if answer := condition():
                return answer
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s in vain until {what}; the node says: {self.log}")

    def account(self, uid: str) -> queries.StudyAccount:
        database = self._database()
        try:
            with database.read() as session:
                return queries.why(session, uid)
        finally:
            database.close()

    def states(self) -> dict[str, queries.StudyLine]:
        database = self._database()
        try:
            with database.read() as session:
                return {line.study_instance_uid: line for line in queries.list_studies(session)}
        finally:
            database.close()

    def ended(self, uid: str) -> queries.StudyAccount:
        self.until(lambda: uid in self.states() and self.states()[uid].state in ENDED, f"{uid} ended")
        return self.account(uid)

    def _database(self) -> Database:
        migrations.upgrade(self.settings["database"]["url"])
        return open_database(self.settings["database"]["url"])


@pytest.fixture
def node_for(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """A node that delivers to the given PACS (None: to nobody), not started; stopped at the end of the test."""
    nodes: list[RunningNode] = []

    def make(pacs: PACS | Peer | None, **changes: Any) -> RunningNode:
        folder = tmp_path / f"node-{len(nodes)}"
        folder.mkdir()
        destinations = []
        if pacs is not None:
            destinations = [
                {"name": "pacs", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
            ]
        settings = {
            "listener": {"port": free_port()},
            "storage": {"path": str(folder / "spool"), "reserve_mb": 0},
            "database": {"url": f"sqlite:///{folder}/lungnode.db"},
            "completeness": {"quiet_seconds": QUIET, "max_wait_seconds": 60},
            "destinations": destinations,
            "models": [str(write_package(folder / "models" / system, system)) for system in SYSTEMS],
            "screening": {"engine_cache": str(ENGINE_CACHE)},
            "worker": {"poll_seconds": 0.1, "lease_seconds": 5},
            "delivery": {"poll_seconds": 0.1, "first_retry_seconds": 0.3, "max_retry_seconds": 1},
        }
        nodes.append(RunningNode(folder, settings | changes))
        return nodes[-1]

    yield make
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.stop()


@pytest.fixture(params=["orthanc", "stand-in"])
def pacs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PACS]:
    """A running PACS of either kind."""
    orthanc = request.param == "orthanc"
    if orthanc and find_orthanc() is None:
        pytest.skip("Orthanc is not installed")
    with open_pacs(tmp_path / "pacs", orthanc=orthanc) as running:
        yield running


@dataclass(frozen=True)
class Study:
    """A study on disk."""

    folder: Path
    uid: str
    slices: int


@pytest.fixture
def phantom(tmp_path: Path) -> Callable[..., Study]:
    """Write a small simulated study; every call makes another one."""
    made = []

    def write(slices: int = 64, size: int = 128, ill: bool = True, seed: int = 1) -> Study:
        folder = tmp_path / f"study-{len(made)}"
        folder.mkdir()
        volume = phantom_volume(slices, size, seed=seed, ill=ill)
        for number, instance in enumerate(phantom_study(volume, datetime.datetime(2026, 1, 2, 3, 4, 5))):
            instance.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
        made.append(Study(folder, str(instance.StudyInstanceUID), slices))
        return made[-1]

    return write
