"""Workitems of a worklist are claimed, performed and completed or canceled, against a UPS-RS server of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from pydicom.dataset import Dataset

from node.task_performing import Fetcher, Performer, TaskPerformer
from scp.pacs_query.source import FetchedInstance, QueryFailed, Receive, SeriesStatement
from scp.pacs_query.worklist import WorkitemCode, Worklist, WorklistFailed
from store import claims, results, revisions, workitems
from store.database import Database
from store.states import WorkitemState

CODE = WorkitemCode("CTLUNG", "99TEST", "Screen chest CT")
STUDY = "1.2.3"


@dataclass
class Server:
    """A UPS-RS server (PS3.18 11) that keeps to the states of PS3.4 CC.1.1."""

    items: dict[str, Dataset] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    broken: int = 0

    def schedule(self, uid: str, *studies: str, code: str = CODE.value) -> None:
        item, coded = Dataset(), Dataset()
        coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = code, CODE.scheme, "x"
        item.SOPInstanceUID, item.ProcedureStepState = uid, "SCHEDULED"
        item.ScheduledWorkitemCodeSequence = [coded]
        item.InputInformationSequence = []
        for study in studies:
            given = Dataset()
            given.StudyInstanceUID = study
            item.InputInformationSequence.append(given)
        self.items[uid] = item

    def search(self) -> list[dict[str, Any]]:
        return [i.to_json_dict() for i in self.items.values() if i.ProcedureStepState == "SCHEDULED"]

    def change_state(self, uid: str, transaction: str, state: str) -> int:
        item = self.items[uid]
        if state == "IN PROGRESS":
            if item.ProcedureStepState != "SCHEDULED":
                return 409
            self.owners[uid] = transaction
        elif self.owners.get(uid) != transaction:
            return 409
        elif not {"OutputInformationSequence", "PerformedWorkitemCodeSequence"} <= {
            e.keyword for e in item.UnifiedProcedureStepPerformedProcedureSequence[0]
        }:
            return 409  # final state requirements are not met
        item.ProcedureStepState = state
        return 200

    def update(self, uid: str, transaction: str, changes: Dataset) -> int:
        if self.owners.get(uid) != transaction or self.items[uid].ProcedureStepState != "IN PROGRESS":
            return 409
        self.items[uid].update(changes)
        return 200

    def told(self, uid: str) -> tuple[str, str]:
        """State, and how far it is."""
        item = self.items[uid]
        far = item.get("ProcedureStepProgressInformationSequence")
        return item.ProcedureStepState, far[0].ProcedureStepProgressDescription if far else ""


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def worklist(server: Server) -> Iterator[Worklist]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self, code: int, content: Any = None) -> None:
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(server.broken or code)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _content(self) -> Dataset:
            assert self.headers["Content-Type"] == "application/dicom+json"
            (content,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            return Dataset.from_json(content)

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            assert asked["ProcedureStepState"] == ["SCHEDULED"]
            found = server.search()
            self._answer(200 if found else 204, found or None)

        def do_PUT(self) -> None:
            _, kind, uid, resource = self.path.split("/")
            assert (kind, resource) == ("workitems", "state")
            content = self._content()
            self._answer(server.change_state(uid, content.TransactionUID, content.ProcedureStepState))

        def do_POST(self) -> None:
            address = urlsplit(self.path)
            self._answer(server.update(address.path.split("/")[2], address.query, self._content()))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield Worklist(f"http://127.0.0.1:{http.server_address[1]}", requests.Session(), 5.0)
    http.shutdown()


@dataclass
class Source:
    """A PACS with the study, or one that is away."""

    away: bool = False
    name: str = "PACS"

    def series(self, study: str) -> tuple[SeriesStatement, ...]:
        if self.away:
            raise QueryFailed("PACS could not be reached")
        return (SeriesStatement(f"{study}.1", "CT", 2), SeriesStatement(f"{study}.2", "SR", 1))

    def instances(self, study: str, series: str) -> frozenset[str]:
        return frozenset({f"{series}.1", f"{series}.2"})

    def fetch(self, study: str, series: str, uids: Collection[str], receive: Receive) -> None:
        for uid in uids:
            receive(FetchedInstance("", uid, "", b""))


@pytest.fixture
def performer_with(
    database: Database, worklist: Worklist, record: Callable[..., str], clock: Any
) -> Callable[[Any], TaskPerformer]:
    @contextmanager
    def fetching() -> Iterator[Receive]:
        def receive(instance: FetchedInstance) -> int:
            series, _, number = instance.sop_instance_uid.rpartition(".")
            record(int(number), study=STUDY, series=series)
            return 0x0000

        yield receive

    def make(source: Any) -> TaskPerformer:
        fetcher = None if source is None else Fetcher(source, fetching)
        return TaskPerformer(
            database, worklist, Performer(CODE, "LUNGNODE", "PACS", timedelta(hours=1)), fetcher, clock
        )

    return make


def screen(database: Database, clock: Any) -> None:
    with database.write() as session:
        (study,) = revisions.receiving_studies(session)
        revisions.complete_study(session, study.study_id, who="t", why="t", now=clock())
    with database.write() as session:
        claim = claims.claim_next(session, worker="w", lease=timedelta(hours=1), max_attempts=3, now=clock())
        assert claim is not None
        made = [results.ResultObject("sr", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.5", "2.25.6", "sr.dcm")]
        results.record_results(
            session, claim, made, destinations={}, settings_digest="a", summary={}, now=clock()
        )


def states(database: Database) -> list[tuple[WorkitemState, str]]:
    with database.read() as session:
        return [(w.state, w.told) for w in workitems.under_way(session)]


def test_a_workitem_is_claimed_fetched_performed_and_completed_with_its_results(
    server: Server, performer_with: Any, database: Database, clock: Any
) -> None:
    server.schedule("1.1", STUDY)
    server.schedule("1.2", "1.2.9", code="OTHER")
    performer = performer_with(Source())
    performer.step()
    assert server.told("1.1") == ("IN PROGRESS", "")
    assert server.told("1.2") == ("SCHEDULED", ""), "not for this node"
    performer.step()
    assert server.told("1.1") == ("IN PROGRESS", "images are being received")
    screen(database, clock)
    performer.step()
    assert server.told("1.1") == ("COMPLETED", "results are delivered")
    (done,) = server.items["1.1"].UnifiedProcedureStepPerformedProcedureSequence
    assert done.PerformedProcedureStepStartDateTime.endswith("+0000"), "a time in UTC says that it is"
    (output,) = done.OutputInformationSequence
    assert output.StudyInstanceUID == STUDY
    assert output.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.5"
    assert output.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"
    assert states(database) == []
    performer.step()
    assert server.told("1.1")[0] == "COMPLETED"


def test_what_another_performer_claimed_first_is_left_to_it(
    server: Server, performer_with: Any, database: Database
) -> None:
    server.schedule("1.1", STUDY)
    listed = server.search()
    server.change_state("1.1", "2.25.99", "IN PROGRESS")
    server.search = lambda: listed  # type: ignore[method-assign]
    performer_with(None).step()
    assert server.owners["1.1"] == "2.25.99"
    assert states(database) == []


@pytest.mark.parametrize("claimed", [True, False])
def test_a_process_that_ended_while_it_claimed_goes_on_with_what_is_its_own(
    server: Server, performer_with: Any, database: Database, clock: Any, claimed: bool
) -> None:
    server.schedule("1.1", STUDY)
    with database.write() as session:
        workitems.begin(
            session, workitem_uid="1.1", transaction_uid="2.25.7", study_instance_uid=STUDY, now=clock()
        )
    server.change_state("1.1", "2.25.7" if claimed else "2.25.8", "IN PROGRESS")
    performer_with(None).step()
    assert states(database) == ([(WorkitemState.CLAIMED, "claimed")] if claimed else [])


def test_a_study_that_cannot_be_had_or_screened_cancels_with_the_reason(
    server: Server, performer_with: Any, database: Database, record: Any, clock: Any
) -> None:
    server.schedule("1.1", "1.2.8")
    performer_with(Source(away=True)).step()
    assert server.told("1.1")[0] == "CANCELED"
    (far,) = server.items["1.1"].ProcedureStepProgressInformationSequence
    assert far.ReasonForCancellation == "the images could not be fetched: PACS could not be reached"
    server.schedule("1.2", STUDY)
    record(1)
    with database.write() as session:
        (study,) = revisions.receiving_studies(session)
        revisions.complete_study(session, study.study_id, who="t", why="t", now=clock())
        claim = claims.claim_next(session, worker="w", lease=timedelta(hours=1), max_attempts=3, now=clock())
        assert claim is not None
        claims.skip(session, claim, why="not a chest", now=clock())
    performer = performer_with(None)
    performer.step()
    performer.step()
    assert server.told("1.2")[0] == "CANCELED"
    (far,) = server.items["1.2"].ProcedureStepProgressInformationSequence
    assert far.ReasonForCancellation == "skipped: not a chest"


def test_a_study_that_never_comes_is_canceled_after_a_while(
    server: Server, performer_with: Any, clock: Any
) -> None:
    server.schedule("1.1", STUDY)
    performer = performer_with(None)
    performer.step()
    clock.forward(3599)
    performer.step()
    assert server.told("1.1")[0] == "IN PROGRESS"
    clock.forward(2)
    performer.step()
    assert server.told("1.1")[0] == "CANCELED"


def test_an_input_of_two_studies_is_not_claimed(server: Server, performer_with: Any) -> None:
    server.schedule("1.1", STUDY, "1.2.4")
    performer_with(None).step()
    assert server.told("1.1")[0] == "SCHEDULED"


def test_a_worklist_that_is_away_is_told_and_loses_nothing(
    server: Server, performer_with: Any, database: Database, record: Any
) -> None:
    server.schedule("1.1", STUDY)
    performer = performer_with(None)
    performer.step()
    record(1)
    server.broken = 503
    with pytest.raises(WorklistFailed, match="answered 503"):
        performer.step()
    server.broken = 0
    performer.step()
    assert server.told("1.1") == ("IN PROGRESS", "images are being received")


def test_a_worklist_that_nobody_serves_is_one_clear_line(database: Database, clock: Any) -> None:
    nobody = Worklist("http://127.0.0.1:1/dicom-web", requests.Session(), 5.0)
    performer = Performer(CODE, "LUNGNODE", "PACS", timedelta(hours=1))
    with pytest.raises(WorklistFailed, match=r"^http://127.0.0.1:1/dicom-web: could not be reached$"):
        TaskPerformer(database, nobody, performer, None, clock).step()
