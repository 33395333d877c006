"""Searches for the priors of studies"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Searches for the priors of studies"""
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "prior_searches",
        sa.Column("id", key, nullable=False),
        sa.Column("study_id", key, nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "seeking", "fetching", "revising", "ended", name="priorstate", native_enum=False, length=16
            ),
            nullable=False,
        ),
        sa.Column("prior_study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("fetched", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_prior_searches_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prior_searches")),
        sa.UniqueConstraint("study_id", name=op.f("uq_prior_searches_study_id")),
    )
    op.create_index(
        op.f("ix_prior_searches_prior_study_instance_uid"), "prior_searches", ["prior_study_instance_uid"]
    )
    op.create_index("ix_prior_searches_state_next_attempt_at", "prior_searches", ["state", "next_attempt_at"])


def downgrade() -> None:
    """The older program searches for no priors."""
    op.drop_table("prior_searches")
