"""What the node has to do with its PACS beside sending and receiving images, put together from the configuration."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import structlog
from pynetdicom import evt
from sqlalchemy.exc import SQLAlchemyError

from engine.headers import MALFORMED
from node.configuration import (
    Configuration,
    DestinationConfiguration,
    DicomwebSourceConfiguration,
    StowDestinationConfiguration,
    WorklistConfiguration,
)
from node.prior_fetching import PriorPolicy, PriorRouting, PriorSeeker
from node.shared_spool import reachable_storage, shared_storage
from reporting.delivery.commitment import CommitmentPolicy, Committer, take_report
from reporting.delivery.confirmation import parse_report
from reporting.delivery.loop import Courier, Destination, Stop
from scp.commitment import CommitmentService
from scp.completeness import Route
from scp.fetched import fetching, receive_from
from scp.gap_check import GapCheck
from scp.grounds import Grounds
from scp.pacs_query.asking import Asker
from scp.pacs_query.dimse import DimseSource
from scp.pacs_query.source import QuerySource
from scp.peer import Peer
from scp.receipt import Receiver
from scp.services import Handler
from store import receipts
from store.database import Database
from store.deliveries import Backoff
from store.wakeups import Bell

if TYPE_CHECKING:
    from node.task_performing import TaskPerformer

    # What speaks HTTP is imported where it is configured: the listener is small without it
    from reporting.delivery.stow import StowService
    from scp.pacs_query.dicomweb import DicomwebSource
    from scp.stow_server import StowServer

Clock = Callable[[], datetime]
REPORT_POLL_SECONDS = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("pacs")


def backoff(configuration: Configuration) -> Backoff:
    """Waiting times of the delivery."""
    settings = configuration.delivery
    return Backoff(
        timedelta(seconds=settings.first_retry_seconds), timedelta(seconds=settings.max_retry_seconds)
    )


def is_confirmed_later(destination: DestinationConfiguration) -> bool:
    """Whether what a destination stored waits for its commitment."""
    return destination.commitment.ask != "off"


def committers(configuration: Configuration, database: Database, name: str, clock: Clock) -> list[Committer]:
    """A commitment loop for each destination; one that is not asked settles what waited before."""
    return [
        Committer(
            database=database,
            storage=reachable_storage(configuration),
            destination=Destination(destination.name, destination.peer),
            who=name,
            calling_ae_title=configuration.listener.ae_title,
            policy=CommitmentPolicy(
                ask=destination.commitment.ask,
                compare=destination.commitment.compare,
                answer=timedelta(seconds=destination.commitment.answer_seconds),
            ),
            backoff=backoff(configuration),
            clock=clock,
        )
        for destination in configuration.destinations
    ]


def stow_couriers(configuration: Configuration, database: Database, name: str, clock: Clock) -> list[Courier]:
    """A delivery loop for each DICOMweb destination."""
    if not configuration.stow_destinations:
        return []
    from reporting.delivery.stow import StowSender

    return [
        Courier(
            database=database,
            storage=reachable_storage(configuration),
            destination=Destination(
                section.name, Peer(section.name[:16], section.url, 0), StowSender(_stow_service(section))
            ),
            who=name,
            calling_ae_title=configuration.listener.ae_title,
            backoff=backoff(configuration),
            clock=clock,
            chance=random.random,
        )
        for section in configuration.stow_destinations
    ]


def _stow_service(
    section: StowDestinationConfiguration | DicomwebSourceConfiguration | WorklistConfiguration,
) -> StowService:
    from reporting.delivery.stow import ClientCredentials, StowService

    given = section.oauth2
    credentials = None
    if given is not None:
        secret = given.client_secret.get_secret_value()
        credentials = ClientCredentials(given.token_url, given.client_id, secret, given.scope)
    return StowService(
        section.url.rstrip("/"),
        credentials,
        section.tls.settings,
        isinstance(section, StowDestinationConfiguration) and section.compare,
        section.timeout_seconds,
    )


def commitment_service(configuration: Configuration, database: Database, clock: Clock) -> CommitmentService:
    """Answers senders that ask the node to commit."""
    shared = shared_storage(configuration)
    return CommitmentService(
        database,
        configuration.storage.path,
        configuration.listener.ae_title,
        {peer.ae_title: peer.peer for peer in configuration.peers},
        clock,
        objects=None if shared is None else shared.objects,
    )


def report_handler(configuration: Configuration, database: Database, clock: Clock) -> Handler:
    """Takes N-EVENT-REPORTs of destinations: what they committed to that we asked of them."""

    def on_report(event: evt.Event, peer: receipts.Peer) -> tuple[int, None]:
        try:
            report = parse_report(event.event_information)
        except MALFORMED as error:
            log.warning("event report refused", calling_ae=peer.calling_ae, why=str(error))
            return 0x0115, None  # invalid argument value (PS3.7 C.5)
        theirs = [d.name for d in configuration.destinations if d.ae_title == peer.calling_ae]
        settled = take_report(
            database,
            report,
            destinations=theirs,
            who="listener",
            backoff=backoff(configuration),
            now=clock(),
        )
        log.info(
            "commitment reported", calling_ae=peer.calling_ae, objects=settled, failed=len(report.failed)
        )
        return 0x0000, None

    return on_report


def run_reporter(service: CommitmentService, bell: Bell, stop: Stop) -> None:
    """Report to senders what could not be reported on their own association, until told to stop.

    bell: of `Topic.COMMITMENT`.
    """
    with bell:
        while not stop.is_set():
            due = None
            try:
                service.report_due()
                due = service.next_report_seconds()
            except SQLAlchemyError as error:  # the store is away for a moment; the requests are in it
                log.error("store does not answer", why=type(error).__name__)
            bell.wait(stop, REPORT_POLL_SECONDS, due)


def prior_routing(configuration: Configuration, database: Database, route: Route) -> Route:
    """The routing of studies, with fetched priors behind all others; `route` alone where none are fetched."""
    found = _query_source(configuration)
    if not configuration.priors.fetch or found is None:
        return route
    return PriorRouting(database, route, found[1].calling_ae, configuration.priors.deliver).route


def prior_seeker(
    configuration: Configuration, database: Database, receiver: Receiver, clock: Clock
) -> PriorSeeker | None:
    """Fetches priors, where that is configured. What an earlier process left half fetched may be complete now."""
    found = _query_source(configuration)
    if not configuration.priors.fetch or found is None:
        return None
    source, peer, _, _ = found
    name = f"priors@{configuration.listener.host}:{configuration.listener.port}"
    with database.write() as session:
        receipts.close_left_over(session, listener=name, now=clock())
    policy = PriorPolicy(
        within=timedelta(days=configuration.priors.within_days),
        fewest_images=configuration.screening.min_slices,
        revise=configuration.priors.revise,
        deliver=configuration.priors.deliver,
    )
    return PriorSeeker(
        database,
        reachable_storage(configuration),
        source,
        partial(fetching, receiver, database, peer, name, clock),
        policy,
        backoff(configuration),
        clock,
    )


def task_performer(
    configuration: Configuration, database: Database, receiver: Receiver, clock: Clock
) -> TaskPerformer | None:
    """Performs the workitems of a worklist, where one is configured."""
    section = configuration.worklist
    if section is None:
        return None
    from node.task_performing import Fetcher, Performer, TaskPerformer
    from reporting.delivery.stow import open_session
    from scp.pacs_query.worklist import WorkitemCode, Worklist

    fetcher = None
    found = _query_source(configuration)
    if found is not None and found[3]:
        source, peer, _, _ = found
        name = f"worklist@{configuration.listener.host}:{configuration.listener.port}"
        with database.write() as session:
            receipts.close_left_over(session, listener=name, now=clock())
        fetcher = Fetcher(source, partial(fetching, receiver, database, peer, name, clock))
    performer = Performer(
        code=WorkitemCode(section.code.value, section.code.scheme, section.code.meaning),
        station=configuration.listener.ae_title,
        retrieve_ae_title=next((d.ae_title for d in configuration.destinations), ""),
        patience=timedelta(seconds=section.patience_seconds),
    )
    worklist = Worklist(section.url, open_session(_stow_service(section)), section.timeout_seconds)
    return TaskPerformer(database, worklist, performer, fetcher, clock)


def grounds(configuration: Configuration, database: Database, receiver: Receiver, clock: Clock) -> Grounds:
    """What speaks for studies being complete: the query source, announcements, the slices themselves."""
    found = _query_source(configuration)
    asker = None
    if found is not None:
        source, peer, whole_study, retrieve = found
        receive = receive_from(receiver, peer) if retrieve else None
        asker = Asker(database, source, clock, whole_study=whole_study, receive=receive)
    short_quiet = timedelta(seconds=configuration.completeness.short_quiet_seconds)
    check = GapCheck(database, configuration.storage.path)
    return Grounds(database, check, asker, short_quiet, clock)


def stow_server(
    configuration: Configuration, database: Database, receiver: Receiver, clock: Clock
) -> StowServer | None:
    """STOW-RS as a way in, where it is configured."""
    section = configuration.stow_listener
    if section is None:
        return None
    from scp.stow_server import StowPolicy, StowServer

    policy = StowPolicy(
        section.host, section.port, section.token_sha256, section.certificate, section.key, section.client_ca
    )
    return StowServer(policy, receiver, database, clock)


def dicomweb_source_at(url: str, configuration: Configuration) -> DicomwebSource:
    """The DICOMweb server at `url`, with the credentials of `dicomweb_source` where that is it."""
    from reporting.delivery.stow import open_session
    from scp.pacs_query.dicomweb import DicomwebSource

    section = configuration.dicomweb_source
    if section is None or section.url.rstrip("/") != url.rstrip("/"):
        section = DicomwebSourceConfiguration(url=url)
    return DicomwebSource(section.url, open_session(_stow_service(section)), section.timeout_seconds)


def _query_source(configuration: Configuration) -> tuple[QuerySource, receipts.Peer, bool, bool] | None:
    """Whom to ask, how it is called in the store, whether the whole study counts and whether to fetch."""
    web, dimse = configuration.dicomweb_source, configuration.query_source
    if web is not None:
        source = dicomweb_source_at(web.url, configuration)
        host = urlsplit(web.url).hostname or ""
        return source, receipts.Peer("WADO-RS", host[:64]), web.scope == "study", web.retrieve
    if dimse is not None:
        how: Literal["get", "move"] = "move" if dimse.retrieve == "move" else "get"
        asked = DimseSource(dimse.peer, configuration.listener.ae_title, retrieve=how)
        peer = receipts.Peer(dimse.ae_title, dimse.host)
        return asked, peer, dimse.scope == "study", dimse.retrieve != "off"
    return None
