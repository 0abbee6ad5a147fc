"""Old marks are found by their age without reading the young ones: pages are summarised as they fill."""

from __future__ import annotations

from alembic import op

revision = "engine_0003"
down_revision = "engine_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Summarise at once."""
    op.execute("ALTER INDEX inbox_received_on SET (autosummarize)")


def downgrade() -> None:
    """Leave it to the next vacuum."""
    op.execute("ALTER INDEX inbox_received_on RESET (autosummarize)")
