"""Workitems claimed from a worklist"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Workitems claimed from a worklist"""
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "workitems",
        sa.Column("id", key, nullable=False),
        sa.Column("workitem_uid", sa.String(length=64), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column(
            "state",
            sa.Enum("claiming", "claimed", "ended", name="workitemstate", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitems")),
        sa.UniqueConstraint("workitem_uid", name=op.f("uq_workitems_workitem_uid")),
    )
    op.create_index(op.f("ix_workitems_state"), "workitems", ["state"])


def downgrade() -> None:
    """The older program performs no workitems."""
    op.drop_table("workitems")
