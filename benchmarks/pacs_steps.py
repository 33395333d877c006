"""What asking the PACS is worth: the steps of a study against Orthanc, with and without a query source.

python -P benchmarks/pacs_steps.py [--slices 120] [--only prior]

Starts Orthanc and `lungnode serve` on loopback for each case, sends a simulated phantom to both, and prints when each
step came, counted from the release of the last association that brought images. In the last case Orthanc has a prior
of the patient, which the node fetches, screens and compares with.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import yaml
from sqlalchemy import select

from node.phantom import phantom_study, phantom_volume
from node.stand_in_pacs import find_orthanc, free_port
from reporting.delivery.scu import PeerUnreachableError, echo, parcel, store
from scp.peer import Peer
from store import queries
from store.database import open_database
from store.models import AssociationRecord
from store.states import DeliveryState, StudyState

ENDED = (StudyState.DELIVERED, StudyState.FAILED, StudyState.SKIPPED)


@dataclass(frozen=True)
class Case:
    """One way to run. retrieve: None without a query source. withheld: images that the node is not sent.

    prior: whether Orthanc has a prior that is to be fetched.
    """

    name: str
    retrieve: str | None
    withheld: int = 0
    prior: bool = False

    def is_over(self, account: queries.StudyAccount) -> bool:
        """Whether nothing more is to come."""
        if self.prior:
            return any("compared with the prior" in entry.what for entry in account.history)
        return account.study.state in ENDED


CASES = (
    Case("no query source", None),
    Case("query source, all images sent", "get"),
    Case("query source, 20 images not sent: C-GET", "get", withheld=20),
    Case("query source, 20 images not sent: C-MOVE", "move", withheld=20),
    Case("query source, a prior in the PACS: C-GET", "get", prior=True),
)


def main() -> None:
    """Run every case and print its account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=120)
    parser.add_argument("--only", default="", help="only the cases whose name has this")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lungnode-pacs-") as name:
        images = Path(name) / "images"
        images.mkdir()
        volume = phantom_volume(arguments.slices)
        for number, case in enumerate(CASES):
            if arguments.only not in case.name:
                continue
            now = datetime.now()
            study = _write(images / f"{number}", volume, now)
            prior = _write(images / f"{number}-prior", volume, now - timedelta(days=30)) if case.prior else []
            print(f"\n{case.name}, load {os.getloadavg()[0]:.1f}", flush=True)
            for line in _run(case, study, prior, Path(name) / f"case{number}"):
                print(f"  {line}", flush=True)


def _write(folder: Path, volume: Any, taken: datetime) -> list[Path]:
    folder.mkdir()
    paths = []
    for number, instance in enumerate(phantom_study(volume, taken)):
        paths.append(folder / f"{number:04}.dcm")
        instance.save_as(paths[-1], enforce_file_format=True)
    return paths


def _run(case: Case, study: list[Path], prior: list[Path], folder: Path) -> Iterator[str]:
    folder.mkdir()
    ports = {"node": free_port(), "pacs": free_port(), "http": free_port()}
    with _orthanc(folder, ports), _node(case, folder, ports):
        _send(Peer("ORTHANC", "127.0.0.1", ports["pacs"]), prior + study)
        kept = len(study) - case.withheld
        _send(Peer("LUNGNODE", "127.0.0.1", ports["node"]), study[:kept])
        yield from _account(case, folder, str(pydicom.dcmread(study[0]).StudyInstanceUID))


def _send(peer: Peer, paths: list[Path]) -> None:
    outcomes = list(store(peer, [parcel(path) for path in paths], "SCANNER"))
    refused = [o for o in outcomes if o.status != 0x0000]
    if refused:
        raise SystemExit(f"{peer} refused {len(refused)} of {len(paths)}: {refused[0].reason}")


def _account(case: Case, folder: Path, study: str) -> Iterator[str]:
    database = open_database(f"sqlite:///{folder}/lungnode.db")
    deadline = time.monotonic() + 600
    while True:
        with database.read() as session:
            account = queries.why(session, study)
            released = session.scalar(
                select(AssociationRecord.closed_at).order_by(AssociationRecord.id).limit(1)
            )
        if case.is_over(account) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    database.close()
    for entry in account.history:
        if released is not None:
            yield f"{(entry.at - released).total_seconds():+8.2f} s  {entry.who.partition('-')[0]}: {entry.what}"
    for delivery in account.deliveries:
        if delivery.state is DeliveryState.DELIVERED and delivery.delivered_at and released:
            after = (delivery.delivered_at - released).total_seconds()
            yield f"{after:+8.2f} s  {delivery.kind} kept: {delivery.last_error or 'committed to'}"


@contextmanager
def _orthanc(folder: Path, ports: dict[str, int]) -> Iterator[None]:
    program = find_orthanc()
    if program is None:
        raise SystemExit("Orthanc is not installed; on Debian: apt install orthanc")
    node = {"AET": "LUNGNODE", "Host": "127.0.0.1", "Port": ports["node"], "AllowStorageCommitment": True}
    content = {
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "Plugins": [],
        "HttpPort": ports["http"],
        "RemoteAccessAllowed": False,
        "DicomAet": "ORTHANC",
        "DicomPort": ports["pacs"],
        "DicomModalities": {"node": node | {"AllowGet": True, "AllowFind": True, "AllowMove": True}},
    }
    (folder / "orthanc.json").write_text(json.dumps(content))
    with (folder / "orthanc.log").open("wb") as log:
        environment = {**os.environ, "TCP_NODELAY": "1"}
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=log, stderr=log, env=environment
        )
    try:
        _until(lambda: bool(urllib.request.urlopen(f"http://127.0.0.1:{ports['http']}/system", timeout=5)))
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _node(case: Case, folder: Path, ports: dict[str, int]) -> Iterator[None]:
    where = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": ports["pacs"]}
    settings = {
        "listener": {"port": ports["node"]},
        "storage": {"path": "spool"},
        "database": {"url": "sqlite:///lungnode.db"},
        "destinations": [{"name": "pacs", **where}],
        "query_source": None if case.retrieve is None else where | {"retrieve": case.retrieve},
        "priors": {"fetch": case.prior},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    program = [sys.executable, "-c", "from node.cli import main; main()", "serve", "-c", "config.yaml"]
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log, cwd=folder)
    try:
        _until(lambda: _answers(Peer("LUNGNODE", "127.0.0.1", ports["node"])))
        _until(lambda: "worker ready" in (folder / "node.log").read_text())
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(peer: Peer) -> bool:
    echo(peer, "SCANNER")
    return True


def _until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until `condition` holds; a server that does not answer yet is asked again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, PeerUnreachableError):
            pass
        time.sleep(0.1)
    raise SystemExit("a server did not start")


if __name__ == "__main__":
    main()
