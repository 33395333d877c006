"""STOW-RS to Orthanc's DICOMweb plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from reporting.delivery.scu import Verdict, parcel
from reporting.delivery.stow import StowSender, StowService

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
