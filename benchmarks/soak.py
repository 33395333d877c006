"""A mixed load for minutes: `python benchmarks/soak.py [--minutes 10]`, or `make soak MINUTES=10`.

The whole node (`lungnode serve`, the packages of `models/`) and a PACS on loopback. Small phantom studies come whole,
twice, or with late slices; between them data sets that cannot be filed. In the end: what was acknowledged, lost and
doubled, and what each process needed at the beginning, every minute and at the end. Exits with 1 where anything was
lost or doubled.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.presentation import build_context
from sqlalchemy import func, select

from node.phantom import phantom_study, phantom_volume
from node.stand_in_pacs import StorageSCP, free_port
from reporting.delivery.scu import PeerUnreachableError, echo
from scp.peer import Peer
from scp.requesting import associate, released
from store import processes, queries
from store.database import Database, open_database
from store.models import Delivery, Instance, Result, Screening, Transition
from store.states import StudyState

MODELS = Path(__file__).resolve().parents[1] / "models"
UNFINISHED = (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.SCREENING, StudyState.DELIVERING)
SLICES, SIZE = 64, 128


@dataclass
class Load:
    """What was sent and answered."""

    acknowledged: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    refused: int = 0


@dataclass(frozen=True)
class Needs:
    """What a process needs: resident memory in MiB and how much of it is no mapped file, open files, threads."""

    memory: int
    anonymous: int
    files: int
    threads: int

    def __str__(self) -> str:
        return f"{self.memory} MiB ({self.anonymous} anonymous), {self.files} files, {self.threads} threads"


@dataclass
class Course:
    """Prints what the processes need once a minute, when it is looked at."""

    database: Database
    began: float = field(default_factory=time.monotonic)
    minutes: int = 0

    def look(self) -> None:
        """Print a line where the next minute is over."""
        passed = int((time.monotonic() - self.began) / 60)
        if passed <= self.minutes:
            return
        self.minutes = passed
        with self.database.read() as session:
            ended = queries.counts_by_state(session)[StudyState.DELIVERED]
        each = ", ".join(f"{name.partition('-')[0]} {now}" for name, now in needs(self.database).items())
        print(f"minute {passed:3}, {ended:3} studies delivered: {each}", flush=True)


def main() -> None:
    """Run the load and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name, StorageSCP(Path(name) / "pacs") as pacs:
        folder = Path(name)
        port = free_port()
        (folder / "config.yaml").write_text(yaml.safe_dump(configuration(folder, port, pacs)))
        log = (folder / "log").open("wb")
        program = [sys.executable, "-c", "from node.cli import main; main()"]
        node = subprocess.Popen(
            [*program, "serve", "-c", str(folder / "config.yaml")],
            stdout=log,
            stderr=log,
            env={"MALLOC_ARENA_MAX": "5"} | os.environ,  # as the services have it
        )
        try:
            await_answer(port)
            database = open_database(f"sqlite:///{folder / 'lungnode.db'}")
            load = Load()
            course = Course(database)
            drive(load, port, random.Random(arguments.seed), 0.0, course)  # one of each: everything is loaded
            settle(database, course)
            before = needs(database)
            drive(load, port, random.Random(arguments.seed + 1), arguments.minutes * 60, course)
            settle(database, course)
            ok = report(load, database, folder, pacs, before, needs(database))
        finally:
            node.terminate()
            node.wait()
    sys.exit(0 if ok else 1)


def configuration(folder: Path, port: int, pacs: StorageSCP) -> dict[str, object]:
    """A node on loopback that delivers to the PACS."""
    destination = {"name": "pacs", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    return {
        "listener": {"port": port},
        "storage": {"path": str(folder / "storage"), "reserve_mb": 0},
        "database": {"url": f"sqlite:///{folder / 'lungnode.db'}"},
        "completeness": {"quiet_seconds": 3, "short_quiet_seconds": 1},
        "destinations": [destination | {"commitment": {"ask": "off"}}],
        "models": [str(MODELS / "jcs-compact"), str(MODELS / "m3lung-compact")],
    }


def drive(load: Load, port: int, chance: random.Random, seconds: float, course: Course) -> None:
    """Send a mixed load for so long, and at least one of each kind."""
    deadline = time.monotonic() + seconds
    kinds = ["whole", "twice", "late", "bad"]
    while kinds or time.monotonic() < deadline:
        course.look()
        kind = kinds.pop() if kinds else chance.choice(["whole", "whole", "twice", "late", "bad"])
        load.sent[kind] += 1
        volume = phantom_volume(SLICES, SIZE, seed=chance.randrange(10**6), ill=chance.random() < 0.5)
        study = list(phantom_study(volume, datetime.datetime(2026, 1, 2, 3, 4, 5)))
        if kind == "bad":
            for instance in study:
                instance["StudyInstanceUID"]._value = "../../nowhere"
        if kind == "late":
            send(load, port, study[:-4])
            time.sleep(5)
            send(load, port, study[-4:])
        else:
            send(load, port, study)
        if kind == "twice":
            send(load, port, study)


def send(load: Load, port: int, instances: list[Dataset]) -> None:
    """Send on one association; notes what was acknowledged and refused."""
    contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    with released(associate(node_at(port), "SOAK", contexts)) as association:
        for instance in instances:
            status = association.send_c_store(instance).get("Status") if association.is_established else None
            if status == 0x0000:
                load.acknowledged.add(str(instance.SOPInstanceUID))
            else:
                load.refused += 1


def node_at(port: int) -> Peer:
    """The node as a peer."""
    return Peer("LUNGNODE", "127.0.0.1", port)


def settle(database: Database, course: Course) -> None:
    """Wait until every study has ended."""
    time.sleep(5)
    while True:
        course.look()
        with database.read() as session:
            counts = queries.counts_by_state(session)
        if not any(counts[state] for state in UNFINISHED):
            return
        time.sleep(1)


def report(
    load: Load,
    database: Database,
    folder: Path,
    pacs: StorageSCP,
    before: dict[str, Needs],
    after: dict[str, Needs],
) -> bool:
    """Print the account; whether nothing was lost or doubled."""
    with database.read() as session:
        rows = dict(session.execute(select(Instance.sop_instance_uid, Instance.path)).all())
        counts = queries.counts_by_state(session)
        delivered = select(Result.sop_instance_uid).join(Delivery, Delivery.result_id == Result.id)
        results = set(session.scalars(delivered))
        sets = session.execute(
            select(Screening.revision_id, Result.kind, func.count())
            .join(Result, Result.screening_id == Screening.id)
            .group_by(Screening.revision_id, Result.kind)
        ).all()
        failed = select(Transition.why).where(Transition.after == StudyState.FAILED)
        reasons = list(session.scalars(failed))
    storage = folder / "storage"
    lost = {uid for uid in load.acknowledged if uid not in rows or not (storage / rows[uid]).is_file()}
    doubled = [kind for _, kind, count in sets if count > 1]
    held = {path.stem for path in (folder / "pacs").glob("*.dcm")}
    print(f"studies sent            {dict(load.sent)}")
    print(f"instances               {len(load.acknowledged)} acknowledged, {load.refused} refused")
    print(f"studies                 { {state.value: count for state, count in counts.items() if count} }")
    print(
        f"results                 {len(results)} to deliver, {len(held)} in the PACS, {len(results ^ held)} in one only"
    )
    for why in reasons:
        print(f"failed                  {why}")
    print(f"acknowledged and lost   {len(lost)}")
    print(f"results doubled         {len(doubled)}")
    for name, then in before.items():
        now = after.get(name)
        print(f"{name:24}{then} -> {now}" if now else f"{name:24}{then} -> was started anew")
    return not lost and not doubled and results == held and not counts[StudyState.FAILED]


def needs(database: Database) -> dict[str, Needs]:
    """What each living process of the node needs now."""
    with database.read() as session:
        names = [process.name for process in processes.living(session)]
    found = {}
    for name in names:
        process = psutil.Process(int(name.rpartition("-")[2].partition("@")[0]))
        memory = process.memory_info()
        anonymous = (memory.rss - memory.shared) // 2**20
        found[name] = Needs(memory.rss // 2**20, anonymous, process.num_fds(), process.num_threads())
    return found


def await_answer(port: int) -> None:
    """Wait until the node answers C-ECHO."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            echo(node_at(port), "SOAK")
            return
        except PeerUnreachableError:
            time.sleep(0.5)
    sys.exit("the node does not answer")


if __name__ == "__main__":
    main()
