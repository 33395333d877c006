"""Storage commitment both ways, announcements of instances, routing decisions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Storage commitment both ways, announcements of instances, routing decisions"""
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "commitment_requests",
        sa.Column("id", key, nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("references", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_requests")),
        sa.UniqueConstraint(
            "calling_ae", "transaction_uid", name=op.f("uq_commitment_requests_calling_ae_transaction_uid")
        ),
    )
    op.create_index(
        op.f("ix_commitment_requests_next_attempt_at"), "commitment_requests", ["next_attempt_at"]
    )
    op.create_table(
        "announcements",
        sa.Column("id", key, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_announcements")),
    )
    op.create_index(op.f("ix_announcements_sop_instance_uid"), "announcements", ["sop_instance_uid"])
    op.create_index(op.f("ix_announcements_study_instance_uid"), "announcements", ["study_instance_uid"])
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.add_column(sa.Column("transaction_uid", sa.String(length=64), nullable=True))
        batch_op.add_column(
            sa.Column("commitment_attempts", sa.Integer(), nullable=False, server_default="0")
        )
        batch_op.create_index(batch_op.f("ix_deliveries_transaction_uid"), ["transaction_uid"])
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("routing", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Deliveries that wait for commitment count as delivered: the older program knows no such state."""
    op.execute("UPDATE deliveries SET state = 'delivered' WHERE state = 'stored'")
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.drop_column("routing")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_deliveries_transaction_uid"))
        batch_op.drop_column("commitment_attempts")
        batch_op.drop_column("transaction_uid")
    op.drop_table("announcements")
    op.drop_table("commitment_requests")
