"""The parts of the node: listener, worker, delivery. Each runs in a process of its own, alone or under `serve`."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from node.configuration import Configuration, ListenerConfiguration, StorageConfiguration
from node.loops import Loop, run_together, start_beside, waiting_for_store
from node.presence import present_in_store
from node.shared_spool import reachable_storage, shared_storage
from reporting.delivery.loop import Stop
from store import processes, recovery
from store.clock import Clock
from store.connection import STORE_AWAY
from store.database import Database
from store.states import DeliveryState
from store.wakeups import Topic, open_bell

if TYPE_CHECKING:
    from node.notifications import Notifier
    from reporting.delivery.commitment import Committer
    from reporting.delivery.loop import Courier
    from scp.commitment import CommitmentService
    from scp.completeness import CompletedStudy, CompletenessPolicy
    from scp.policy import ListenerPolicy, RetentionPolicy
    from scp.receipt import Receiver

COMPLETENESS_POLL_SECONDS, IDLE_POLL_SECONDS = 0.1, 0.5
"""How often it is looked whether studies are complete: while one is being received, and while none is."""
PRIORS_POLL_SECONDS = 2.0
UPLOAD_POLL_SECONDS = 0.5

Ready = Callable[[], None]
Part = Callable[[Configuration, Stop, Ready], None]

log: structlog.stdlib.BoundLogger = structlog.get_logger("node")


def run_listener(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Receive studies and decide when they are complete, until told to stop.

    Raises scp.listener.ListenerCannotStart, scp.tls.TLSUnusable, store.migrations.SchemaMismatch.
    """
    from node import pacs_services
    from node.routing.deciding import Router
    from scp.announcements import AnnouncementService
    from scp.completeness import complete_due
    from scp.listener import Listener

    policy = completeness_policy(configuration)
    with present_in_store("listener", configuration, stop) as (database, name, clock):
        shared = shared_storage(configuration)
        commitment = pacs_services.commitment_service(configuration, database, clock)
        reports = pacs_services.report_handler(configuration, database, clock)
        listener = Listener(
            listener_policy(configuration),
            database,
            configuration.storage.path,
            clock,
            name=name,
            services=[
                commitment.as_service(reports),
                AnnouncementService(database, clock).as_service(),
            ],
            objects=None if shared is None else shared.objects,
        )
        # An event of their own for the side loops: who looks at `stop` counts as the loop of this part
        ended = threading.Event()
        with (
            ExitStack() as running
        ):  # what cannot start leaves nothing behind: a refused reload starts the old anew
            listener.start()
            running.callback(listener.stop)
            running.callback(ended.set)
            start_beside(
                _listener_loops(configuration, database, listener.receiver, commitment, clock), ended
            )
            stow = pacs_services.stow_server(configuration, database, listener.receiver, clock)
            if stow is not None:
                stow.start()
                running.callback(stow.stop)
            router = Router(database, shared or configuration.storage.path, configuration.routing)
            route = pacs_services.prior_routing(configuration, database, router.route)
            grounds = pacs_services.grounds(configuration, database, listener.receiver, clock)
            ready()
            with open_bell(database, Topic.RECEIVING) as bell:
                while not stop.is_set():
                    if not listener.accepts:
                        raise RuntimeError("the listener takes no connections any more")
                    _complete_due(lambda: complete_due(database, policy, clock(), grounds, route))
                    if grounds.receiving:
                        stop.wait(COMPLETENESS_POLL_SECONDS)
                    else:
                        bell.wait(stop, IDLE_POLL_SECONDS)


def _listener_loops(
    configuration: Configuration,
    database: Database,
    receiver: Receiver,
    commitment: CommitmentService,
    clock: Clock,
) -> dict[str, Callable[[Stop], None]]:
    """What the listener does beside receiving, by name: as much of it as is configured."""
    from node import pacs_services
    from scp.spool import Spool
    from scp.uploading import Uploader

    loops: dict[str, Callable[[Stop], None]] = {
        "reporter": lambda ended: pacs_services.run_reporter(
            commitment, open_bell(database, Topic.COMMITMENT), ended
        )
    }
    shared = shared_storage(configuration)
    if shared is not None:
        uploader = Uploader(database, Spool(shared.folder), shared.objects, clock)
        loops["uploader"] = lambda ended: uploader.run(ended, UPLOAD_POLL_SECONDS)
    seeker = pacs_services.prior_seeker(configuration, database, receiver, clock)
    if seeker is not None:
        loops["priors"] = lambda ended: seeker.run(ended, PRIORS_POLL_SECONDS)
    worklist = configuration.worklist
    performer = pacs_services.task_performer(configuration, database, receiver, clock)
    if performer is not None and worklist is not None:
        loops["worklist"] = lambda ended: performer.run(ended, worklist.poll_seconds)
    return loops


def _complete_due(complete: Callable[[], list[CompletedStudy]]) -> None:
    try:
        for study in complete():
            log.info("study complete", state=study.state.value, why=study.why)
    except STORE_AWAY as error:  # senders are told to come again; what is here stays
        log.error("database does not answer", why=type(error).__name__)


def run_worker(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Screen complete studies until told to stop.

    Raises engine.errors.PackageInvalid, engine.errors.RunnerFailed, store.migrations.SchemaMismatch, and
    store.processes.OtherEquipment where another worker has other packages.
    """
    from node.caseworks import READY_ENGINES_SECONDS, open_caseworks
    from node.engine_states import engine_reporter
    from node.worker import Worker

    with (
        present_in_store("worker", configuration, stop) as (database, name, clock),
        open_caseworks(configuration, engine_reporter(database, clock), clock) as caseworks,
    ):
        with database.write() as session:
            processes.join(
                session,
                name=name,
                kind="worker",
                equipment=caseworks.equipment,
                mixed=configuration.worker.mixed_packages,
                now=clock(),
            )
        worker = Worker(
            database=database,
            storage=configuration.storage.path,
            caseworks=caseworks.now,
            destinations=configuration.destination_objects,
            name=name,
            lease=timedelta(seconds=configuration.worker.lease_seconds),
            max_attempts=configuration.worker.max_attempts,
            clock=clock,
            shared=shared_storage(configuration),
        )
        log.info("worker ready")
        ready()
        caseworks.wait(READY_ENGINES_SECONDS)
        worker.run(stop, configuration.worker.poll_seconds)


def run_delivery(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Deliver results until told to stop, with a thread a destination.

    Raises store.migrations.SchemaMismatch.
    """
    from node import pacs_services
    from reporting.delivery.loop import Courier, Destination

    with present_in_store("delivery", configuration, stop) as (database, name, clock):
        couriers = [
            Courier(
                database=database,
                storage=reachable_storage(configuration),
                destination=Destination(d.name, d.peer),
                who=name,
                calling_ae_title=configuration.listener.ae_title,
                backoff=pacs_services.backoff(configuration),
                clock=clock,
                chance=random.random,
                confirmed_later=pacs_services.is_confirmed_later(d),
            )
            for d in configuration.destinations
        ]
        couriers += pacs_services.stow_couriers(configuration, database, name, clock)
        committers = pacs_services.committers(configuration, database, name, clock)
        loops = {f"delivery to {c.destination.name}": _delivering(c, DeliveryState.PENDING) for c in couriers}
        loops |= {
            f"commitment of {c.destination.name}": _delivering(c, DeliveryState.STORED) for c in committers
        }
        for notifier in _notifiers(configuration, database, clock):
            loops["notifications"] = waiting_for_store(notifier.run)
        ready()
        run_together(loops, stop, configuration.delivery.poll_seconds)


def _delivering(who: Courier | Committer, state: DeliveryState) -> Loop:
    """A loop of one destination, which takes up at once what it held when the store went away."""

    def free() -> None:
        with who.database.write() as session:
            recovery.end_leases_on_deliveries(session, who.who, who.destination.name, state)

    return waiting_for_store(who.run, free)


def _notifiers(configuration: Configuration, database: Database, clock: Clock) -> list[Notifier]:
    """The notifier, where the configuration names somebody to tell."""
    from node.notification_senders import senders
    from node.notifications import Notifier

    ways = senders(configuration.notifications)
    if not ways:
        return []
    node, storage = configuration.listener.ae_title, reachable_storage(configuration)
    return [Notifier(configuration.notifications, database, storage, node, ways, clock)]


def run_web(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Show the page and the metrics until told to stop.

    Raises node.web.server.WebCannotStart, store.migrations.SchemaMismatch.
    """
    from node.web.server import serve_web

    with present_in_store("web", configuration, stop) as (database, _, clock):
        serve_web(configuration, database, clock, stop, ready)


PARTS: dict[str, Part] = {
    "listener": run_listener,
    "worker": run_worker,
    "delivery": run_delivery,
    "web": run_web,
}


def parts_of(configuration: Configuration) -> tuple[str, ...]:
    """The parts that `lungnode serve` runs: all, the page only where `web.enabled` says so."""
    return tuple(part for part in PARTS if part != "web" or configuration.web.enabled)


def completeness_policy(configuration: Configuration) -> CompletenessPolicy:
    """The section on completeness in the listener's own terms."""
    from scp.completeness import CompletenessPolicy

    section = configuration.completeness
    return CompletenessPolicy(
        quiet=timedelta(seconds=section.quiet_seconds),
        max_wait=timedelta(seconds=section.max_wait_seconds),
        short_quiet=timedelta(seconds=section.short_quiet_seconds),
    )


def listener_policy(configuration: Configuration) -> ListenerPolicy:
    """The listener's section in the listener's own terms."""
    from scp.policy import AllowedPeer, ListenerPolicy, TLSSettings

    section: ListenerConfiguration = configuration.listener
    tls = section.tls
    return ListenerPolicy(
        ae_title=section.ae_title,
        host=section.host,
        port=section.port,
        share_port=section.share_port,
        require_called_ae=section.require_called_ae,
        allowed=tuple(AllowedPeer(peer.network, peer.ae_title) for peer in section.allowed),
        max_associations=section.max_associations,
        max_associations_per_host=section.max_associations_per_host,
        idle_seconds=section.idle_seconds,
        grace_seconds=section.grace_seconds,
        reserve_bytes=configuration.storage.reserve_mb * 2**20,
        retention=retention_policy(configuration.storage),
        tls=None if tls is None else TLSSettings(tls.certificate, tls.key, tls.ca),
    )


def retention_policy(section: StorageConfiguration) -> RetentionPolicy:
    """How long what is kept, in the listener's own terms."""
    from scp.policy import RetentionPolicy

    def days(number: float | None) -> timedelta | None:
        return None if number is None else timedelta(days=number)

    return RetentionPolicy(
        keep_done=days(section.keep_days),
        keep_failed=days(section.keep_failed_days),
        keep_records=days(section.keep_records_days),
        room_bytes=2 * section.reserve_mb * 2**20 if section.make_room else 0,
    )
