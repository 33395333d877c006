"""Which node's disk alone has an image, until it is in the object store"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

HELD = sa.text("held_by IS NOT NULL")


def upgrade() -> None:
    """Which node's disk alone has an image, until it is in the object store"""
    op.add_column("instances", sa.Column("held_by", sa.String(length=128), nullable=True))
    op.create_index(
        "ix_instances_study_id_held_by",
        "instances",
        ["study_id", "held_by"],
        sqlite_where=HELD,
        postgresql_where=HELD,
    )


def downgrade() -> None:
    """The older program knows no object store."""
    op.drop_index("ix_instances_study_id_held_by", table_name="instances")
    op.drop_column("instances", "held_by")
