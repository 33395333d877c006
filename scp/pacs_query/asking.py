"""Asking a PACS whether a study that is being received is here in full, and fetching what is missing.

Every question runs in a thread of its own, so that a slow PACS holds up no other study. An answer counts for the number
of instances that it was given for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from scp.evidence import Agreement, Evidence, Strength, compare
from scp.pacs_query.source import QueryFailed, QuerySource, Receive
from store import holdings
from store.database import Database
from store.ledger import UnknownStudy
from store.revisions import ReceivingStudy

LOGGER = structlog.get_logger(__name__)
WHO = "completeness"
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=1), timedelta(seconds=30)
MAX_FETCHES = 3
"""Rounds of fetching that may bring nothing before what is missing counts as not to be had."""


@dataclass
class _Inquiry:
    """What is known of one study's questions."""

    ask_at: datetime
    pause: timedelta = FIRST_PAUSE
    asked_for: int = -1
    fruitless: int = 0
    running: Future[Evidence | None] | None = None
    evidence: Evidence | None = None
    noted: set[str] = field(default_factory=set)


class Asker:
    """Asks one source. retrieve: takes fetched instances in; None leaves what is missing missing."""

    def __init__(
        self,
        database: Database,
        source: QuerySource,
        now: Callable[[], datetime],
        *,
        whole_study: bool = True,
        receive: Receive | None = None,
        threads: int = 4,
    ) -> None:
        self._database = database
        self._source = source
        self._now = now
        self._whole_study = whole_study
        self._receive = receive
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pacs-query")
        self._inquiries: dict[int, _Inquiry] = {}

    def evidence(self, study: ReceivingStudy) -> Evidence | None:
        """The newest answer, where it was given for as many instances as there are now; asks where it is time."""
        inquiry = self._inquiries.setdefault(study.study_id, _Inquiry(ask_at=self._now()))
        self._harvest(inquiry)
        if inquiry.running is None and self._is_due(inquiry, study):
            inquiry.asked_for = study.instance_count
            inquiry.running = self._pool.submit(self._ask, study, inquiry)
        found = inquiry.evidence
        return found if found is not None and found.instance_count == study.instance_count else None

    def forget_all_but(self, receiving: set[int]) -> None:
        """Drop what is known of studies that are no longer received."""
        for study_id in set(self._inquiries) - receiving:
            running = self._inquiries[study_id].running
            if running is None or running.done():
                del self._inquiries[study_id]

    def close(self) -> None:
        """Begin no further question; those under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _is_due(self, inquiry: _Inquiry, study: ReceivingStudy) -> bool:
        if study.open_associations:
            return False
        if study.instance_count != inquiry.asked_for:
            inquiry.pause = FIRST_PAUSE
            return True
        return self._now() >= inquiry.ask_at

    def _harvest(self, inquiry: _Inquiry) -> None:
        if inquiry.running is None or not inquiry.running.done():
            return
        inquiry.evidence = inquiry.running.result()
        inquiry.running = None
        inquiry.ask_at = self._now() + inquiry.pause
        inquiry.pause = min(2 * inquiry.pause, LONGEST_PAUSE)

    def _ask(self, study: ReceivingStudy, inquiry: _Inquiry) -> Evidence | None:
        """One question, in a thread of the pool; without an answer the study goes by its quiet time."""
        try:
            return self._answer(study, inquiry)
        except QueryFailed as error:
            self._note(study, inquiry, f"cannot ask: {error}")
        except UnknownStudy as error:
            LOGGER.info("study is gone", why=str(error))
        except SQLAlchemyError as error:
            LOGGER.error("store does not answer", study=study.study_id, why=type(error).__name__)
        except (ValueError, AttributeError, TypeError, LookupError, OSError) as error:  # a broken answer
            LOGGER.error("question failed", study=study.study_id, why=f"{type(error).__name__}: {error}")
        return None

    def _answer(self, study: ReceivingStudy, inquiry: _Inquiry) -> Evidence:
        held = self._held(study)
        agreement = self._agreement(study, held)
        words = f"{self._source.name} {agreement.words}"
        count = sum(len(uids) for uids in held.values())
        if agreement.agrees:
            return Evidence(Strength.SURE, words, count)
        if not agreement.missing or self._receive is None:
            self._note(study, inquiry, words)
            return Evidence(Strength.NONE, words, count)
        if inquiry.fruitless >= MAX_FETCHES:
            return Evidence(Strength.NONE, f"{words}; what is missing could not be fetched", count)
        return self._fetch(study, inquiry, held, agreement, words)

    def _fetch(
        self,
        study: ReceivingStudy,
        inquiry: _Inquiry,
        held: dict[str, frozenset[str]],
        agreement: Agreement,
        words: str,
    ) -> Evidence:
        """Fetch what is missing, then compare again."""
        assert self._receive is not None
        self._note(study, inquiry, f"{words}; fetching what is missing")
        trouble = ""
        try:
            for series in agreement.missing:
                there = self._source.instances(study.study_instance_uid, series)
                wanted = there - held.get(series, frozenset())
                if wanted:
                    self._source.fetch(study.study_instance_uid, series, wanted, self._receive)
        except QueryFailed as error:
            trouble = f"; {error}"
        after = self._held(study)
        count = sum(len(uids) for uids in after.values())
        brought = count - sum(len(uids) for uids in held.values())
        inquiry.fruitless = 0 if brought else inquiry.fruitless + 1
        again = self._agreement(study, after)
        words = f"{self._source.name} {again.words} ({brought} fetched){trouble}"
        self._note(study, inquiry, words)
        return Evidence(Strength.SURE if again.agrees else Strength.NONE, words, count)

    def _agreement(self, study: ReceivingStudy, held: dict[str, frozenset[str]]) -> Agreement:
        stated = []
        for series in self._source.series(study.study_instance_uid):
            counted = series
            if series.count is None and (self._whole_study or series.series_instance_uid in held):
                uids = self._source.instances(study.study_instance_uid, series.series_instance_uid)
                counted = replace(series, count=len(uids))
            stated.append(counted)
        counts = {series: len(uids) for series, uids in held.items()}
        return compare(stated, counts, whole_study=self._whole_study)

    def _held(self, study: ReceivingStudy) -> dict[str, frozenset[str]]:
        with self._database.read() as session:
            return holdings.instances_by_series(session, study.study_id)

    def _note(self, study: ReceivingStudy, inquiry: _Inquiry, why: str) -> None:
        """Into the study's account, each thing once."""
        if why in inquiry.noted:
            return
        inquiry.noted.add(why)
        with self._database.write() as session:
            holdings.remark(session, study.study_id, who=WHO, why=why, now=self._now())
