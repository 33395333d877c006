"""What each worker screens with, so that a worker with other packages is noticed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What each worker screens with, so that a worker with other packages is noticed."""
    with op.batch_alter_table("processes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("equipment", sa.Text(), nullable=True))


def downgrade() -> None:
    """The older program does not compare workers."""
    with op.batch_alter_table("processes", schema=None) as batch_op:
        batch_op.drop_column("equipment")
