"""A node with a store full of simulated studies in every state, made by the node's own parts, to be looked at."""

from __future__ import annotations

import datetime
import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from clocks import Clock
from tiny_packages import SYSTEMS, write_package

from node.casework import open_casework
from node.caseworks import Caseworks
from node.configuration import Configuration, DestinationConfiguration, load_configuration
from node.phantom import phantom_study, phantom_volume
from node.stand_in_pacs import StorageSCP, free_port
from node.worker import Worker
from reporting.delivery.loop import Courier, Destination
from scp.completeness import CompletenessPolicy, complete_due
from scp.peer import Timeouts
from store import processes, receipts
from store.database import Database, open_database
from store.deliveries import Backoff
from store.migrations import upgrade

SECOND = datetime.timedelta(seconds=1)
LISTENER = "LUNGNODE@127.0.0.1:11112"


@dataclass
class ShownNode:
    """The node: its configuration, its open store, its clock, and the UIDs of its studies by what they are."""

    configuration: Configuration
    database: Database
    clock: Clock
    studies: dict[str, str]


@contextmanager
def shown_node(
    folder: Path,
    *,
    slices: int = 24,
    size: int = 64,
    models: tuple[Path, ...] = (),
    only_ill: bool = False,
) -> Iterator[ShownNode]:
    """Make the node under `folder`. `slices` and `size` are those of the studies that are screened.

    models: packages of both systems; tiny ones where left out. only_ill: one study, screened and sent.
    """
    with ExitStack() as stack:
        pacs = stack.enter_context(StorageSCP(folder / "pacs", ae_title="ARCHIVE"))
        packages = models or tuple(write_package(folder / "models" / system, system) for system in SYSTEMS)
        configuration = _configuration(folder, pacs.port, packages)
        upgrade(configuration.database.url)
        database = open_database(configuration.database.url)
        stack.callback(database.close)
        node = ShownNode(configuration, database, Clock(), {})
        if only_ill:
            node.studies["ill"] = _receive(node, "Phantom^Ill", slices, size)
            _work(node, archive=True, ward=False)
        else:
            _fill(node, slices, size)
        yield node


def _configuration(folder: Path, pacs_port: int, models: tuple[Path, ...]) -> Configuration:
    defaults = load_configuration()
    objects = ("seg", "gsps", "pm", "sr")
    return defaults.model_copy(
        update={
            "storage": defaults.storage.model_copy(update={"path": folder / "var", "reserve_mb": 1}),
            "database": defaults.database.model_copy(update={"url": f"sqlite:///{folder}/lungnode.db"}),
            "destinations": (
                DestinationConfiguration(
                    name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=pacs_port, objects=objects
                ),
                DestinationConfiguration(
                    name="ward", ae_title="WARD", host="127.0.0.1", port=free_port(), objects=("sr",)
                ),
            ),
            "models": models,
            "screening": defaults.screening.model_copy(
                update={"threads": 1, "max_thickness_mm": 20.0, "engine_cache": folder / "engines"}
            ),
            "audit": defaults.audit.model_copy(update={"file": folder / "audit.log"}),
        }
    )


def _fill(node: ShownNode, slices: int, size: int) -> None:
    study = node.studies
    study["ill"] = _receive(node, "Phantom^Ill", slices, size)
    study["second"] = _receive(node, "Phantom^Second", slices, size, ill=False, seed=2)
    study["short"] = _receive(node, "Phantom^Short", 5, size, seed=3)
    _work(node, archive=True, ward=False)
    study["waiting"] = _receive(node, "Phantom^Waiting", slices, size, seed=4)
    _work(node, archive=True, ward=True)
    study["damaged"] = _receive(node, "Phantom^Damaged", slices, size, seed=5, damaged=True)
    _work(node, archive=False, ward=False)
    study["complete"] = _receive(node, "Phantom^Next", 6, size, seed=6)
    _complete(node)
    study["receiving"] = _receive(node, "Phantom^Arriving", 4, size, seed=7)
    with node.database.write() as session:
        peer = receipts.Peer("STRANGER", "192.0.2.9")
        receipts.record_refusal(
            session,
            peer=peer,
            why="calling AE title and address are not in the allow-list",
            now=node.clock(),
        )
        for kind in ("listener", "worker", "delivery"):
            processes.beat(session, name=f"{kind}-1@test", kind=kind, doing="running", now=node.clock())


def _receive(
    node: ShownNode,
    name: str,
    slices: int,
    size: int,
    *,
    ill: bool = True,
    seed: int = 1,
    damaged: bool = False,
) -> str:
    """Lay a simulated study into the spool and record it, as a listener does."""
    storage = node.configuration.storage.path
    with node.database.write() as session:
        peer = receipts.Peer("CT1", "192.0.2.7")
        association = receipts.open_association(
            session, listener=LISTENER, peer=peer, called_ae="LUNGNODE", now=node.clock()
        )
    volume = phantom_volume(slices, size, seed=seed, ill=ill)
    for number, instance in enumerate(phantom_study(volume, datetime.datetime(2026, 1, 5, 7, 30))):
        instance.PatientName, instance.PatientID = name, name.upper()
        if damaged:
            instance.PixelData = instance.PixelData[: len(instance.PixelData) // 2]
        path = storage / "spool" / f"{instance.StudyInstanceUID}" / f"{number:04}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        instance.save_as(path, enforce_file_format=True)
        content = path.read_bytes()
        node.clock.forward(0.01)
        with node.database.write() as session:
            receipts.record_instance(
                session,
                receipts.ReceivedInstance(
                    study_instance_uid=str(instance.StudyInstanceUID),
                    series_instance_uid=str(instance.SeriesInstanceUID),
                    sop_instance_uid=str(instance.SOPInstanceUID),
                    sop_class_uid=str(instance.SOPClassUID),
                    transfer_syntax_uid=str(instance.file_meta.TransferSyntaxUID),
                    modality="CT",
                    patient_digest=hashlib.sha256(name.upper().encode() + b"\0").hexdigest(),
                    sha256=hashlib.sha256(content).hexdigest(),
                    size=len(content),
                    path=str(path.relative_to(storage)),
                ),
                association_id=association,
                now=node.clock(),
            )
    with node.database.write() as session:
        receipts.close_association(session, association, end="released", now=node.clock())
    return str(instance.StudyInstanceUID)


def _complete(node: ShownNode) -> None:
    node.clock.forward(31)
    policy = CompletenessPolicy(quiet=30 * SECOND, max_wait=1800 * SECOND)
    complete_due(node.database, policy, node.clock())


def _work(node: ShownNode, *, archive: bool, ward: bool) -> None:
    """Complete what is received, screen it, and let destinations try. ward: one that is away."""
    _complete(node)
    settings = node.configuration
    destinations = {d.name: d.objects for d in settings.destinations if ward or d.name != "ward"}
    casework = open_casework(settings)
    with casework.executor:
        worker = Worker(
            database=node.database,
            storage=settings.storage.path,
            caseworks=lambda: Caseworks(casework),
            destinations=destinations,
            name="worker-1@test",
            lease=60 * SECOND,
            max_attempts=3,
            clock=node.clock,
        )
        while worker.work_one(threading.Event()):
            node.clock.forward(2)
    for destination in settings.destinations:
        courier = Courier(
            database=node.database,
            storage=settings.storage.path,
            destination=Destination(destination.name, destination.peer),
            who="delivery-1@test",
            calling_ae_title="LUNGNODE",
            backoff=Backoff(5 * SECOND, 900 * SECOND),
            clock=node.clock,
            chance=lambda: 0.5,
            timeouts=Timeouts(2, 5, 5),
        )
        if archive or destination.name != "archive":
            courier.deliver_due(threading.Event())
        node.clock.forward(1)
