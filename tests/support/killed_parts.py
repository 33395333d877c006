"""A node as real processes that are killed, and the account of what of its studies was lost or doubled.

Its parts may run on several machines, each with a folder and a network of its own.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import select

from node.stand_in_pacs import StorageSCP
from store.database import Database
from store.models import Delivery, Instance, Result, Revision, Screening, Study
from store.states import StudyState

PROGRAM = Path(__file__).resolve().parents[1] / "kill" / "dying_part.py"
ENDED = (StudyState.DELIVERED, StudyState.SKIPPED, StudyState.FAILED)
MODELS = Path(__file__).resolve().parents[2] / "models"
PATIENCE_S = 240.0
TABLE = ("<!-- kill table: begin -->", "<!-- kill table: end -->")


@dataclass(frozen=True)
class Edge:
    """Where a part gets its signal: before or after the nth call of a function."""

    function: str
    when: str
    nth: int = 1
    signal: int = signal.SIGKILL


@dataclass
class Tally:
    """One row of the table."""

    fault: str
    done: str
    store: str
    tried: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0


@dataclass(frozen=True)
class Machine:
    """Where a part runs. folder: with its config.yaml and its storage. entry: the command that goes there."""

    folder: Path
    host: str = "127.0.0.1"
    entry: tuple[str, ...] = ()

    def content(self, path: str) -> bytes | None:
        """A file of its storage."""
        file = self.folder / "storage" / path
        return file.read_bytes() if file.is_file() else None


@dataclass
class World:
    """Listener, worker and delivery as processes, and what was sent to them.

    machines: those beside this one, by name; a part whose name ends in @NAME runs there.
    """

    folder: Path
    pacs: StorageSCP
    pacs_folder: Path
    port: int
    database: Database
    store: str
    rows: dict[tuple[str, str], Tally]
    new_database: Callable[[], str]
    machines: dict[str, Machine] = field(default_factory=dict)
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    armed: set[str] = field(default_factory=set)

    def tally(self, fault: str, done: str) -> Tally:
        """The row of a fault in the table."""
        return self.rows.setdefault((fault, self.store), Tally(fault, done, self.store))

    @property
    def here(self) -> Machine:
        """This machine."""
        return Machine(self.folder)

    def content(self, path: str) -> bytes | None:
        """What there is of a received instance, wherever it lies."""
        return self.here.content(path)

    def hosts(self) -> Iterator[str]:
        """Whom senders send to, in turn."""
        return itertools.cycle([machine.host for machine in self.machines.values()] or ["127.0.0.1"])

    def start(self, part: str, edge: Edge | None = None, name: str | None = None) -> None:
        """Start a part and wait until it is ready, or dead at its edge."""
        arguments = [] if edge is None else [edge.function, edge.when, str(edge.nth), str(int(edge.signal))]
        part, _, where = part.partition("@")
        place = self.machines.get(where, self.here)
        name = name or (f"{part}@{where}" if where else part)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *place.entry,
                    sys.executable,
                    str(PROGRAM),
                    part,
                    str(place.folder / "config.yaml"),
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.parts[name] = process
        if edge is not None:
            self.armed.add(name)
        ready = place.folder / f"{part}-{process.pid}.ready"
        self.until(lambda: ready.exists() or process.poll() is not None, f"{part} is ready")

    def run(self, *names: str) -> None:
        """Let exactly these parts run, none of them with an edge to die at."""
        for name in [n for n in self.parts if n not in names or n in self.armed]:
            self.stop(name)
        for name in names:
            if name not in self.parts:
                self.start(name)

    def is_ready(self, part: str) -> bool:
        """Whether a part runs and has said that it is ready."""
        process = self.parts.get(part)
        if process is None or process.poll() is not None:
            return False
        kind, _, where = part.partition("@")
        return (self.machines.get(where, self.here).folder / f"{kind}-{process.pid}.ready").exists()

    def stop(self, name: str) -> None:
        """Stop a part as an admin would."""
        process = self.parts.pop(name)
        self.armed.discard(name)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def revive(self) -> None:
        """Start every part again that was killed, as a service manager would. Another end is an error."""
        for name, process in list(self.parts.items()):
            code = process.poll()
            if code is None:
                continue
            assert code == -signal.SIGKILL, f"{name} ended with {code}: {self.log()}"
            self.deaths[name] += 1
            self.armed.discard(name)
            self.start(name)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain until {what}: {self.log()}"
            time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-6000:]

    def send(self, instances: list[Dataset]) -> None:
        """Send as a PACS does: what is not acknowledged is sent again until it is."""
        hosts = self.hosts()
        shares = [instances[n :: max(1, len(self.machines))] for n in range(max(1, len(self.machines)))]
        deadline = time.monotonic() + PATIENCE_S
        for share in shares:
            waiting = list(share)
            while waiting:
                assert time.monotonic() < deadline, f"not acknowledged: {len(waiting)}; {self.log()}"
                self.revive()
                waiting = self._send_once(waiting, next(hosts))

    def _send_once(self, waiting: list[Dataset], host: str) -> list[Dataset]:
        ae = AE("SENDER")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        association = ae.associate(host, self.port, ae_title="LUNGNODE")
        for position, instance in enumerate(waiting):
            if not association.is_established:
                return waiting[position:]
            try:
                status = association.send_c_store(instance).get("Status")
            except RuntimeError:
                return waiting[position:]
            if status == 0x0000:
                self.acknowledged.add(str(instance.SOPInstanceUID))
            elif status is None:
                return waiting[position:]
        if association.is_established:
            association.release()
        return [i for i in waiting if str(i.SOPInstanceUID) not in self.acknowledged]

    def await_end(self, study: str) -> None:
        """Wait until a study has ended, whatever dies on the way."""

        def ended() -> bool:
            self.revive()
            with self.database.read() as session:
                return session.scalar(select(Study.state).where(Study.study_instance_uid == study)) in ENDED

        self.until(ended, f"study {study} ended")

    def await_death(self, part: str, before: int) -> None:
        """Wait until a part has died once more than `before` times: a fault that was not met proves nothing."""

        def died() -> bool:
            self.revive()
            return self.deaths[part] > before

        self.until(died, f"the {part} dies at its edge")

    def outlive_random_kills(
        self, parts: Sequence[str], studies: Sequence[tuple[str, list[Dataset]]], tally: Tally, seed: int
    ) -> None:
        """Send studies, and kill any of the parts at random times until all have ended: twice as often as studies."""
        chance = random.Random(seed)
        self.run(*parts)
        before = self.deaths.total()
        over = threading.Event()

        def killer() -> None:
            kills = 0
            while kills < 2 * len(studies) and not over.wait(chance.uniform(0.0, 1.0)):
                part = chance.choice(parts)
                if self.is_ready(part):  # killed while it starts it would never come to anything
                    self.parts[part].kill()
                    kills += 1

        thread = threading.Thread(target=killer)
        thread.start()
        try:
            for _, instances in studies:
                self.send(instances)
            for uid, _ in studies:
                self.await_end(uid)
        finally:
            over.set()
            thread.join()
        for uid, instances in studies:
            self.await_end(uid)
            self.check(uid, instances, tally)
        assert self.deaths.total() > before, f"nothing was killed with seed {seed}"

    def check(self, study: str, sent: list[Dataset], tally: Tally) -> None:
        """Count what of a study is lost or doubled, and fail where anything is."""
        acknowledged = {str(i.SOPInstanceUID) for i in sent} & self.acknowledged
        lost = acknowledged - self._safe()
        doubled = self._doubled(study)
        tally.tried += 1
        tally.acknowledged += len(acknowledged)
        tally.lost += len(lost)
        tally.doubled += len(doubled)
        assert not lost, f"acknowledged and lost: {lost}"
        assert not doubled, f"doubled: {doubled}"
        with self.database.read() as session:
            row = session.scalars(select(Study).where(Study.study_instance_uid == study)).one()
            assert row.state is StudyState.DELIVERED, row.reason
            assert row.instance_count == len(sent)
            results = set(
                session.scalars(
                    select(Result.sop_instance_uid)
                    .join(Delivery, Delivery.result_id == Result.id)
                    .join(Screening, Screening.id == Result.screening_id)
                    .join(Revision, Revision.id == Screening.revision_id)
                    .where(Revision.study_id == row.id)
                )
            )
        held = {str(item.sop_instance_uid) for item in self.pacs.instances(study)}
        assert held == results, "the PACS holds other objects than were to be delivered"

    def _safe(self) -> set[str]:
        """UIDs of instances whose row is there and whose file has the content that the row says."""
        with self.database.read() as session:
            rows = session.execute(select(Instance.sop_instance_uid, Instance.path, Instance.sha256)).all()
        return {
            uid
            for uid, path, sha256 in rows
            if (content := self.content(path)) is not None and hashlib.sha256(content).hexdigest() == sha256
        }

    def _doubled(self, study: str) -> list[str]:
        """Kinds of object of which a revision has more than one, in the store."""
        with self.database.read() as session:
            rows = session.execute(
                select(Revision.number, Result.kind)
                .join(Screening, Screening.id == Result.screening_id)
                .join(Revision, Revision.id == Screening.revision_id)
                .join(Study, Study.id == Revision.study_id)
                .where(Study.study_instance_uid == study)
            ).all()
        return [f"{kind} of revision {number}" for (number, kind), n in Counter(rows).items() if n > 1]


def settings_of(folder: Path, url: str, port: int, pacs: StorageSCP) -> dict[str, Any]:
    """The configuration of a node that is killed: short waiting times, both compact packages."""
    destination = {
        "name": "pacs",
        "ae_title": pacs.ae_title,
        "host": "127.0.0.1",
        "port": pacs.port,
        "commitment": {"ask": "off"},
    }
    return {
        "listener": {"port": port, "share_port": True},
        "storage": {"path": str(folder / "storage"), "reserve_mb": 0},
        "database": {"url": url},
        "completeness": {"quiet_seconds": 1.0, "max_wait_seconds": 60},
        "destinations": [destination],
        "models": [str(MODELS / "jcs-compact"), str(MODELS / "m3lung-compact")],
        "worker": {"poll_seconds": 0.05, "lease_seconds": 4, "max_attempts": 5},
        "delivery": {"poll_seconds": 0.05, "first_retry_seconds": 0.2, "max_retry_seconds": 1},
    }


def a_slice(study: str, number: int, size: int) -> Dataset:
    """A CT slice of noise."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = f"{study[:58]}.1"
    dataset.SOPInstanceUID = f"{study[:56]}.1.{number}"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientID = "4711"
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [0, 0, number]
    dataset.Rows = dataset.Columns = size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    pixels = np.random.default_rng(number).integers(0, 2000, (size, size), dtype=np.int16)
    dataset.PixelData = pixels.tobytes()
    return dataset


def write_table(path: Path, rows: dict[tuple[str, str], Tally]) -> None:
    """Write the rows of this session into the table; rows of tests that did not run stay."""
    head = (
        "| fault | what was done | store | times tried | instances acknowledged | lost | results doubled |\n"
        "|---|---|---|--:|--:|--:|--:|\n"
    )
    begin, end = TABLE
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    table, after = rest.split(end)
    lines = {}
    for line in [line for line in table.splitlines()[3:] if line.startswith("|")]:
        fault, _, store, *_ = [cell.strip() for cell in line.split("|")[1:-1]]
        lines[fault, store] = line
    for key, row in rows.items():
        numbers = f"{row.tried} | {row.acknowledged} | {row.lost} | {row.doubled}"
        lines[key] = f"| {row.fault} | {row.done} | {row.store} | {numbers} |"
    body = "".join(f"{line}\n" for line in lines.values())
    path.write_text(f"{before}{begin}\n{head}{body}{end}{after}", encoding="utf-8")
