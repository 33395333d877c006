"""The parts of the node: listener, worker, delivery. Each runs in a process of its own, alone or under `serve`."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from node.configuration import Configuration, ListenerConfiguration
from node.service_manager import hanging_loops, stop_of_loop
from node.shared_spool import reachable_storage, shared_storage
from reporting.delivery.loop import Stop
from store import processes, receipts, recovery, set_back
from store.clock import Clock, store_clock
from store.database import Database, open_database
from store.wakeups import Topic, open_bell

if TYPE_CHECKING:
    from node.notifications import Notifier
    from scp.completeness import CompletedStudy
    from scp.policy import ListenerPolicy

PULSE_SECONDS = 10.0
LOOP_SECONDS = 600.0
"""A delivery loop that has not come round for this long hangs: as long as its lease on what it sends."""
COMPLETENESS_POLL_SECONDS, IDLE_POLL_SECONDS = 0.1, 0.5
"""How often it is looked whether studies are complete: while one is being received, and while none is."""
PRIORS_POLL_SECONDS = 2.0
UPLOAD_POLL_SECONDS = 0.5
ERRORS_LOOK_SECONDS = 1.0

Ready = Callable[[], None]
Loop = Callable[[Stop, float], None]
Part = Callable[[Configuration, Stop, Ready], None]

log: structlog.stdlib.BoundLogger = structlog.get_logger("node")


def utc_now() -> datetime:
    """The clock of the node."""
    return datetime.now(UTC)


def run_listener(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Receive studies and decide when they are complete, until told to stop.

    Raises scp.listener.ListenerCannotStart, scp.tls.TLSUnusable, store.migrations.SchemaMismatch.
    """
    from node import pacs_services
    from node.routing.deciding import Router
    from scp.announcements import AnnouncementService
    from scp.completeness import CompletenessPolicy, complete_due
    from scp.listener import Listener
    from scp.spool import Spool
    from scp.uploading import Uploader

    policy = CompletenessPolicy(
        quiet=timedelta(seconds=configuration.completeness.quiet_seconds),
        max_wait=timedelta(seconds=configuration.completeness.max_wait_seconds),
        short_quiet=timedelta(seconds=configuration.completeness.short_quiet_seconds),
    )
    with _part("listener", configuration, stop) as (database, name):
        clock = store_clock(database, utc_now)
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
        listener.start()
        # An event of their own for the side loops: who looks at `stop` counts as the loop of this part
        ended = threading.Event()
        reporter = threading.Thread(
            target=pacs_services.run_reporter,
            args=(commitment, open_bell(database, Topic.COMMITMENT), ended),
            name="reporter",
            daemon=True,
        )
        reporter.start()
        if shared is not None:
            uploader = Uploader(database, Spool(shared.folder), shared.objects, clock)
            threading.Thread(
                target=uploader.run, args=(ended, UPLOAD_POLL_SECONDS), name="uploader", daemon=True
            ).start()
        router = Router(database, shared or configuration.storage.path, configuration.routing)
        stow = pacs_services.stow_server(configuration, database, listener.receiver, clock)
        if stow is not None:
            stow.start()
        grounds = pacs_services.grounds(configuration, database, listener.receiver, clock)
        route = pacs_services.prior_routing(configuration, database, router.route)
        seeker = pacs_services.prior_seeker(configuration, database, listener.receiver, clock)
        if seeker is not None:
            threading.Thread(
                target=seeker.run, args=(ended, PRIORS_POLL_SECONDS), name="priors", daemon=True
            ).start()
        performer = pacs_services.task_performer(configuration, database, listener.receiver, clock)
        if performer is not None and configuration.worklist is not None:
            threading.Thread(
                target=performer.run,
                args=(ended, configuration.worklist.poll_seconds),
                name="worklist",
                daemon=True,
            ).start()
        try:
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
        finally:
            ended.set()
            if stow is not None:
                stow.stop()
            listener.stop()


def _complete_due(complete: Callable[[], list[CompletedStudy]]) -> None:
    try:
        for study in complete():
            log.info("study complete", state=study.state.value, why=study.why)
    except OperationalError as error:  # senders are told to come again; what is here stays
        log.error("database does not answer", why=type(error).__name__)


def run_worker(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Screen complete studies until told to stop.

    Raises engine.errors.PackageInvalid, engine.errors.RunnerFailed, store.migrations.SchemaMismatch, and
    store.processes.OtherEquipment where another worker has other packages.
    """
    from node.casework import open_casework, open_special_casework, processor_casework
    from node.engine_states import engine_reporter
    from node.worker import Worker

    with _part("worker", configuration, stop) as (database, name):
        clock = store_clock(database, utc_now)
        casework = open_casework(configuration, report=engine_reporter(database, clock))
        special = open_special_casework(configuration)
        with ExitStack() as opened:
            for one in (casework, *special.values()):
                opened.enter_context(one.executor)
            with database.write() as session:
                processes.join(
                    session,
                    name=name,
                    kind="worker",
                    equipment=casework.equipment,
                    mixed=configuration.worker.mixed_packages,
                    now=clock(),
                )
            worker = Worker(
                database=database,
                storage=configuration.storage.path,
                casework=casework,
                special=special,
                destinations=configuration.destination_objects,
                name=name,
                lease=timedelta(seconds=configuration.worker.lease_seconds),
                max_attempts=configuration.worker.max_attempts,
                clock=clock,
                on_processor=processor_casework(configuration, casework),
                shared=shared_storage(configuration),
            )
            log.info("worker ready", **casework.executor.descriptions)
            ready()
            worker.run(stop, configuration.worker.poll_seconds)


def run_delivery(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Deliver results until told to stop, with a thread a destination.

    Raises store.migrations.SchemaMismatch.
    """
    from node import pacs_services
    from reporting.delivery.loop import Courier, Destination

    poll = configuration.delivery.poll_seconds
    with _part("delivery", configuration, stop) as (database, name):
        couriers = [
            Courier(
                database=database,
                storage=reachable_storage(configuration),
                destination=Destination(d.name, d.peer),
                who=name,
                calling_ae_title=configuration.listener.ae_title,
                backoff=pacs_services.backoff(configuration),
                clock=utc_now,
                chance=random.random,
                confirmed_later=pacs_services.is_confirmed_later(d),
            )
            for d in configuration.destinations
        ]
        couriers += pacs_services.stow_couriers(configuration, database, name, utc_now)
        committers = pacs_services.committers(configuration, database, name, utc_now)
        loops: dict[str, Loop] = {f"delivery to {c.destination.name}": c.run for c in couriers}
        loops |= {f"commitment of {c.destination.name}": c.run for c in committers}
        for notifier in _notifiers(configuration, database):
            loops["notifications"] = notifier.run
        ready()
        run_together(loops, stop, poll)


def _notifiers(configuration: Configuration, database: Database) -> list[Notifier]:
    """The notifier, where the configuration names somebody to tell."""
    from node.notification_senders import senders
    from node.notifications import Notifier

    ways = senders(configuration.notifications)
    if not ways:
        return []
    node, storage = configuration.listener.ae_title, reachable_storage(configuration)
    return [Notifier(configuration.notifications, database, storage, node, ways, utc_now)]


def run_web(configuration: Configuration, stop: Stop, ready: Ready) -> None:
    """Show the page and the metrics until told to stop.

    Raises node.web.server.WebCannotStart, store.migrations.SchemaMismatch.
    """
    from node.web.server import serve_web

    with _part("web", configuration, stop) as (database, _):
        serve_web(configuration, database, utc_now, stop, ready)


PARTS: dict[str, Part] = {
    "listener": run_listener,
    "worker": run_worker,
    "delivery": run_delivery,
    "web": run_web,
}


def parts_of(configuration: Configuration) -> tuple[str, ...]:
    """The parts that `lungnode serve` runs: all, the page only where `web.enabled` says so."""
    return tuple(part for part in PARTS if part != "web" or configuration.web.enabled)


def listener_policy(configuration: Configuration) -> ListenerPolicy:
    """The listener's section in the listener's own terms."""
    from scp.policy import AllowedPeer, ListenerPolicy, TLSSettings

    section: ListenerConfiguration = configuration.listener
    tls = section.tls
    keep_days = configuration.storage.keep_days
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
        keep_delivered=None if keep_days is None else timedelta(days=keep_days),
        tls=None if tls is None else TLSSettings(tls.certificate, tls.key, tls.ca),
    )


def run_together(loops: Mapping[str, Loop], stop: Stop, poll_seconds: float) -> None:
    """Run every loop in a thread until told to stop; an error in one ends all, so that the process is restarted.

    Each is watched by its name: one that hangs is seen although the others come round.
    """
    errors: list[BaseException] = []

    def guarded(loop: Loop, its_stop: Stop) -> None:
        try:
            loop(its_stop, poll_seconds)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, which raises it
            errors.append(error)

    threads = [
        threading.Thread(
            target=guarded, args=(loop, stop_of_loop(stop, name, LOOP_SECONDS)), name=name, daemon=True
        )
        for name, loop in loops.items()
    ]
    for thread in threads:
        thread.start()
    while not errors and not stop.wait(ERRORS_LOOK_SECONDS):
        pass
    if errors:
        raise errors[0]
    for thread in threads:
        thread.join()


@contextmanager
def _part(kind: str, configuration: Configuration, stop: Stop) -> Iterator[tuple[Database, str]]:
    """The open store and this process's name in it, with a pulse while its loops come round."""
    database = open_database(configuration.database.url)
    host = socket.gethostname()
    name = f"{kind}-{os.getpid()}@{host}"[:128]
    clock = store_clock(database, utc_now)
    done = threading.Event()
    thread = threading.Thread(
        target=_pulse,
        args=(database, name, kind, stop, done, clock),
        name="pulse",
        daemon=True,
    )
    with database.write() as session:
        _follow_clock(session, clock())
    _forget_dead(database, host, name)
    thread.start()
    try:
        yield database, name
    finally:
        done.set()
        thread.join()
        with database.write() as session:
            processes.sign_off(session, name=name)
        database.close()


def _pulse(database: Database, name: str, kind: str, stop: Stop, done: threading.Event, clock: Clock) -> None:
    """Beat in the store while every loop of the part comes round: without the beat people learn of one that hangs."""
    while True:
        hanging = hanging_loops(stop)
        try:
            if hanging:
                log.error("part hangs", loops=hanging)
            else:
                with database.write() as session:
                    _follow_clock(session, clock())
                    processes.beat(session, name=name, kind=kind, doing="running", now=clock())
        except Exception as error:  # noqa: BLE001 - a missed beat is seen by those who look; the part goes on
            log.warning("pulse missed", why=str(error))
        if done.wait(PULSE_SECONDS):
            return


def _follow_clock(session: Session, now: datetime) -> None:
    behind = set_back.follow(session, now)
    if behind:
        log.warning(
            "the clock was set back: what waits is moved with it", seconds=round(behind.total_seconds())
        )


def _forget_dead(database: Database, host: str, own_name: str) -> None:
    """Sign off processes of this machine that were killed, and free what they held.

    Whoever had our own name is dead too: process numbers come again.
    """
    with database.write() as session:
        for process in processes.living(session):
            pid, at, where = process.name.rpartition("-")[2].partition("@")
            dead = pid.isdecimal() and not _is_running(int(pid))
            if at and where == host and (dead or process.name == own_name):
                processes.sign_off(session, name=process.name)
                recovery.end_leases_of(session, process.name, utc_now())
                receipts.close_left_over(session, listener=process.name, now=utc_now())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
