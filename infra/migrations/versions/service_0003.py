"""What is open is what has not ended: an effect that begins stays where it is in its indexes, and on its page.

The indexes go by a column that beginning leaves alone, and there is room on the page for the row as it stands then. The
one by key leaves the consumer out, so that nobody takes the other for it: few open rows are expected, and there may be many.
"""

from __future__ import annotations

from alembic import op

revision = "service_0003"
down_revision = "service_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go by the end, and make room."""
    op.execute("DROP INDEX effects_open, effects_in_order")
    op.execute("CREATE INDEX effects_open ON effects (tenant, key, position) WHERE ended_at IS NULL")
    op.execute("CREATE INDEX effects_in_order ON effects (consumer, position) WHERE ended_at IS NULL")
    op.execute("ALTER TABLE effects SET (fillfactor = 50)")


def downgrade() -> None:
    """Go by the standing again."""
    op.execute("ALTER TABLE effects RESET (fillfactor)")
    op.execute("DROP INDEX effects_open, effects_in_order")
    op.execute(
        "CREATE INDEX effects_open ON effects (consumer, tenant, key, position) WHERE standing <> 'done'"
    )
    op.execute("CREATE INDEX effects_in_order ON effects (consumer, position) WHERE standing <> 'done'")
