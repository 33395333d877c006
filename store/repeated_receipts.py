"""The short way to record an instance: the next one of a series of which this association has brought one before.

Almost every instance of a CT series is of this kind, and its sender waits for the commit. Two prepared statements
instead of the object-relational way of `store.receipts`, which decides in every other case.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, bindparam, update
from sqlalchemy.dialects import postgresql, sqlite

from store.models import Instance, Study
from store.receipts import NO_LIMIT, ReceivedInstance
from store.states import StudyState

_INSTANCES = cast(Table, Instance.__table__)
_STUDIES = cast(Table, Study.__table__)
_COLUMNS = (
    "study_id",
    "series_id",
    "association_id",
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "sha256",
    "size",
    "path",
    "received_at",
    "kept_out",
)
_VALUES: Mapping[str, Any] = {name: bindparam(name) for name in _COLUMNS}

_INSERT = {
    "sqlite": sqlite.insert(_INSTANCES).values(_VALUES).on_conflict_do_nothing().returning(_INSTANCES.c.id),
    "postgresql": postgresql.insert(_INSTANCES)
    .values(_VALUES)
    .on_conflict_do_nothing()
    .returning(_INSTANCES.c.id),
}

_COUNT = (
    update(_STUDIES)
    .where(
        _STUDIES.c.id == bindparam("of_study"),
        _STUDIES.c.state == StudyState.RECEIVING,
        _STUDIES.c.byte_count + bindparam("of_size") <= bindparam("of_limit"),
    )
    .values(
        instance_count=_STUDIES.c.instance_count + 1,
        byte_count=_STUDIES.c.byte_count + bindparam("of_size"),
        last_received_at=bindparam("at"),
    )
)


def record_repeated(
    connection: Connection,
    instance: ReceivedInstance,
    *,
    study_id: int,
    series_id: int,
    association_id: int,
    now: datetime,
    max_study_bytes: int = NO_LIMIT,
) -> bool:
    """Record a further instance of a known series in a study that is being received.

    False where that is not the case (the study has gone on or is full, the UID is taken): then the transaction of
    `connection` must be rolled back, and `store.receipts.record_instance` decides in another one.
    """
    counted = connection.execute(
        _COUNT, {"of_study": study_id, "of_size": instance.size, "of_limit": max_study_bytes, "at": now}
    )
    if counted.rowcount != 1:
        return False
    inserted = connection.execute(
        _INSERT[connection.dialect.name],
        {
            "study_id": study_id,
            "series_id": series_id,
            "association_id": association_id,
            "sop_instance_uid": instance.sop_instance_uid,
            "sop_class_uid": instance.sop_class_uid,
            "transfer_syntax_uid": instance.transfer_syntax_uid,
            "sha256": instance.sha256,
            "size": instance.size,
            "path": instance.path,
            "received_at": now,
            "kept_out": instance.kept_out,
        },
    )
    return inserted.first() is not None
