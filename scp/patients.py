"""Who a study is of, and what tells two patients with one id apart."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Person:
    """What tells two patients with one id apart (PS3.3 C.7.1.1). Empty where the header does not say."""

    birth_date: str
    sex: str
    name: str


def person_in(header: Dataset) -> Person:
    """The person that a data set or the answer to a query names."""
    return Person(*(str(header.get(k) or "") for k in ("PatientBirthDate", "PatientSex", "PatientName")))


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


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
