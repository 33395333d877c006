"""Fetching the prior of a study from the PACS: the newest earlier chest CT of its patient, to be screened when idle.

Never at the cost of a current study: nothing is fetched before all are screened, and what was fetched is screened
only where nothing else waits (`store.priorities.Priority.IDLE`). The result of a study waits for no prior; where
it came first, a revision with the comparison follows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import structlog
from sqlalchemy.exc import SQLAlchemyError

from engine.headers import MALFORMED
from reporting.delivery.loop import Stop
from scp.completeness import Route
from scp.pacs_query import prior_choice
from scp.pacs_query.source import QueryFailed, QuerySource, Receive, SeriesStatement, StudyStatement
from store import holdings, prior_searches
from store.database import Database
from store.deliveries import Backoff
from store.prior_searches import AHEAD, SCREENED, Awaited, Seeking
from store.priorities import Priority
from store.revisions import ReceivingStudy
from store.routing import Routing
from store.shared_storage import Storage
from store.states import PriorState

LOOK_BACK = timedelta(days=1)
"""Studies that came before have no search begun for them: `fetch` may just have been switched on."""
LEASE = timedelta(hours=1)
LONGEST_WAIT = timedelta(days=7)
"""A prior that was not screened after this long is waited for no more."""
MOST_ATTEMPTS = 8
MOST_CANDIDATES = 5
AT_ONCE = 100
"""Instances that are fetched before it is looked again whether a current study has come."""
GIVE_WAY_SECONDS = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("priors")


@dataclass(frozen=True)
class PriorPolicy:
    """within: how old a prior may be. fewest_images: in a series of it. revise: compare later where it came too late.

    deliver: whether the results of the fetched study go to destinations too.
    """

    within: timedelta
    fewest_images: int
    revise: bool = True
    deliver: bool = False


@dataclass(frozen=True)
class PriorRouting:
    """The routing of studies, with those that were fetched as priors put behind all others.

    source: AE title of whom priors come from. What anybody else sends of a prior makes it a current study.
    """

    database: Database
    route_others: Route
    source: str
    deliver: bool

    def route(self, study: ReceivingStudy) -> Routing | None:
        """As the rules decide; a fetched prior is for idle times, and for no destination unless configured."""
        decided = self.route_others(study)
        with self.database.read() as session:
            current = prior_searches.fetched_for(session, study.study_instance_uid)
            series = tuple(holdings.screenable_paths(session, study.study_id))
            sender = holdings.newest_sender(session, study.study_id)
        if current is None or sender not in (None, self.source):
            return decided
        why = f"fetched as the prior of {current}"
        if decided is None:
            decided = Routing(series, None, None, Priority.IDLE, why)
        destinations = decided.destinations if self.deliver else ()
        return replace(
            decided, destinations=destinations, priority=Priority.IDLE, why=f"{decided.why}; {why}"
        )


class PriorSeeker:
    """Finds and fetches priors, one at a time, and follows them until they can be compared.

    fetching: begins a fetch; what is fetched goes into what it gives. again: waiting times between attempts.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        source: QuerySource,
        fetching: Callable[[], AbstractContextManager[Receive]],
        policy: PriorPolicy,
        again: Backoff,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._storage = storage
        self._source = source
        self._fetching = fetching
        self._policy = policy
        self._again = again
        self._now = now

    def run(self, stop: Stop, poll_seconds: float) -> None:
        """Search until told to stop."""
        while not stop.wait(poll_seconds):
            try:
                self.step(stop)
            except SQLAlchemyError as error:  # the store is away for a moment; the searches are in it
                log.error("store does not answer", why=type(error).__name__)

    def step(self, stop: Stop) -> None:
        """Begin searches, carry the first one that is due out, end those that can be ended."""
        now = self._now()
        with self._database.write() as session:
            prior_searches.begin_new(session, now - LOOK_BACK, now)
            search = None
            if not prior_searches.is_busy(session):
                search = prior_searches.claim_due(session, lease=LEASE, now=now)
        if search is not None:
            self._seek(search, stop)
        with self._database.read() as session:
            waiting = prior_searches.awaited(session)
        for one in waiting:
            self._follow(one)

    def _seek(self, search: Seeking, stop: Stop) -> None:
        try:
            current = prior_choice.current_study(_header(self._storage / search.image))
        except MALFORMED as error:
            self._end(search.search_id, f"no prior is asked for: an image cannot be read: {error}")
            return
        if (why := prior_choice.unsearchable(current)) is not None:
            self._end(search.search_id, why)
            return
        try:
            found = prior_choice.candidates(
                current, self._source.studies_of(current.patient_id), self._policy.within
            )
            refused = self._take_first(search, found.studies, stop)
        except QueryFailed as error:
            self._later(search.search_id, search.attempts, str(error))
            return
        if refused is not None:
            reasons = "; ".join((*refused, *found.refused)) or "it has no other CT of this patient"
            self._end(search.search_id, f"{self._source.name} has no prior: {reasons}")

    def _take_first(
        self, search: Seeking, studies: tuple[StudyStatement, ...], stop: Stop
    ) -> list[str] | None:
        """Take the newest that can be a prior; None, or why none can be. Raises QueryFailed."""
        refused = []
        for study in studies[:MOST_CANDIDATES]:
            uid = study.study_instance_uid
            with self._database.read() as session:
                here = prior_searches.standing(session, uid)
            if here is not None and here[0] in (*SCREENED, *AHEAD):
                self._choose(search, uid, fetched=False, why=f"the prior {uid} is here already")
                return None
            if here is not None:
                refused.append(f"{uid}: is here, and was not screened: {here[1]}")
                continue
            series = prior_choice.chest_series(study, self._source.series(uid), self._policy.fewest_images)
            if not series:
                refused.append(f"{uid}: has no chest series of {self._policy.fewest_images} images")
                continue
            self._fetch(search, study, series, stop)
            return None
        return refused

    def _fetch(
        self, search: Seeking, study: StudyStatement, series: tuple[SeriesStatement, ...], stop: Stop
    ) -> None:
        """Fetch the series. Raises QueryFailed where nothing came; what came in part is completed as any study."""
        uid = study.study_instance_uid
        why = f"fetching the prior {uid} of {study.date} from {self._source.name}, {len(series)} series"
        self._choose(search, uid, fetched=True, why=why)
        try:
            with self._fetching() as receive:
                for one in series:
                    self._fetch_series(uid, one.series_instance_uid, receive, stop)
        except QueryFailed as error:
            with self._database.read() as session:
                came = prior_searches.standing(session, uid)
            if came is None:
                raise
            log.warning("prior fetched in part", study=uid, why=str(error))

    def _fetch_series(self, study: str, series: str, receive: Receive, stop: Stop) -> None:
        uids = sorted(self._source.instances(study, series))
        for start in range(0, len(uids), AT_ONCE):
            self._give_way(study, stop)
            self._source.fetch(study, series, uids[start : start + AT_ONCE], receive)

    def _give_way(self, prior: str, stop: Stop) -> None:
        """Wait while another study than the prior is being received, waits or is screened."""
        while True:
            with self._database.read() as session:
                busy = prior_searches.is_busy(session, [prior])
            if not busy or stop.wait(GIVE_WAY_SECONDS):
                return

    def _follow(self, one: Awaited) -> None:
        """End or go on with a search whose prior is known."""
        prior = one.prior_study_instance_uid
        if one.prior_state in SCREENED:
            self._compare(one)
        elif one.prior_state is None:  # who fetched it may have been killed before anything came
            if self._now() - one.changed_at > LEASE:
                self._later(one.search_id, one.attempts, f"nothing came of the prior {prior}")
        elif one.prior_state in AHEAD:
            if self._now() - one.changed_at > LONGEST_WAIT:
                self._end(one.search_id, f"the prior {prior} was not screened in {LONGEST_WAIT.days} days")
        else:
            self._end(one.search_id, f"the prior {prior} was not screened: {one.prior_why}")

    def _compare(self, one: Awaited) -> None:
        prior = one.prior_study_instance_uid
        if one.study_state in AHEAD:
            return  # its own screening finds the prior
        if (outcome := _outcome(one.prior_in_summary, prior)) is not None:
            self._end(one.search_id, outcome)
        elif one.study_state not in SCREENED:
            self._end(one.search_id, f"the prior {prior} was screened, the study was not")
        elif one.state is PriorState.REVISING or not (self._policy.revise and one.can_be_revised):
            self._end(one.search_id, f"the prior {prior} was screened after the study, and is not compared")
        else:
            with self._database.write() as session:
                prior_searches.revise(session, one.search_id, now=self._now())

    def _choose(self, search: Seeking, prior: str, *, fetched: bool, why: str) -> None:
        with self._database.write() as session:
            prior_searches.choose(session, search.search_id, prior, fetched=fetched, why=why, now=self._now())
        log.info("prior chosen", study=search.study_instance_uid, why=why)

    def _later(self, search_id: int, attempts_before: int, why: str) -> None:
        attempts = attempts_before + 1
        if attempts >= MOST_ATTEMPTS:
            self._end(search_id, f"no prior was had in {attempts} attempts: {why}")
            return
        now = self._now()
        again_at = now + self._again.delay(attempts)
        with self._database.write() as session:
            prior_searches.seek_later(
                session, search_id, why=f"no prior yet: {why}", again_at=again_at, now=now
            )
        log.warning("prior sought later", why=why)

    def _end(self, search_id: int, why: str) -> None:
        with self._database.write() as session:
            prior_searches.end(session, search_id, why=why, now=self._now())
        log.info("search for a prior ended", why=why)


def _outcome(in_summary: dict[str, Any], prior: str) -> str | None:
    """What the screening of a study says of the prior; None where it says nothing."""
    if in_summary.get("study_instance_uid") == prior:
        return f"compared with the prior {prior}"
    for refusal in in_summary.get("refused", ()):
        if refusal["study_instance_uid"] == prior:
            return f"the prior {prior} is not compared: {refusal['why']}"
    return None


def _header(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True)
