"""Processes of other code find the rows that they can read: a generation says which columns it has."""

from __future__ import annotations

from alembic import op

revision = "projections_0004"
down_revision = "projections_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what there is by now is described as read models are migrated."""
    op.execute("ALTER TABLE generations ADD COLUMN columns jsonb")
    op.execute(
        "COMMENT ON COLUMN generations.columns IS 'The columns of each of its tables, and what readers rely on in them.'"
    )


def downgrade() -> None:
    """Take it away."""
    op.execute("ALTER TABLE generations DROP COLUMN columns")
