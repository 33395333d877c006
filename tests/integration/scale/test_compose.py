"""The compose example without a container engine: its services as plain processes, each in a network and with volumes
of its own, with the commands, the environment and the configuration that the file gives them. One study goes through.

Other than with an engine: PostgreSQL and the object store are the tests' own at the names that the file gives them,
the programs are those of this checkout, and a destination is added.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from postgresql_server import NoServer, started_server
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from s3_server import NoServer as NoS3
from s3_server import started_s3
from sqlalchemy import create_engine, select, text

from node.phantom import phantom_study, phantom_volume
from node.stand_in_pacs import StorageSCP
from store.database import Database, open_database
from store.models import Instance, Screening, Study
from store.states import StudyState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[3]
SCALED = ROOT / "packaging" / "scaled"
NETWORK = "10.214.0"
PATIENCE_S = 1500.0
SECRETS = {"LUNGNODE_DB_PASSWORD": "secret", "LUNGNODE_S3_SECRET": "secretsecret"}
OUTSIDE = ("postgresql", "objects")
"""Services that the tests provide."""
PRELUDE = """
set -e
mount --make-rprivate /
mount --bind "$HOSTS" /etc/hosts
mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/lungnode && mount --bind "$VOLUME" /var/lib/lungnode
mount -t tmpfs tmpfs /opt && mkdir -p /opt/lungnode/share/lungnode/models
mount --bind "$MODELS" /opt/lungnode/share/lungnode/models
exec "$@"
"""


@dataclass
class Network:
    """Addresses of the services on one bridge, by name; this machine is on it, too."""

    folder: Path
    bridge: str
    addresses: dict[str, str] = field(default_factory=dict)

    def host(self, name: str) -> str:
        """The address of a service, given out at the first asking."""
        return self.addresses.setdefault(name, f"{NETWORK}.{len(self.addresses) + 1}")

    @property
    def hosts_file(self) -> Path:
        """All names, as a container sees them."""
        file = self.folder / "hosts"
        file.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in self.addresses.items()))
        return file


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A bridge; skipped where none can be made."""
    made = Network(tmp_path, f"lnb{os.getpid() % 100_000}")
    try:
        ip("link", "add", made.bridge, "type", "bridge")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"networks cannot be made here: {error}")
    for name in OUTSIDE:
        ip("addr", "add", f"{made.host(name)}/24", "dev", made.bridge)
    ip("link", "set", made.bridge, "up")
    yield made
    ip("link", "del", made.bridge)


@contextmanager
def space(network: Network, name: str) -> Iterator[str]:
    """A network namespace for one service."""
    number = network.host(name).rpartition(".")[2]
    made, cable = f"{network.bridge}-{name}", f"lnc{os.getpid() % 10_000}n{number}"
    ip("netns", "add", made)
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", made)
        ip("link", "set", cable, "master", network.bridge, "up")
        ip("-n", made, "addr", "add", f"{network.host(name)}/24", "dev", "eth0")
        ip("-n", made, "link", "set", "eth0", "up")
        ip("-n", made, "link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", made], capture_output=True, check=False)


def environment(service: dict[str, Any], destination: list[dict[str, Any]]) -> dict[str, str]:
    """What the file gives the service, with its variables set and the configuration where it lies here."""
    given = {
        key: re.sub(r"\$\{(\w+)[^}]*\}", lambda m: SECRETS[m[1]], str(value))
        for key, value in service.get("environment", {}).items()
    }
    (configuration,) = [v for v in service["volumes"] if v.startswith("./")]
    host, inside, _ = configuration.split(":")
    assert given["LUNGNODE_CONFIG"] == inside
    return given | {
        "LUNGNODE_CONFIG": str(SCALED / host),
        "LUNGNODE_DESTINATIONS": json.dumps(destination),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


@dataclass
class Composition:
    """The running services."""

    network: Network
    services: dict[str, Any]
    destination: list[dict[str, Any]]
    opened: ExitStack
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, copy: str) -> subprocess.Popen[bytes]:
        """Start one replica of a service."""
        service = self.services[name]
        volume = self.network.folder / copy
        volume.mkdir()
        inside = self.opened.enter_context(space(self.network, copy))
        program = [*("ip", "netns", "exec", inside, "unshare", "--mount", "sh", "-c", PRELUDE, "sh")]
        mounts = {
            "HOSTS": str(self.network.hosts_file),
            "VOLUME": str(volume),
            "MODELS": str(ROOT / "models"),
        }
        with (self.network.folder / f"{copy}.log").open("wb") as log:
            self.running[copy] = subprocess.Popen(
                [*program, *service["command"]],
                env=environment(service, self.destination) | mounts,
                stdout=log,
                stderr=log,
            )
        self.opened.callback(self.stop, copy)
        return self.running[copy]

    def stop(self, copy: str) -> None:
        process = self.running[copy]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            for copy, process in self.running.items():
                assert process.poll() in (None, 0), f"{copy}: {self.log(copy)}"
            assert time.monotonic() < deadline, f"waited in vain until {what}: {self.logs()}"
            time.sleep(0.2)

    def log(self, copy: str) -> str:
        return (self.network.folder / f"{copy}.log").read_text(errors="replace")[-1500:]

    def logs(self) -> str:
        return "\n".join(f"{copy}: {self.log(copy)}" for copy in self.running)


@pytest.fixture
def composition(network: Network) -> Iterator[tuple[Composition, Database, StorageSCP]]:
    """Every service of the file that is lungnode's, as often as it says; PostgreSQL, S3 and a PACS beside them."""
    services = yaml.safe_load((SCALED / "compose.yaml").read_text())["services"]
    with ExitStack() as opened:
        database_host, objects_host = (network.host(name) for name in OUTSIDE)
        try:
            server = opened.enter_context(started_server((database_host,)))
            opened.enter_context(started_s3(objects_host, 9000))
        except (NoServer, NoS3) as error:
            pytest.skip(str(error))
        with create_engine(server.url, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE lungnode"))
        pacs = opened.enter_context(StorageSCP(network.folder / "pacs", host=objects_host))
        destination = [
            {
                "name": "pacs",
                "ae_title": pacs.ae_title,
                "host": objects_host,
                "port": pacs.port,
                "commitment": {"ask": "off"},
            }
        ]
        for name, service in services.items():
            for number in range(service.get("deploy", {}).get("replicas", 1)):
                network.host(name if number == 0 else f"{name}-{number}")
        made = Composition(network, services, destination, opened)
        assert made.start("bucket", "bucket").wait(PATIENCE_S) == 0, made.log("bucket")
        for name, service in services.items():
            if service.get("image", "").startswith("localhost/lungnode") and name != "bucket":
                for number in range(service.get("deploy", {}).get("replicas", 1)):
                    made.start(name, name if number == 0 else f"{name}-{number}")
        url = server.url.replace("/postgres?", "/lungnode?")
        made.until(lambda: is_current(url), "the schema is there")
        database = open_database(url)
        opened.callback(database.close)
        yield made, database, pacs


def is_current(url: str) -> bool:
    with suppress(Exception), create_engine(url).connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM alembic_version")))
    return False


def send(host: str, instances: list[Dataset]) -> None:
    ae = AE("SENDER")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate(host, 11112, ae_title="LUNGNODE")
    assert association.is_established
    assert {association.send_c_store(instance).Status for instance in instances} == {0}
    association.release()


def accepts(host: str) -> bool:
    """Whether somebody takes connections; opened and closed, as the balancer's own check does."""
    with suppress(OSError):
        socket.create_connection((host, 11112), timeout=5).close()
        return True
    return False


def answers(url: str) -> bool:
    with suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


def is_balanced(composition: Composition) -> bool:
    """HAProxy with the file's configuration, where it is installed; whether it is."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        return False
    composition.services["balancer"] |= {
        "command": [program, "-db", "-f", str(SCALED / "haproxy.cfg")],
        "environment": composition.services["listener-1"]["environment"],
        "volumes": composition.services["listener-1"]["volumes"],
    }
    composition.start("balancer", "balancer")
    return True


def test_one_study_through_the_composition(composition: tuple[Composition, Database, StorageSCP]) -> None:
    made, database, pacs = composition
    expected = {"listener-1", "listener-2", "worker", "worker-1", "worker-2", "delivery", "web"}
    assert set(made.running) - {"bucket"} == expected
    made.until(
        lambda: answers(f"http://{made.network.host('web')}:8080/readyz"), "the page says that all is ready"
    )
    instances = list(phantom_study(phantom_volume(64, 128, seed=3), datetime(2026, 1, 2, 3, 4, 5)))
    uid = str(instances[0].StudyInstanceUID)
    hosts = ["listener-1", "listener-2"]
    if is_balanced(made):
        hosts = ["balancer", "balancer"]
        made.until(lambda: accepts(made.network.host("balancer")), "HAProxy listens")
    for host, share in zip(hosts, (instances[::2], instances[1::2]), strict=True):
        send(made.network.host(host), share)

    def state() -> StudyState | None:
        with database.read() as session:
            return session.scalar(select(Study.state).where(Study.study_instance_uid == uid))

    made.until(
        lambda: state() in (StudyState.DELIVERED, StudyState.FAILED, StudyState.SKIPPED), "the study ended"
    )
    assert state() is StudyState.DELIVERED, made.logs()
    assert {item.modality for item in pacs.instances(uid)} >= {"SEG", "SR"}
    with database.read() as session:
        assert session.scalars(select(Instance.held_by)).all() == [None] * len(instances)
        assert session.scalars(select(Screening.worker)).one().startswith("worker-")
