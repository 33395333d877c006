"""Asking a PACS for the studies of a patient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import build_context

from scp.pacs_query.dimse import FIND, DimseSource


@pytest.mark.parametrize("patient_id", ["P-12", "Ä-12", "患者-12"])
def test_a_patient_id_is_asked_for_as_it_is(start_server: Any, patient_id: str) -> None:
    """Without a character set the PACS would get ? for what is not Latin: a wildcard, which matches other patients."""
    asked: list[Dataset] = []

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        yield 0x0000, None

    pacs = start_server([build_context(FIND)], [(evt.EVT_C_FIND, find)])
    assert DimseSource(pacs.peer, "NODE").studies_of(patient_id) == ()
    asked[0].decode()
    assert asked[0].PatientID == patient_id
