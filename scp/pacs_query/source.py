"""What a query source answers, whatever it is asked with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from scp.patients import Person, person_in


@dataclass(frozen=True)
class SeriesStatement:
    """What the PACS says of one series. count: None where it does not tell; the texts empty likewise."""

    series_instance_uid: str
    modality: str
    count: int | None
    body_part: str = ""
    description: str = ""


@dataclass(frozen=True)
class StudyStatement:
    """What the PACS says of one study. date, time: as in headers (DA, TM); empty for what it does not tell."""

    study_instance_uid: str
    patient_id: str
    issuer: str
    person: Person
    date: str
    time: str
    description: str


def series_statement(answer: Dataset) -> SeriesStatement:
    """One match of a query for series, by C-FIND or QIDO-RS."""
    count = str(answer.get("NumberOfSeriesRelatedInstances") or "")
    return SeriesStatement(
        str(answer.SeriesInstanceUID),
        str(answer.get("Modality") or ""),
        int(count) if count.isdecimal() else None,
        str(answer.get("BodyPartExamined") or ""),
        str(answer.get("SeriesDescription") or ""),
    )


def study_statement(answer: Dataset) -> StudyStatement:
    """One match of a query for studies, by C-FIND or QIDO-RS."""
    keys = ("PatientID", "IssuerOfPatientID", "StudyDate", "StudyTime", "StudyDescription")
    patient_id, issuer, day, time, description = (str(answer.get(k) or "").strip() for k in keys)
    return StudyStatement(
        str(answer.StudyInstanceUID), patient_id, issuer, person_in(answer), day, time, description
    )


SERIES_KEYS = ("Modality", "NumberOfSeriesRelatedInstances", "BodyPartExamined", "SeriesDescription")
"""What is asked for of a series beside its UID."""
STUDY_KEYS = (
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
)
"""What is asked for of a patient's study beside its UID and the patient id."""


@dataclass(frozen=True)
class FetchedInstance:
    """An instance that came in answer to a request of ours: its encoded data set as received."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes


Receive = Callable[[FetchedInstance], int]
"""Takes a fetched instance in with the same durable receipt as C-STORE; returns the DIMSE status."""


class QueryFailed(Exception):
    """The source was not reached, refused, or answered an error; one line that says which."""


class SourceUnreachable(QueryFailed):
    """Nobody is there to ask: it may be another time."""


@contextmanager
def legible(name: str) -> Iterator[None]:
    """What reads an answer of the source `name` fails by QueryFailed where the answer is malformed."""
    try:
        yield
    except MALFORMED as error:
        said = " ".join(str(error).split())[:160]
        raise QueryFailed(f"{name}: the answer cannot be read: {said or type(error).__name__}") from None


class QuerySource(Protocol):
    """A PACS that can be asked."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    def series(self, study_instance_uid: str) -> tuple[SeriesStatement, ...]:
        """The series of a study; empty where the source does not know it. Raises QueryFailed."""
        ...

    def studies_of(self, patient_id: str) -> tuple[StudyStatement, ...]:
        """The studies with CT of a patient id, which must hold no wildcard. Raises QueryFailed."""
        ...

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> frozenset[str]:
        """SOP Instance UIDs of a series. Raises QueryFailed."""
        ...

    def fetch(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uids: Collection[str],
        receive: Receive,
    ) -> None:
        """Fetch instances of one series; they come through `receive` or the listener. Raises QueryFailed."""
        ...
