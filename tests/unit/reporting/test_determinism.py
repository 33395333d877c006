"""Same inputs, same bytes; other inputs, other UIDs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from pydicom.dataset import Dataset

from engine.findings import Findings
from engine.volume import Volume
from reporting import OBJECT_KINDS, ReportContext, ReportOptions, build, last_acquisition
from reporting.phantom_case import PhantomCase, make_case

RUN = """
import hashlib, sys
from datetime import datetime
from reporting import OBJECT_KINDS, ReportContext, build
from reporting.phantom_case import PhantomCase, make_case
context = ReportContext(datetime(2026, 1, 2, 11, 30, 15, 250000), settings_hash="5" * 64, software_version="0.1.0")
results = build(*make_case(PhantomCase()), context, OBJECT_KINDS)
print("\\n".join(f"{r.name} {hashlib.sha256(r.encoded).hexdigest()}" for r in results))
"""


def uids(findings: Findings, volume: Volume, context: ReportContext) -> dict[str, str]:
    results = build(findings, volume, context, ("seg", "gsps", "pm", "sr"))
    return {r.kind: str(r.dataset.SOPInstanceUID) for r in results}


def test_two_processes_write_the_same_bytes() -> None:
    """Two processes, since a process has one hash seed and one start time."""
    runs = [
        subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True).stdout
        for _ in (1, 2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].splitlines()) >= len(OBJECT_KINDS)


def test_time_taken_is_no_part_of_a_result(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    slow = dataclasses.replace(findings, timings_s={"classify": 99.0})
    for a, b in zip(
        build(findings, volume, context, OBJECT_KINDS),
        build(slow, volume, context, OBJECT_KINDS),
        strict=True,
    ):
        assert a.encoded == b.encoded


def other_package(findings: Findings) -> Findings:
    package = dataclasses.replace(findings.jcs.package, sha256="c" * 64)
    return dataclasses.replace(findings, jcs=dataclasses.replace(findings.jcs, package=package))


@pytest.mark.parametrize(
    "change",
    [
        {"settings_hash": "6" * 64},
        {"software_version": "0.2.0"},
        {"station_name": "OTHER"},
        {"options": ReportOptions(charset="keep")},
    ],
)
def test_other_settings_give_new_uids(change: dict[str, object], context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    before, after = (
        uids(findings, volume, context),
        uids(findings, volume, dataclasses.replace(context, **change)),
    )
    assert not set(before.values()) & set(after.values())


def test_another_package_gives_new_uids(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    before, after = uids(findings, volume, context), uids(other_package(findings), volume, context)
    assert not set(before.values()) & set(after.values())


def test_another_set_of_instances_gives_new_uids(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    sources = (*volume.sources[:-1], dataclasses.replace(volume.sources[-1], sop_instance_uid="1.2.3.4"))
    volume.headers[-1].SOPInstanceUID = "1.2.3.4"
    other = dataclasses.replace(volume, sources=sources)
    before, after = uids(findings, volume, context), uids(findings, other, context)
    assert not set(before.values()) & set(after.values())


def test_a_corrected_patient_gives_new_uids(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    before = uids(findings, volume, context)
    for header in volume.headers:
        header["PatientID"].value = "CORRECTED"
    after = uids(findings, volume, context)
    assert not set(before.values()) & set(after.values())


def test_uids_are_legal_and_differ(context: ReportContext) -> None:
    results = build(*make_case(PhantomCase()), context, OBJECT_KINDS)
    instances = [r.dataset.SOPInstanceUID for r in results]
    assert len(set(instances)) == len(instances)
    for uid in (*instances, *(r.dataset.SeriesInstanceUID for r in results)):
        assert uid.is_valid
        assert uid.startswith("2.25.")
        assert len(uid) <= 44
    assert len({r.name for r in results}) == len(results)


def test_every_date_is_the_frozen_one(context: ReportContext) -> None:
    def moments(dataset: Dataset) -> None:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    moments(item)
            elif element.VR == "DA" and not element.keyword.startswith(("Study", "PatientBirth")):
                assert str(element.value) == "20260102", element.keyword
            elif element.VR == "TM" and not element.keyword.startswith("Study"):
                assert str(element.value) == "113015.250000", element.keyword
            elif element.VR == "DT" and element.value:
                assert str(element.value).startswith("20260102113015"), element.keyword

    for result in build(*make_case(PhantomCase()), context, OBJECT_KINDS):
        moments(result.dataset)


def test_files_name_this_program_as_their_writer(context: ReportContext) -> None:
    for result in build(*make_case(PhantomCase()), context, OBJECT_KINDS):
        assert result.dataset.file_meta.ImplementationVersionName == "LUNGNODE"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"AcquisitionDate": "20260301", "AcquisitionTime": "101112.5"}, datetime(2026, 3, 1, 10, 11, 12)),
        ({"AcquisitionDate": "2026.03.01", "AcquisitionTime": "10:11:12"}, datetime(2026, 3, 1, 10, 11, 12)),
        ({"AcquisitionDate": "20261301", "ContentDate": "20260302"}, datetime(2026, 3, 2)),
        ({"StudyDate": "20260303", "StudyTime": "11"}, datetime(2026, 3, 3, 11)),
        ({"StudyDate": ""}, datetime(1900, 1, 1)),
        ({}, datetime(1900, 1, 1)),
    ],
)
def test_time_of_a_study_without_a_store(attributes: dict[str, str], expected: datetime) -> None:
    identity = Dataset()
    identity.StudyInstanceUID = "1.2.3"
    for keyword, value in attributes.items():
        identity.add_new(keyword, "TM" if keyword.endswith("Time") else "DA", value)
    _, volume = make_case(PhantomCase(slices=2, lesion_slices=0), identity)
    assert last_acquisition(volume) == expected


def test_latest_acquisition_counts() -> None:
    _, volume = make_case(PhantomCase(slices=3, lesion_slices=0))
    for i, header in enumerate(volume.headers):
        header.AcquisitionDate, header.AcquisitionTime = "20260301", f"10000{(i * 2) % 3}"
    assert last_acquisition(volume) == datetime(2026, 3, 1, 10, 0, 2)
    assert np.all([h.AcquisitionDate == "20260301" for h in volume.headers])
