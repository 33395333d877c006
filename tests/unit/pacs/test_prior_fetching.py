"""The search for a prior from a complete study to the comparison, and every way in which it ends without one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from node.casework import Casework, Interrupted
from node.caseworks import Caseworks
from node.prior_fetching import LEASE, MOST_ATTEMPTS, PriorPolicy, PriorRouting, PriorSeeker
from node.worker import Worker
from scp.pacs_query.source import FetchedInstance, QueryFailed, Receive, SeriesStatement, StudyStatement
from scp.patients import Person
from store import claims, prior_searches, queries, receipts, results, revisions
from store.claims import Claim
from store.database import Database
from store.deliveries import Backoff
from store.prior_searches import fetched_for
from store.priorities import Priority
from store.receipts import Peer
from store.states import StudyState

ANNA = Person("19500101", "F", "Doe^Anna")
CURRENT, PRIOR = "1.2.3", "1.2.4"
IMAGE = {"PatientBirthDate": "19500101", "PatientSex": "F", "StudyDate": "20260301", "StudyTime": "1000"}
VERDICTS = {"jcs": {"positive": True}, "m3lung": {"label": "covid19"}}
POLICY = PriorPolicy(within=timedelta(days=1095), fewest_images=3)
BEFORE = StudyStatement(PRIOR, "P1", "", ANNA, "20260201", "0900", "CT Thorax")


@dataclass
class ScriptedSource:
    """A PACS that holds the studies it is told to."""

    studies: tuple[StudyStatement, ...] = (BEFORE,)
    away: str = ""
    breaks_after: int | None = None
    asked: int = 0
    fetched: list[str] = field(default_factory=list)
    name: str = "PACS"

    def studies_of(self, patient_id: str) -> tuple[StudyStatement, ...]:
        self.asked += 1
        if self.away:
            raise QueryFailed(self.away)
        return self.studies

    def series(self, study_instance_uid: str) -> tuple[SeriesStatement, ...]:
        return (SeriesStatement(f"{study_instance_uid}.1", "CT", 3),)

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> frozenset[str]:
        return frozenset(f"{series_instance_uid}.{number}" for number in (1, 2, 3))

    def fetch(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uids: Collection[str],
        receive: Receive,
    ) -> None:
        for uid in sorted(sop_instance_uids):
            if len(self.fetched) == self.breaks_after:
                raise QueryFailed("the association ended")
            receive(FetchedInstance("", uid, "", b""))
            self.fetched.append(uid)


@dataclass
class Node:
    """The store with what the parts of a node do to it."""

    database: Database
    record: Callable[..., str]
    seeker: PriorSeeker
    source: ScriptedSource
    clock: Any

    def step(self) -> None:
        self.seeker.step(threading.Event())

    def complete(self, study: str, **attributes: str) -> None:
        """An image of a study comes, and it is complete."""
        self.record(1, study=study, series=f"{study}.1", **(IMAGE | attributes))
        self.end_reception()

    def end_reception(self) -> None:
        with self.database.read() as session:
            receiving = revisions.receiving_studies(session)
        routing = PriorRouting(self.database, lambda study: None, "PACS", deliver=False)
        for study in receiving:
            decided = routing.route(study)
            with self.database.write() as session:
                revisions.complete_study(
                    session, study.study_id, who="t", why="t", now=self.clock(), routing=decided
                )

    def claim(self) -> Claim | None:
        with self.database.write() as session:
            return claims.claim_next(
                session, worker="w", lease=timedelta(hours=1), max_attempts=3, now=self.clock()
            )

    def screen(self, **summary: Any) -> str:
        """Screen the study whose turn it is; returns its UID."""
        claim = self.claim()
        assert claim is not None
        self.record_screening(claim, **summary)
        return claim.study_instance_uid

    def record_screening(self, claim: claims.Claim, **summary: Any) -> None:
        with self.database.write() as session:
            results.record_results(
                session,
                claim,
                [],
                destinations={},
                settings_digest="a",
                summary=VERDICTS | summary,
                now=self.clock(),
            )

    def search(self) -> None:
        """The current study comes, is screened, and its prior is sought."""
        self.complete(CURRENT)
        self.screen()
        self.step()

    def screen_prior(self) -> None:
        """What was fetched is complete, screened, and taken note of."""
        self.end_reception()
        self.screen()
        self.step()

    def account(self, study: str = CURRENT) -> list[str]:
        with self.database.read() as session:
            return [e.what for e in queries.why(session, study).history]

    def state(self, study: str) -> StudyState:
        with self.database.read() as session:
            return queries.why(session, study).study.state


@pytest.fixture
def node_with(
    database: Database, record: Callable[..., str], tmp_path: Path, clock: Any
) -> Callable[..., Node]:
    def make(source: ScriptedSource, policy: PriorPolicy = POLICY) -> Node:
        @contextmanager
        def fetching() -> Iterator[Receive]:
            def receive(instance: FetchedInstance) -> int:
                series, _, number = instance.sop_instance_uid.rpartition(".")
                record(int(number), study=series.removesuffix(".1"), series=series, **IMAGE)
                return 0x0000

            yield receive

        again = Backoff(timedelta(seconds=5), timedelta(minutes=15))
        seeker = PriorSeeker(database, tmp_path, source, fetching, policy, again, clock)
        return Node(database, record, seeker, source, clock)

    return make


def test_a_prior_is_fetched_for_idle_times_and_compared_in_a_revision(
    node_with: Callable[..., Node],
) -> None:
    node = node_with(ScriptedSource())
    node.complete(CURRENT)
    node.step()
    assert node.source.asked == 0, "the result does not wait for the prior"
    assert node.screen() == CURRENT
    node.step()
    assert len(node.source.fetched) == 3
    assert node.state(PRIOR) is StudyState.RECEIVING
    node.end_reception()
    assert node.screen() == PRIOR
    assert node.state(PRIOR) is StudyState.DELIVERED, "its results are for no destination"
    node.step()
    assert node.state(CURRENT) is StudyState.COMPLETE
    revision = node.claim()
    assert revision is not None and (revision.revision, revision.priority) == (2, Priority.IDLE)
    node.record_screening(revision, prior={"study_instance_uid": PRIOR, "refused": []})
    node.step()
    assert node.account()[-1] == f"compared with the prior {PRIOR}"
    node.step()
    assert node.account()[-1] == f"compared with the prior {PRIOR}", (
        "a search that ended is not taken up again"
    )
    assert node.source.asked == 1


def test_an_image_that_comes_just_before_the_revision_is_not_left_out(
    node_with: Callable[..., Node],
) -> None:
    node = node_with(ScriptedSource())
    node.search()
    node.end_reception()
    node.screen()
    with node.database.read() as session:
        (awaited,) = prior_searches.awaited(session)
    assert awaited.study_state is StudyState.DELIVERED and awaited.can_be_revised
    node.record(9, study=CURRENT, series=f"{CURRENT}.1", **IMAGE)
    with node.database.write() as session:
        prior_searches.revise(session, awaited.search_id, now=node.clock())
    assert node.state(CURRENT) is StudyState.RECEIVING
    node.end_reception()
    revision = node.claim()
    assert revision is not None and (revision.revision, len(revision.instances)) == (2, 2)


def test_without_revisions_the_account_says_that_the_prior_came_too_late(
    node_with: Callable[..., Node],
) -> None:
    node = node_with(ScriptedSource(), replace(POLICY, revise=False))
    node.search()
    node.screen_prior()
    assert node.state(CURRENT) is StudyState.DELIVERED
    assert node.account()[-1] == f"the prior {PRIOR} was screened after the study, and is not compared"


def test_a_revision_that_refuses_the_prior_is_the_last_word(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource())
    node.search()
    node.screen_prior()
    node.screen(prior={"refused": [{"study_instance_uid": PRIOR, "why": "the lungs covered differ"}]})
    node.step()
    assert node.account()[-1] == f"the prior {PRIOR} is not compared: the lungs covered differ"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (ScriptedSource(studies=()), "PACS has no prior: it has no other CT of this patient"),
        (
            ScriptedSource(studies=(replace(BEFORE, person=replace(ANNA, birth_date="19991231")),)),
            f"{PRIOR}: the patients have one id but different birth dates",
        ),
        (ScriptedSource(studies=(replace(BEFORE, patient_id="P10"),)), f"{PRIOR}: is of another patient id"),
    ],
)
def test_searches_that_find_nothing_say_why(
    node_with: Callable[..., Node], source: ScriptedSource, why: str
) -> None:
    node = node_with(source)
    node.search()
    assert why in node.account()[-1]
    assert source.fetched == []


def test_images_without_a_patient_id_ask_for_nothing(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource())
    node.complete(CURRENT, PatientID="")
    node.screen()
    node.step()
    assert node.source.asked == 0 and "no patient id" in node.account()[-1]


def test_a_pacs_that_is_away_is_asked_later_and_not_for_ever(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource(away="PACS could not be reached"))
    node.complete(CURRENT)
    node.screen()
    for _ in range(2 * MOST_ATTEMPTS):
        node.step()
        node.clock.forward(3600)
    assert node.source.asked == MOST_ATTEMPTS
    assert node.account()[-1] == f"no prior was had in {MOST_ATTEMPTS} attempts: PACS could not be reached"


def test_a_fetch_that_brought_nothing_is_tried_again_and_one_that_brought_a_part_is_completed(
    node_with: Callable[..., Node],
) -> None:
    node = node_with(ScriptedSource(breaks_after=0))
    node.search()
    assert "no prior yet" in node.account()[-1]
    node.source.breaks_after = 2
    node.clock.forward(60)
    node.step()
    node.step()
    assert node.source.asked == 2 and len(node.source.fetched) == 2
    assert node.state(PRIOR) is StudyState.RECEIVING


def test_a_search_whose_process_was_killed_before_anything_came_begins_again(
    node_with: Callable[..., Node],
) -> None:
    node = node_with(ScriptedSource())
    node.complete(CURRENT)
    node.screen()
    with node.database.write() as session:
        prior_searches.begin_new(session, node.clock() - LEASE, node.clock())
        search = prior_searches.claim_due(session, lease=LEASE, now=node.clock())
        assert search is not None
        prior_searches.choose(session, search.search_id, PRIOR, fetched=True, why="killed", now=node.clock())
    node.step()
    assert node.source.fetched == []
    node.clock.forward(LEASE.total_seconds() + 1)
    node.step()
    assert node.account()[-1] == f"no prior yet: nothing came of the prior {PRIOR}"
    node.clock.forward(60)
    node.step()
    assert len(node.source.fetched) == 3


def test_what_a_modality_sends_of_a_prior_makes_it_a_current_study(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource())
    node.search()
    node.end_reception()
    with node.database.write() as session:
        sender = Peer("CT1", "127.0.0.1")
        number = receipts.open_association(
            session, listener="l", peer=sender, called_ae="LUNGNODE", now=node.clock()
        )
        receipts.close_association(session, number, end="released", now=node.clock())
    node.record(9, study=PRIOR, series=f"{PRIOR}.1", association_id=number, **IMAGE)
    node.end_reception()
    claim = node.claim()
    assert claim is not None
    assert (claim.study_instance_uid, claim.priority, claim.routing) == (PRIOR, Priority.NORMAL, None)


def test_nothing_is_fetched_before_all_current_studies_are_screened(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource())
    node.complete(CURRENT)
    node.screen()
    node.record(1, study="1.2.9", series="1.2.9.1", **IMAGE)
    node.step()
    node.end_reception()
    node.step()
    claim = node.claim()
    assert claim is not None
    node.step()
    assert node.source.asked == 0
    with node.database.write() as session:
        claims.skip(session, claim, why="not a chest", now=node.clock())
    node.step()
    assert node.source.fetched != []


def test_a_prior_is_screened_only_where_nothing_else_waits(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource())
    node.search()
    node.end_reception()
    node.clock.forward(30 * 24 * 3600)
    node.record(1, study="1.2.9", series="1.2.9.1", **IMAGE)
    assert node.claim() is None, "a study is being received, so the node is not idle"
    node.end_reception()
    assert node.screen() == "1.2.9", "the prior waits longer, and yet comes last"
    claim = node.claim()
    assert claim is not None and claim.study_instance_uid == PRIOR
    with node.database.read() as session:
        assert not claims.must_give_way(session, claim, node.clock())
    node.record(1, study="1.2.10", series="1.2.10.1", **IMAGE)
    with node.database.read() as session:
        assert claims.must_give_way(session, claim, node.clock())


def test_a_worker_gives_a_prior_back_when_a_current_study_comes(
    node_with: Callable[..., Node], tmp_path: Path
) -> None:
    node = node_with(ScriptedSource())
    node.search()
    node.end_reception()

    class Stages:
        """Casework between two stages of which a current study comes."""

        settings_digest = "a"

        def work(self, *_: Any, stopping: Callable[[], bool], **__: Any) -> None:
            assert not stopping()
            node.record(1, study="1.2.9", series="1.2.9.1", **IMAGE)
            if stopping():
                raise Interrupted

    worker = Worker(
        database=node.database,
        storage=tmp_path,
        caseworks=lambda: Caseworks(cast(Casework, Stages())),
        destinations={},
        name="worker",
        lease=timedelta(hours=1),
        max_attempts=3,
        clock=node.clock,
    )
    assert worker.work_one(threading.Event())
    assert node.state(PRIOR) is StudyState.COMPLETE
    assert node.account(PRIOR)[-1].endswith("gives way to a current study")
    assert not worker.work_one(threading.Event()), "and it is not claimed again while that is being received"


def test_a_prior_that_is_here_is_not_fetched(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource())
    node.complete(PRIOR, StudyDate="20260201")
    node.complete(CURRENT)
    node.screen()
    node.screen()
    node.step()
    node.step()
    assert node.source.fetched == []
    assert f"the prior {PRIOR} is here already" in node.account()
    with node.database.read() as session:
        assert fetched_for(session, PRIOR) is None


def test_a_prior_that_cannot_be_screened_ends_the_search(node_with: Callable[..., Node]) -> None:
    node = node_with(ScriptedSource())
    node.search()
    node.end_reception()
    claim = node.claim()
    assert claim is not None
    with node.database.write() as session:
        claims.skip(session, claim, why="no lungs found in the series", now=node.clock())
    node.step()
    assert node.account()[-1] == f"the prior {PRIOR} was not screened: no lungs found in the series"
