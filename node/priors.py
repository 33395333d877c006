"""The change since an earlier screening of the same patient, as part of the summary.

The comparison is refused where it might be of two people, or of two different stretches of lung.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from store import priors
from store.claims import Claim
from store.database import Database

LUNG_RATIO = 0.7
"""Lung volumes that differ by more than this ratio are of different stretches of lung, or of one lung."""


MEASURES = ("lung_volume_ml", "lesion_volume_ml", "lung_involvement_percent")


@dataclass(frozen=True)
class Person:
    """What tells two patients with one id apart. Empty where the header does not say."""

    birth_date: str
    sex: str
    name: str


@dataclass(frozen=True)
class Occasion:
    """A screened study: who, when, and its findings' summary."""

    study_instance_uid: str
    person: Person
    day: date | None
    summary: dict[str, Any]


class NotComparable(Exception):
    """Two studies must not be compared; one line with the reason."""


def different_person(one: Person, other: Person) -> str | None:
    """Why two patients with one id are taken for two people; None where they are one.

    Birth dates decide where both have one; else the names must be the same.
    """
    if one.birth_date and other.birth_date:
        if one.birth_date != other.birth_date:
            return "the patients have one id but different birth dates"
    elif not one.name or _letters(one.name) != _letters(other.name):
        return "without birth dates, the patients' names differ or are missing"
    if one.sex and other.sex and one.sex != other.sex:
        return "the patients have one id but different sexes"
    return None


def change(now: Occasion, before: Occasion) -> dict[str, Any]:
    """The change of lesion volume (ml) and involvement (points), and the days between. Raises NotComparable."""
    if (why := different_person(now.person, before.person)) is not None:
        raise NotComparable(why)
    if now.day is None or before.day is None:
        raise NotComparable("a study date is missing")
    days = (now.day - before.day).days
    if days < 0:
        raise NotComparable("the other study is the later one")
    if any(
        not isinstance(s.get(key), int | float) for s in (now.summary, before.summary) for key in MEASURES
    ):
        raise NotComparable("a screening without volumes")
    lungs = sorted(float(s["lung_volume_ml"]) for s in (now.summary, before.summary))
    if lungs[0] < LUNG_RATIO * lungs[1]:
        raise NotComparable(f"the lungs covered differ: {lungs[0]:.0f} ml and {lungs[1]:.0f} ml")
    return {
        "study_instance_uid": before.study_instance_uid,
        "days_between": days,
        "lesion_volume_ml": float(before.summary["lesion_volume_ml"]),
        "lesion_volume_change_ml": _difference(now, before, "lesion_volume_ml"),
        "lung_involvement_percent": float(before.summary["lung_involvement_percent"]),
        "lung_involvement_change_points": _difference(now, before, "lung_involvement_percent"),
    }


def since_prior(now: Occasion, earlier: Iterable[Occasion]) -> dict[str, Any] | None:
    """The change since the newest earlier study that can be compared, and why others were not; None without any."""
    refused: list[dict[str, str]] = []
    newest_first = sorted(earlier, key=lambda o: o.day or date.min, reverse=True)
    for before in newest_first:
        try:
            return change(now, before) | {"refused": refused}
        except NotComparable as error:
            refused.append({"study_instance_uid": before.study_instance_uid, "why": str(error)})
    return {"refused": refused} if refused else None


def prior_of(
    database: Database, storage: Path, claim: Claim, summary: dict[str, Any]
) -> dict[str, Any] | None:
    """What the summary of a claimed study says of its priors in this node's store; None where it has none.

    Who a patient is, is read from an image or, when that was deleted, from the report in the outbox.
    """
    with database.read() as session:
        found = priors.earlier_screenings(session, claim.study_id, claim.patient_digest)
    if not found:
        return None
    now = _occasion(claim.study_instance_uid, [storage / path for path in claim.paths[:1]], summary)
    return since_prior(
        now,
        [
            _occasion(
                f.study_instance_uid,
                [storage / path for path in (f.image, f.report) if path is not None],
                f.summary,
            )
            for f in found
        ],
    )


def _occasion(study: str, files: Iterable[Path], summary: dict[str, Any]) -> Occasion:
    header = next((h for h in map(_header, files) if h is not None), Dataset())
    person = Person(*(str(header.get(k) or "") for k in ("PatientBirthDate", "PatientSex", "PatientName")))
    return Occasion(study, person, _day(str(header.get("StudyDate") or "")), summary)


def _header(path: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, *MALFORMED):
        return None


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _difference(now: Occasion, before: Occasion, key: str) -> float:
    return float(now.summary[key]) - float(before.summary[key])


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
