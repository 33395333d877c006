"""The worker: claims complete studies, screens them, lays results in the outbox.

A study that is not for screening is skipped, one that cannot be read has failed; both with the reason. An error that
may pass is tried again. Whatever happens, the next study is served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from engine.errors import DeviceLost, NotScreenable, RunnerFailed, Undecodable
from engine.volume import Volume
from node.casework import Case, Interrupted, Occasion
from node.caseworks import Caseworks
from node.outbox import OUTBOX, PICTURE, study_folder, write_picture, write_results
from node.priors import Priors, priors_of
from node.slice_pictures import NAME as PICTURES
from node.slice_pictures import write_pictures
from reporting.context import ObjectKind, PredecessorReport
from reporting.delivery.loop import Stop
from reporting.rendering import render_overview
from store import claims, results
from store.claims import Claim, LeaseLost
from store.connection import STORE_AWAY
from store.database import Database
from store.object_folder import ObjectStoreAway
from store.priorities import Priority
from store.shared_storage import SharedStorage
from store.wakeups import Topic, open_bell

AWAY_SECONDS = 1.0
"""A database that does not answer is asked again after this long."""
RETRY_AFTER = timedelta(seconds=30)
"""How long an error that may pass (memory, disk, inference) is given, times the number of the attempt."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("worker")


@dataclass(frozen=True, eq=False)
class Worker:
    """Screens what the store has complete.

    storage: the folder that paths in the store are relative to. destinations: which kinds of object each wants.
    caseworks: what there is to screen with now; None lets studies wait.
    shared: where images come from and results go, where nodes have an object store instead of that folder in common.
    """

    database: Database
    storage: Path
    caseworks: Callable[[], Caseworks | None]
    destinations: dict[str, tuple[ObjectKind, ...]]
    name: str
    lease: timedelta
    max_attempts: int
    clock: Callable[[], datetime]
    shared: SharedStorage | None = None

    def run(self, stop: Stop, poll_seconds: float) -> None:
        """Screen until told to stop; a study in work is given back. While the database is away it waits for it."""
        with open_bell(self.database, Topic.COMPLETE) as bell:
            while not stop.is_set():
                try:
                    if not self.work_one(stop):
                        bell.wait(stop, poll_seconds)
                except STORE_AWAY as error:
                    self._database_away(error)
                    stop.wait(AWAY_SECONDS)

    def work_one(self, stop: Stop) -> bool:
        """Screen the study that waits longest; whether there was one, and something to screen with."""
        caseworks = self.caseworks()
        if caseworks is None:
            return False
        with self.database.write() as session:
            claim = claims.claim_next(
                session, worker=self.name, lease=self.lease, max_attempts=self.max_attempts, now=self.clock()
            )
        if claim is None:
            return False
        event = log.bind(study=claim.study_id, revision=claim.revision, attempt=claim.attempt)
        event.info("screening", instances=len(claim.instances))
        try:
            with self._heartbeat(claim):
                self._screen(claim, caseworks, stop)
        except LeaseLost:
            event.warning("lease lost: what was done is dropped")
        return True

    def _screen(self, claim: Claim, caseworks: Caseworks, stop: Stop) -> None:
        try:
            packages = None if claim.routing is None else claim.routing.packages
            casework = caseworks.for_study(packages, claim.attempt)
            with self._images(claim) as paths:
                case = casework.work(
                    paths,
                    _occasion(claim),
                    priors=lambda summary: self._priors(claim, summary),
                    stopping=lambda: stop.is_set() or self._must_give_way(claim),
                )
            self._record(claim, case, casework.settings_digest, stop)
        except LeaseLost:
            raise
        except Interrupted:
            why = "the worker stops" if stop.is_set() else "gives way to a current study"
            self._end(claims.release, claim, why, stop)
        except NotScreenable as error:
            self._end(claims.skip, claim, str(error), stop)
        except Undecodable as error:
            self._end(claims.fail, claim, str(error), stop)
        except STORE_AWAY as error:
            if stop.is_set():
                raise
            self._try_again(claim, f"the database was away: {type(error).__name__}", stop)
        except ObjectStoreAway as error:
            self._put_off(claim, f"waits for the object store: {error}", stop)
        except DeviceLost as error:
            self._try_again(claim, str(error), stop)
            raise  # ends this process: its successor has a context of its own
        except (RunnerFailed, MemoryError, OSError) as error:
            self._try_again(claim, f"{type(error).__name__}: {error}", stop)
        except Exception as error:  # no input may stop the worker; the reason is recorded
            log.debug("unexpected error", study=claim.study_id, exc_info=True)
            self._end(claims.fail, claim, f"unexpected {type(error).__name__}: {error}", stop)

    def _images(self, claim: Claim) -> AbstractContextManager[list[Path]]:
        """The images of a study on this machine, while the context lasts."""
        if self.shared is None:
            return nullcontext([self.storage / path for path in claim.paths])
        return self.shared.gathered(claim.paths)

    def _priors(self, claim: Claim, summary: dict[str, Any]) -> Priors:
        """The earlier screenings of the patient; what is said of them goes into the study's account."""
        found = priors_of(self.database, self.shared or self.storage, claim, summary)
        if found.account:
            with self.database.write() as session:
                claims.remark(session, claim, why=found.account, now=self.clock())
        return found

    def _must_give_way(self, claim: Claim) -> bool:
        """Whether the claimed study is for idle times, which are over."""
        if claim.priority < Priority.IDLE:
            return False
        with self.database.read() as session:
            return claims.must_give_way(session, claim, self.clock())

    def _destinations(self, claim: Claim) -> dict[str, tuple[ObjectKind, ...]]:
        chosen = None if claim.routing is None else claim.routing.destinations
        return {name: kinds for name, kinds in self.destinations.items() if chosen is None or name in chosen}

    def _record(self, claim: Claim, case: Case, settings_digest: str, stop: Stop) -> None:
        folder = study_folder(claim.study_id, claim.revision_digest)
        objects = self._laid_out(folder, case, stop)
        self._change(
            lambda session: results.record_results(
                session,
                claim,
                objects,
                destinations=self._destinations(claim),
                settings_digest=settings_digest,
                summary=case.summary,
                now=self.clock(),
            ),
            stop,
        )
        timings = {stage: round(seconds, 2) for stage, seconds in case.summary["timings_s"].items()}
        log.info("screened", study=claim.study_id, objects=[o.kind for o in objects], **timings)
        place, here = self._place, f"{OUTBOX}/{folder}"
        self._draw(
            "slices",
            lambda: write_pictures(place / here / PICTURES, case.volume, case.findings),
        )
        self._draw(
            "overview",
            lambda: write_picture(place, folder, render_overview(case.findings, case.volume)),
        )
        shared = self.shared
        if shared is not None:
            self._draw("for other nodes", lambda: shared.publish([f"{here}/{PICTURES}", f"{here}/{PICTURE}"]))

    @property
    def _place(self) -> Path:
        """The folder that results are written below: with an object store those here are copies."""
        return self.storage if self.shared is None else self.shared.copies

    def _laid_out(self, folder: str, case: Case, stop: Stop) -> list[results.ResultObject]:
        """The results where every node reaches them; while the object store is away, tried again and again.

        Raises Interrupted, OSError.
        """
        while True:
            objects = write_results(self._place, folder, case.objects)
            if self.shared is None:
                return objects
            try:
                self.shared.publish([item.path for item in objects])
                return objects
            except ObjectStoreAway as error:
                log.error("object store does not answer: waiting for it", why=str(error))
                if stop.wait(AWAY_SECONDS):
                    raise Interrupted from None

    def _draw(self, what: str, draw: Callable[[], None]) -> None:
        """Draw for people, once the results are on their way; without the pictures nothing is lost."""
        try:
            draw()
        except Exception as error:  # noqa: BLE001 - a picture is no result; why there is none is logged
            log.warning("not drawn", what=what, why=f"{type(error).__name__}: {error}")

    def _end(self, ending: Callable[..., None], claim: Claim, why: str, stop: Stop) -> None:
        self._change(lambda session: ending(session, claim, why=why, now=self.clock()), stop)
        log.info("ended", study=claim.study_id, how=ending.__name__, why=why)

    def _put_off(self, claim: Claim, why: str, stop: Stop) -> None:
        """Give a study back for a while; it is not its fault, so no attempt is counted."""
        now = self.clock()
        self._change(
            lambda session: claims.release(session, claim, why=why, now=now, not_before=now + RETRY_AFTER),
            stop,
        )
        log.warning("tried again later", study=claim.study_id, why=why)

    def _try_again(self, claim: Claim, why: str, stop: Stop) -> None:
        if claim.attempt >= self.max_attempts:
            self._end(claims.fail, claim, f"{why} (attempt {claim.attempt} of {self.max_attempts})", stop)
            return
        now = self.clock()
        later = now + RETRY_AFTER * claim.attempt
        self._change(
            lambda session: claims.retry_later(session, claim, why=why, not_before=later, now=now), stop
        )
        log.warning("tried again later", study=claim.study_id, why=why)

    def _change(self, change: Callable[[Session], None], stop: Stop) -> None:
        """Change the store; while the database is away, again and again, so that no finished work is lost.

        Told to stop it gives up, and the study's lease runs out. Raises LeaseLost and
        what `store.connection.STORE_AWAY` names.
        """
        while True:
            try:
                with self.database.write() as session:
                    change(session)
                return
            except STORE_AWAY as error:
                self._database_away(error)
                if stop.wait(AWAY_SECONDS):
                    raise

    def _database_away(self, error: DBAPIError) -> None:
        log.error("database does not answer: waiting for it", why=" ".join(str(error.orig).split())[:200])

    @contextmanager
    def _heartbeat(self, claim: Claim) -> Iterator[None]:
        """Renew the lease from a thread of its own while the study is in work."""
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(claim, done), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, claim: Claim, done: threading.Event) -> None:
        while not done.wait(self.lease.total_seconds() / 4):
            try:
                with self.database.write() as session:
                    claims.renew(session, claim, lease=self.lease, now=self.clock())
            except LeaseLost:
                return  # the work itself meets LeaseLost when it wants to record its results
            except Exception as error:  # noqa: BLE001 - one missed beat is no reason to stop; the lease covers three
                log.warning("heartbeat missed", study=claim.study_id, why=str(error))


def _occasion(claim: Claim) -> Callable[[Volume], Occasion]:
    """The circumstances that the store has frozen, so that a retry gives the same bytes."""

    def of(volume: Volume) -> Occasion:
        return Occasion(
            result_time=claim.revision_created_at.astimezone().replace(tzinfo=None),
            revision=claim.revision,
            predecessor=_predecessor(claim),
        )

    return of


def _predecessor(claim: Claim) -> PredecessorReport | None:
    if not claim.predecessors:
        return None
    sop_class, sop_instance, series = claim.predecessors[0]
    return PredecessorReport(claim.study_instance_uid, series, sop_instance, sop_class)
