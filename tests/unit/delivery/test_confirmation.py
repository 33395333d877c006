"""Asking a destination that offers nothing but storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from reporting.delivery.confirmation import compare_kept
from scp.pacs_query.source import QueryFailed

SR = "1.2.840.10008.5.1.4.1.1.88.34"


def test_a_destination_without_retrieval_says_so(
    pacs_with: Callable[..., Any], write_object: Callable[..., Path]
) -> None:
    pacs = pacs_with({SR: [ExplicitVRLittleEndian]})
    path = write_object(SR)
    with pytest.raises(QueryFailed, match="C-GET"):
        compare_kept(pacs.peer, "NODE", path, study_instance_uid="1.2", series_instance_uid="1.3")
