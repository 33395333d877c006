"""Whose study it is, read from one of its images when somebody who may look asks: the store holds no identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from engine.headers import MALFORMED

TAGS = [
    "PatientName",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "StudyDate",
    "StudyDescription",
    "AccessionNumber",
]


@dataclass(frozen=True)
class Identity:
    """What an image says of its patient and study, as people read it."""

    name: str
    patient_id: str
    sex: str
    age: str
    study_date: str
    description: str
    accession: str


def identity_of(path: Path) -> Identity | None:
    """The identity in an image file; None where it cannot be read now, for instance since it was deleted."""
    try:
        return _read_once(path)
    except MALFORMED:
        return None


@lru_cache(maxsize=4096)
def _read_once(path: Path) -> Identity:
    """Only what was read is kept: a file that could not be read may be there at the next look."""
    return _identity_in(
        pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*TAGS, "SpecificCharacterSet"])
    )


def _identity_in(dataset: Dataset) -> Identity:
    date = str(dataset.get("StudyDate", ""))
    return Identity(
        name=str(dataset.get("PatientName", "")).replace("^", " ").strip(),
        patient_id=str(dataset.get("PatientID", "")),
        sex=str(dataset.get("PatientSex", "")),
        age=str(dataset.get("PatientAge", "")).lstrip("0"),
        study_date=f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else date,
        description=str(dataset.get("StudyDescription", "")),
        accession=str(dataset.get("AccessionNumber", "")),
    )


def digest_of_patient(patient_id: str, issuer: str = "") -> str:
    """How the store knows a patient: see `scp.instances.patient_digest`."""
    return hashlib.sha256(patient_id.encode() + b"\0" + issuer.encode()).hexdigest()
