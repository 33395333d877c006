"""Studies in the store that nobody sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from store.models import Study
from store.receipts import ReceivedInstance
from store.states import StudyState


def receiving_study(uid: str, now: datetime, **changes: Any) -> Study:
    """A study that is being received since `now`, to be added to a session."""
    values: dict[str, Any] = {
        "study_instance_uid": uid,
        "patient_digest": "0" * 64,
        "state": StudyState.RECEIVING,
        "created_at": now,
        "receiving_since": now,
        "last_received_at": now,
        "changed_at": now,
        "not_before": now,
    }
    return Study(**(values | changes))


def received_instance(number: int, study: str = "1.2.3") -> ReceivedInstance:
    """A CT image of a study as a listener would hand it to the store; its file is not there."""
    return ReceivedInstance(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{study}.1.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
        patient_digest="0" * 64,
        sha256=f"{number:064d}",
        size=1,
        path=f"spool/{number}",
    )
