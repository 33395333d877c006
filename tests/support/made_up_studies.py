"""Studies in the store that nobody sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from store.models import Study
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
