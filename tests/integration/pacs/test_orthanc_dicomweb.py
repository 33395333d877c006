"""STOW-RS to Orthanc's DICOMweb plugin."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom.dataset import Dataset

from reporting.delivery.scu import Verdict, parcel, store
from reporting.delivery.stow import StowSender, StowService
from scp.completeness import CompletenessPolicy, complete_due
from scp.pacs_query.dicomweb import DicomwebSource
from scp.pacs_query.source import SourceUnreachable
from scp.peer import Peer

pytestmark = pytest.mark.orthanc


@pytest.fixture
def service(orthanc: Any) -> StowService:
    if "dicom-web" not in orthanc.ask("/plugins"):
        pytest.skip("Orthanc has no DICOMweb plugin; on Debian: apt install orthanc-dicomweb")
    return StowService(f"{orthanc.http}/dicom-web")


def test_objects_arrive_and_an_older_one_is_noticed(
    orthanc: Any, service: StowService, written: Callable[..., Path], ct: Callable[..., Dataset]
) -> None:
    paths = [written(1), written(2, size=1024)]
    outcomes = list(StowSender(service)([parcel(p) for p in paths]))
    assert [(o.verdict, o.reason) for o in outcomes] == [(Verdict.STORED, "")] * 2
    assert len(orthanc.ask("/instances")) == 2
    changed = ct(1)
    changed.SeriesDescription = "another result under the same UID"
    changed.save_as(paths[0], enforce_file_format=True)
    (outcome,) = StowSender(service)([parcel(paths[0])])
    assert outcome.verdict is Verdict.NOT_ACCEPTED, outcome
    assert "another object" in outcome.reason


def test_orthanc_is_asked_by_qido_and_gives_what_is_missing_by_wado(
    orthanc: Any, service: StowService, start_node: Callable[..., Any], written: Callable[..., Path]
) -> None:
    paths = [written(n) for n in range(1, 8)]
    orthanc.keep(*paths)
    node = start_node(orthanc, query_source=None, dicomweb_source={"url": service.url})
    outcomes = list(store(Peer("LUNGNODE", "127.0.0.1", node.port), [parcel(p) for p in paths[:4]], "CT1"))
    assert all(o.status == 0x0000 for o in outcomes)
    policy = CompletenessPolicy(timedelta(minutes=5), timedelta(minutes=30), timedelta(minutes=5))
    deadline = time.monotonic() + 60
    done: list[Any] = []
    while not done and time.monotonic() < deadline:
        done = complete_due(node.database, policy, datetime.now(UTC), node.grounds)
        time.sleep(0.05)
    assert done and "states 7 instances in 1 series, 7 are here (3 fetched)" in done[0].why
    again = list(store(Peer("LUNGNODE", "127.0.0.1", node.port), [parcel(p) for p in paths], "CT1"))
    assert all(o.status == 0x0000 for o in again), "what was fetched is the same as what is sent"


def test_a_study_that_orthanc_does_not_know_and_a_server_that_is_away(service: StowService) -> None:
    source = DicomwebSource(service.url, requests.Session())
    assert source.series("1.2.3.4.5") == ()
    with pytest.raises(SourceUnreachable):
        DicomwebSource("http://127.0.0.1:1/dicom-web", requests.Session()).series("1.2")
