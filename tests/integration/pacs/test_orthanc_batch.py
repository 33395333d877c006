"""A batch from a PACS: CT studies of a range of dates are found and fetched, by DIMSE and by DICOMweb."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

from node.batch.sources import Archive, DateRange, QueriedArchive, study_keys
from scp.pacs_query.dicomweb import DicomwebSource
from scp.pacs_query.dimse import DimseSource

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


def by_dimse(orthanc: Any, dates: DateRange, scratch: Path) -> Archive:
    source = DimseSource(orthanc.peer, "LUNGNODE")
    return QueriedArchive(
        lambda: [str(answer.StudyInstanceUID) for answer in source.find(study_keys(dates))], source, scratch
    )


def by_dicomweb(orthanc: Any, dates: DateRange, scratch: Path) -> Archive:
    if "dicom-web" not in orthanc.ask("/plugins"):
        pytest.skip("Orthanc has no DICOMweb plugin; on Debian: apt install orthanc-dicomweb")
    source = DicomwebSource(f"{orthanc.http}/dicom-web", requests.Session())
    return QueriedArchive(lambda: source.studies(str(dates)), source, scratch)


@pytest.mark.parametrize("archive_of", [by_dimse, by_dicomweb])
def test_studies_of_a_range_of_dates_are_found_and_fetched(
    archive_of: Callable[..., Archive], orthanc: Any, written: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [written(number) for number in (1, 2, 3)]
    sent = {path: pydicom.dcmread(path) for path in paths}
    for dataset in sent.values():
        dataset.StudyDate = "20260115"
    for path, dataset in sent.items():
        dataset.save_as(path, enforce_file_format=True)
    orthanc.keep(*paths)
    day, later = DateRange(date(2026, 1, 15), date(2026, 1, 15)), DateRange(date(2026, 1, 16))
    assert archive_of(orthanc, later, tmp_path / "scratch").studies() == []
    archive = archive_of(orthanc, day, tmp_path / "scratch")
    (study,) = archive.studies()
    with archive.files(study) as files:
        fetched = {str(pydicom.dcmread(file).SOPInstanceUID) for file in files}
    assert fetched == {str(dataset.SOPInstanceUID) for dataset in sent.values()}
    assert list((tmp_path / "scratch").iterdir()) == [], "what was fetched is removed when it was screened"
