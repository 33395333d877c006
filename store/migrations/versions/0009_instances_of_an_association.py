"""What an association brought is found by it, so that old associations can be forgotten"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """An index; without it every association that is deleted has all instances looked through"""
    op.create_index("ix_instances_association_id", "instances", ["association_id"])
    op.create_index("ix_announcements_at", "announcements", ["at"])


def downgrade() -> None:
    """The older program deletes no association."""
    op.drop_index("ix_announcements_at", table_name="announcements")
    op.drop_index("ix_instances_association_id", table_name="instances")
