"""Codes that a package's metadata names: read, and checked as far as that goes without a terminology server."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydicom.sr.codedict import Collection

from engine.findings import Code
from engine.package_contract import Section

CHECKED_SCHEMES = ("SCT", "DCM")
"""Schemes whose values can be checked: SNOMED CT by its check digit, DICOM by its list."""

SCHEMES = (*CHECKED_SCHEMES, "RADLEX", "LN", "FMA", "UMLS", "NCIt", "I10", "I11")
"""Coding scheme designators that are taken (PS3.16 chapter 8), beside private ones."""

_PRIVATE = re.compile(r"99[A-Za-z0-9_-]{1,14}")

_TIMES = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_TURNED = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip
"""Verhoeff's tables: multiplication in the dihedral group D5, and the permutation of each place."""


def ascii_text(least: int, most: int) -> StringConstraints:
    """Printable ASCII without backslash: it has to fit every character set that a source may have."""
    return StringConstraints(min_length=least, max_length=most, pattern=r"^[ -\[\]-~]*$")


class CodeEntry(Section):
    """A code as metadata give it. value: SH, at most 16 characters; meaning: LO, at most 64 (PS3.5 6.2)."""

    value: Annotated[str, ascii_text(1, 16)]
    scheme: Annotated[str, ascii_text(2, 16)]
    meaning: Annotated[str, ascii_text(1, 64)]

    @property
    def code(self) -> Code:
        return Code(self.value, self.scheme, self.meaning)


def checked(entry: CodeEntry) -> CodeEntry:
    """The same code. Raises ValueError for a scheme or, where that can be told, a value that does not exist."""
    if entry.scheme not in SCHEMES and not _PRIVATE.fullmatch(entry.scheme):
        raise ValueError(
            f"unknown coding scheme {entry.scheme!r}; allowed are {', '.join(SCHEMES)} and your own, 99 and a name"
        )
    if entry.scheme == "SCT" and not is_snomed_identifier(entry.value):
        raise ValueError(f"{entry.value!r} is no SNOMED CT identifier: its check digit is wrong")
    if entry.scheme == "DCM" and entry.value not in _dicom_values():
        raise ValueError(f"{entry.value!r} is no code of DICOM (PS3.16 annex D)")
    return entry


CheckedCode = Annotated[CodeEntry, AfterValidator(checked), Field()]


def is_snomed_identifier(value: str) -> bool:
    """Whether `value` has the form of a SNOMED CT identifier: 6 to 18 digits, the last one a Verhoeff check digit."""
    if not re.fullmatch(r"[1-9][0-9]{5,17}", value):
        return False
    check = 0
    for place, digit in enumerate(reversed(value)):
        check = int(_TIMES[check][int(_TURNED[place % 8][int(digit)])])
    return check == 0


@cache
def _dicom_values() -> frozenset[str]:
    return frozenset(concept.value for concept in Collection("DCM").concepts.values())
