"""Which of the studies that a PACS names is the prior of a study, and which of its series to fetch. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pydicom.dataset import Dataset

from scp.pacs_query.source import SeriesStatement, StudyStatement
from scp.patients import Person, different_person, person_in

_CHEST = re.compile(r"chest|thora|torax|lung|pulm", re.IGNORECASE)
_MATCHED_OTHERWISE = re.compile(r"[*?\\]")
"""Characters of a patient id that a query would take for more than that id (PS3.4 C.2.2.2)."""


@dataclass(frozen=True)
class CurrentStudy:
    """The study whose prior is sought. date, time: as in its headers (DA, TM)."""

    study_instance_uid: str
    patient_id: str
    issuer: str
    person: Person
    date: str
    time: str


@dataclass(frozen=True)
class Candidates:
    """The studies that may be the prior, the newest first, and why others may not."""

    studies: tuple[StudyStatement, ...]
    refused: tuple[str, ...]


def current_study(header: Dataset) -> CurrentStudy:
    """The study that an image is of."""
    text = [
        str(header.get(k) or "").strip()
        for k in ("StudyInstanceUID", "PatientID", "IssuerOfPatientID", "StudyDate", "StudyTime")
    ]
    return CurrentStudy(text[0], text[1], text[2], person_in(header), text[3], text[4])


def unsearchable(current: CurrentStudy) -> str | None:
    """Why no prior of this study can be asked for; None where one can."""
    if not current.patient_id:
        return "no prior is asked for: the images have no patient id"
    if _MATCHED_OTHERWISE.search(current.patient_id):
        return "no prior is asked for: the patient id has characters that a query would take for a pattern"
    if day_of(current.date) is None:
        return "no prior is asked for: the images have no study date"
    return None


def candidates(current: CurrentStudy, stated: Sequence[StudyStatement], within: timedelta) -> Candidates:
    """The studies of this patient that came before, at most `within` before."""
    taken, refused = [], []
    for study in stated:
        if study.study_instance_uid == current.study_instance_uid:
            continue
        why = _refusal(current, study, within)
        if why is None:
            taken.append(study)
        else:
            refused.append(f"{study.study_instance_uid}: {why}")
    taken.sort(key=lambda s: (s.date, s.time), reverse=True)
    return Candidates(tuple(taken), tuple(refused))


def chest_series(
    study: StudyStatement, stated: Sequence[SeriesStatement], fewest: int
) -> tuple[SeriesStatement, ...]:
    """The CT series that may show a chest: those that say so, else those that do not say what they show.

    fewest: images that a series must have, where the PACS tells how many it has.
    """
    long_enough = [s for s in stated if s.modality == "CT" and (s.count is None or s.count >= fewest)]
    said = [s for s in long_enough if _CHEST.search(f"{s.body_part} {s.description}")]
    if said:
        return tuple(said)
    if _CHEST.search(study.description):
        return tuple(long_enough)
    return tuple(s for s in long_enough if not s.body_part)


def day_of(text: str) -> date | None:
    """A date of a header (PS3.5 6.2, VR DA); None where it is none."""
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _refusal(current: CurrentStudy, study: StudyStatement, within: timedelta) -> str | None:
    if study.patient_id != current.patient_id:
        return "is of another patient id"
    if study.issuer and current.issuer and study.issuer != current.issuer:
        return "has the patient id of another issuer"
    if (why := different_person(current.person, study.person)) is not None:
        return why
    now, then = day_of(current.date), day_of(study.date)
    if now is None or then is None:
        return "has no study date"
    if then > now or (then == now and not (study.time and study.time < current.time)):
        return "is not earlier"
    return f"is more than {within.days} days earlier" if now - then > within else None
