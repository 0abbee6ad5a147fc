"""Where a message of days ago went is found by its age without reading the young ones: pages are summarised as they fill."""

from __future__ import annotations

from alembic import op

revision = "outbox_0002"
down_revision = "outbox_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Summarise at once."""
    op.execute("ALTER INDEX published_at SET (autosummarize)")


def downgrade() -> None:
    """Leave it to the next vacuum."""
    op.execute("ALTER INDEX published_at RESET (autosummarize)")
