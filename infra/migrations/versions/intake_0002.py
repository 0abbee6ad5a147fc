"""Finds an answer, and what still waits to be sent, by the id of the message."""

from __future__ import annotations

from alembic import op

revision = "intake_0002"
down_revision = "intake_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the indexes."""
    op.execute("ALTER TABLE answers ADD COLUMN message_id uuid")
    op.execute("CREATE UNIQUE INDEX answers_by_message ON answers (message_id)")
    # Only intake's outbox is asked for single messages; the others are read in order alone.
    op.execute("CREATE INDEX outbox_by_id ON outbox (id)")


def downgrade() -> None:
    """Take them away."""
    op.execute("DROP INDEX outbox_by_id")
    op.execute("ALTER TABLE answers DROP COLUMN message_id")
