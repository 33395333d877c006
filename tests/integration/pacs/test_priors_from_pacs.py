"""A real PACS is asked for the prior of a study, and gives it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from node import pacs_services
from reporting.delivery.scu import parcel, store
from scp.peer import Peer
from store import claims, queries, results, revisions
from store.states import StudyState

CURRENT, NEWEST = "1.2.826.0.1.99.1", "1.2.826.0.1.99.20"
OLDER, OTHER_PERSON, HEAD = "1.2.826.0.1.99.21", "1.2.826.0.1.99.22", "1.2.826.0.1.99.23"


@pytest.fixture(
    params=[
        pytest.param("get", marks=pytest.mark.orthanc),
        pytest.param("dicomweb", marks=[pytest.mark.orthanc, pytest.mark.slow]),
    ]
)
def source(request: pytest.FixtureRequest, orthanc: Any) -> dict[str, Any]:
    """The section of the configuration that names Orthanc."""
    if request.param == "dicomweb":
        if "dicom-web" not in orthanc.ask("/plugins"):
            pytest.skip("Orthanc has no DICOMweb plugin; on Debian: apt install orthanc-dicomweb")
        return {"query_source": None, "dicomweb_source": {"url": f"{orthanc.http}/dicom-web"}}
    return {}


@pytest.fixture
def study(tmp_path: Path, ct: Callable[..., Dataset]) -> Callable[..., list[Path]]:
    """Write the images of a study; attributes by keyword."""

    def write(uid: str, date: str, images: int = 3, **attributes: str) -> list[Path]:
        paths = []
        for number in range(1, images + 1):
            dataset = ct(number)
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid, f"{uid}.1"
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1.{number}"
            dataset.PatientID, dataset.PatientName = "P1", "Doe^Anna"
            dataset.PatientBirthDate, dataset.PatientSex = "19500101", "F"
            dataset.StudyDate, dataset.StudyTime, dataset.BodyPartExamined = date, "090000", "CHEST"
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
            paths.append(tmp_path / f"{uid}.{number}.dcm")
            dataset.save_as(paths[-1], enforce_file_format=True)
        return paths

    return write


def test_the_newest_prior_chest_of_the_same_person_is_fetched(
    orthanc: Any, start_node: Callable[..., Any], study: Callable[..., list[Path]], source: dict[str, Any]
) -> None:
    orthanc.keep(
        *study(OLDER, "20250101"),
        *study(NEWEST, "20260101"),
        *study(OTHER_PERSON, "20260120", PatientBirthDate="19991231"),
        *study(HEAD, "20260130", BodyPartExamined="HEAD"),
    )
    settings = source | {"priors": {"fetch": True}, "screening": {"min_slices": 3}}
    node = start_node(orthanc, **settings)
    current = study(CURRENT, "20260201")
    outcomes = list(store(Peer("LUNGNODE", "127.0.0.1", node.port), [parcel(p) for p in current], "CT1"))
    assert all(o.status == 0x0000 for o in outcomes), outcomes
    with node.database.write() as session:
        (received,) = revisions.receiving_studies(session)
        revisions.complete_study(session, received.study_id, who="t", why="t", now=datetime.now(UTC))
    with node.database.write() as session:
        now, hour = datetime.now(UTC), timedelta(hours=1)
        claim = claims.claim_next(session, worker="w", lease=hour, max_attempts=3, now=now)
        assert claim is not None
        results.record_results(session, claim, [], destinations={}, settings_digest="a", summary={}, now=now)
    seeker = pacs_services.prior_seeker(
        node.configuration, node.database, node.receiver, lambda: datetime.now(UTC)
    )
    assert seeker is not None
    seeker.step(threading.Event())
    with node.database.read() as session:
        prior = queries.why(session, NEWEST).study
        said = [entry.what for entry in queries.why(session, CURRENT).history]
        everything = {line.study_instance_uid for line in queries.list_studies(session)}
    assert (prior.state, prior.instance_count) == (StudyState.RECEIVING, 3)
    assert everything == {CURRENT, NEWEST}
    assert said[-1].startswith(f"fetching the prior {NEWEST} of 20260101 from ")
