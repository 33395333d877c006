"""Which studies a sender has asked commitment for: their images are not deleted to make room"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

MOST_AT_ONCE = 500
"""UIDs in one query; SQLite takes 999 values."""


def upgrade() -> None:
    """When the newest commitment was asked for, for studies of earlier requests too"""
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("commitment_asked_at", sa.DateTime(timezone=True), nullable=True))
    _fill()


def _fill() -> None:
    requests = sa.table(
        "commitment_requests", sa.column("references", sa.JSON), sa.column("received_at", sa.DateTime())
    )
    studies = sa.table("studies", sa.column("id"), sa.column("commitment_asked_at", sa.DateTime()))
    instances = sa.table("instances", sa.column("study_id"), sa.column("sop_instance_uid"))
    connection = op.get_bind()
    for references, received_at in connection.execute(sa.select(requests)).all():
        uids = [uid for _, uid in references]
        for start in range(0, len(uids), MOST_AT_ONCE):
            named = sa.select(instances.c.study_id).where(
                instances.c.sop_instance_uid.in_(uids[start : start + MOST_AT_ONCE])
            )
            connection.execute(
                sa.update(studies).where(studies.c.id.in_(named)).values(commitment_asked_at=received_at)
            )


def downgrade() -> None:
    """The older program deletes nothing to make room."""
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.drop_column("commitment_asked_at")
