"""Real PACSs on loopback: Orthanc, and DCMTK's dcmqrscp; and the node's listener that they know."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from node.configuration import Configuration
from node.pacs_services import commitment_service, grounds, report_handler
from node.stand_in_pacs import find_orthanc, free_port
from reporting.delivery.scu import parcel, store
from scp.commitment import CommitmentService
from scp.grounds import Grounds
from scp.listener import Listener
from scp.peer import Peer
from scp.policy import ListenerPolicy
from scp.receipt import Receiver
from store.database import Database, open_database
from store.migrations import upgrade

OURS = "LUNGNODE"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class RealPACS:
    """A PACS on loopback that knows the node by AE title and port. http: of Orthanc's REST interface."""

    peer: Peer
    http: str = ""

    def ask(self, path: str, question: Any = None) -> Any:
        """Orthanc's REST interface."""
        body = None if question is None else json.dumps(question).encode()
        with urllib.request.urlopen(
            urllib.request.Request(self.http + path, data=body), timeout=30
        ) as answer:
            return json.load(answer)

    def keep(self, *paths: Path) -> None:
        """Send files to it."""
        outcomes = list(store(self.peer, [parcel(path) for path in paths], OURS))
        assert all(o.status == 0x0000 for o in outcomes), outcomes


@dataclass(frozen=True)
class Node:
    """The node's listener with its store."""

    database: Database
    storage: Path
    port: int
    service: CommitmentService
    grounds: Grounds
    configuration: Configuration
    receiver: Receiver


def now() -> datetime:
    return datetime.now(UTC)


def await_(condition: Callable[[], Any], seconds: float, message: str) -> None:
    """Wait until something holds; other processes have no clock to turn."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


@pytest.fixture
def until() -> Callable[[Callable[[], Any], float, str], None]:
    return await_


@pytest.fixture
def node_port() -> int:
    return free_port()


@pytest.fixture
def orthanc(tmp_path: Path, node_port: int) -> Iterator[RealPACS]:
    program = find_orthanc()
    if program is None:
        pytest.skip("Orthanc is not installed; on Debian: apt install orthanc orthanc-dicomweb")
    port, http = free_port(), free_port()
    settings = tmp_path / "orthanc.json"
    knows = {
        "AET": OURS,
        "Host": "127.0.0.1",
        "Port": node_port,
        "AllowStorageCommitment": True,
        "AllowGet": True,
        "AllowFind": True,
        "AllowMove": True,
    }
    content = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "Plugins": [str(DICOMWEB)] if DICOMWEB.is_file() else [],
        "HttpPort": http,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomModalities": {"node": knows},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    settings.write_text(json.dumps(content))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(settings)], stdout=log, stderr=subprocess.STDOUT, env={"TCP_NODELAY": "1"}
        )
    pacs = RealPACS(Peer("ORTHANC", "127.0.0.1", port), f"http://127.0.0.1:{http}")
    await_(lambda: _answers(pacs), 60, "Orthanc did not start")
    yield pacs
    process.kill()
    process.wait()


@pytest.fixture
def dcmqrscp(tmp_path: Path, node_port: int) -> Iterator[RealPACS]:
    """DCMTK's query/retrieve SCP."""
    program = shutil.which("dcmqrscp", path="/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("dcmqrscp is not installed; on Debian: apt install dcmtk")
    port = free_port()
    (tmp_path / "qr").mkdir()
    settings = tmp_path / "dcmqrscp.cfg"
    settings.write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
node = ({OURS}, 127.0.0.1, {node_port})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {tmp_path / "qr"} RW (200, 1024mb) ANY
AETable END
"""
    )
    with (tmp_path / "dcmqrscp.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(settings)], stdout=log, stderr=subprocess.STDOUT)
    time.sleep(0.5)
    yield RealPACS(Peer("QRSCP", "127.0.0.1", port))
    process.kill()
    process.wait()


def _answers(pacs: RealPACS) -> bool:
    try:
        return bool(pacs.ask("/system"))
    except OSError:
        return False


@pytest.fixture
def start_node(tmp_path: Path, node_port: int) -> Iterator[Callable[..., Node]]:
    """Start the listener for a PACS; keyword arguments are sections of the configuration."""
    started = []

    def start(pacs: RealPACS, **sections: Any) -> Node:
        url = f"sqlite:///{tmp_path / 'lungnode.db'}"
        upgrade(url)
        database = open_database(url)
        where = {"ae_title": pacs.peer.ae_title, "host": "127.0.0.1", "port": pacs.peer.port}
        configuration = Configuration(
            **{
                "destinations": [{"name": "pacs", **where}],
                "peers": [where],
                "query_source": where,
                "storage": {"path": tmp_path / "storage"},
            }
            | sections
        )
        service = commitment_service(configuration, database, now)
        listener = Listener(
            ListenerPolicy(OURS, port=node_port, reserve_bytes=0, grace_seconds=1.0),
            database,
            tmp_path / "storage",
            now,
            services=[service.as_service(report_handler(configuration, database, now))],
        )
        listener.start()
        started.append((listener, database))
        asking = grounds(configuration, database, listener.receiver, now)
        return Node(
            database, tmp_path / "storage", node_port, service, asking, configuration, listener.receiver
        )

    yield start
    for listener, database in started:
        listener.stop()
        database.close()


@pytest.fixture
def written(tmp_path: Path, ct: Callable[..., Dataset]) -> Callable[..., Path]:
    """Write a CT instance by its number."""

    def write(number: int, **kind: Any) -> Path:
        path = tmp_path / f"{number}.dcm"
        ct(number, **kind).save_as(path, enforce_file_format=True)
        return path

    return write
