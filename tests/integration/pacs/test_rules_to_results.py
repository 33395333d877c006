"""Rules that name packages, destinations and priorities, from reception to the results; and a prior in the report."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from tiny_packages import SYSTEMS, write_package

from node.casework import open_casework, open_special_casework
from node.caseworks import Caseworks
from node.configuration import Configuration
from node.phantom import phantom_study, phantom_volume
from node.routing.deciding import Router
from node.worker import Worker
from scp.completeness import CompletenessPolicy, complete_due
from store import queries, receipts
from store.database import Database, open_database
from store.migrations import upgrade
from store.models import Result, Screening

OLDER, NEWER = "1.2.826.0.1.98.1", "1.2.826.0.1.98.2"
START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
RULES = [
    {
        "name": "emergency",
        "when": {"tags": {"StudyDate": "20260129"}},
        "then": {"packages": ["jcs-b", "m3lung-b"], "destinations": ["er"], "priority": "urgent"},
    },
    {"name": "rest", "then": {"priority": "background"}},
]


@dataclass(frozen=True)
class Outcome:
    """What the store holds after both studies were screened. order: as they were claimed."""

    database: Database
    storage: Path
    order: tuple[str, ...]

    def summary(self, study: str) -> dict[str, Any]:
        with self.database.read() as session:
            return dict(queries.why(session, study).screenings[-1].summary)

    def destinations(self, study: str) -> set[str]:
        with self.database.read() as session:
            return {line.destination for line in queries.why(session, study).deliveries}

    def report(self, study: str) -> pydicom.Dataset:
        """The SR."""
        with self.database.read() as session:
            rows = session.query(Result.path).join(Screening).filter(Result.kind == "sr").all()
        found = [pydicom.dcmread(self.storage / path) for (path,) in rows]
        return next(report for report in found if report.StudyInstanceUID == study)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Two studies of one patient, one month apart, the older one received last; both go through."""
    storage = tmp_path_factory.mktemp("rules")
    models = [
        write_package(storage / f"{system}-{which}", system, name=f"{system}-{which}")
        for which in "ab"
        for system in SYSTEMS
    ]
    where = {"host": "127.0.0.1", "port": 104, "objects": ["sr"]}
    configuration = Configuration(
        models=tuple(models),
        routing=RULES,
        destinations=[{"name": name, "ae_title": name.upper(), **where} for name in ("er", "pacs")],
    )
    url = f"sqlite:///{storage / 'lungnode.db'}"
    upgrade(url)
    database = open_database(url)
    volume = phantom_volume(64, 96)
    now = START
    for uid, taken in ((NEWER, datetime(2026, 3, 1)), (OLDER, datetime(2026, 1, 29))):
        _receive(database, storage, uid, volume, taken, now)
        now += timedelta(minutes=1)
        router = Router(database, storage, configuration.routing)
        (done,) = complete_due(
            database, CompletenessPolicy(timedelta(seconds=1), timedelta(hours=1)), now, None, router.route
        )
        assert done.study_instance_uid == uid
    order = []
    with ExitStack() as opened:
        casework, special = open_casework(configuration), open_special_casework(configuration)
        for one in (casework, *special.values()):
            opened.enter_context(one.executor)
        worker = Worker(
            database=database,
            storage=storage,
            caseworks=lambda: Caseworks(casework, special),
            destinations=configuration.destination_objects,
            name="worker",
            lease=timedelta(hours=1),
            max_attempts=1,
            clock=lambda: now,
        )
        while worker.work_one(threading.Event()):
            with database.read() as session:
                lines = queries.list_studies(session)
            screened = [s.study_instance_uid for s in lines if s.state not in ("complete", "screening")]
            order += [uid for uid in screened if uid not in order]
    yield Outcome(database, storage, tuple(order))
    database.close()


def _receive(
    database: Database, storage: Path, uid: str, volume: Any, taken: datetime, now: datetime
) -> None:
    with database.write() as session:
        for number, dataset in enumerate(phantom_study(volume, taken, uid)):
            path = storage / f"{uid}-{number}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            instance = receipts.ReceivedInstance(
                uid,
                dataset.SeriesInstanceUID,
                dataset.SOPInstanceUID,
                dataset.SOPClassUID,
                dataset.file_meta.TransferSyntaxUID,
                "CT",
                "0" * 64,
                f"{number:064x}",
                path.stat().st_size,
                path.name,
            )
            receipts.record_instance(session, instance, association_id=None, now=now)


def test_the_rule_gives_turn_packages_and_destinations(outcome: Outcome) -> None:
    assert outcome.order == (OLDER, NEWER), "urgent before background, though it came later"
    assert {p["name"] for p in outcome.summary(OLDER)["packages"]} == {"jcs-b", "m3lung-b"}
    assert {p["name"] for p in outcome.summary(NEWER)["packages"]} == {"jcs-a", "m3lung-a"}
    assert outcome.destinations(OLDER) == {"er"}
    assert outcome.destinations(NEWER) == {"er", "pacs"}


def test_the_report_and_the_summary_compare_with_the_prior(outcome: Outcome) -> None:
    prior = outcome.summary(NEWER)["prior"]
    assert (prior["study_instance_uid"], prior["days_between"]) == (OLDER, 31)
    assert prior["lesion_volume_change_ml"] == pytest.approx(0.0)
    report = outcome.report(NEWER)
    assert OLDER in str(report) and outcome.report(OLDER).SOPInstanceUID in str(report)
    assert "prior" not in outcome.summary(OLDER)
