"""What is asked for by age is found by it: of facts and effects of many days, housekeeping reads the few that it is about.

A summary of pages is of no use before it is made: the pages written last are read one by one until then.
"""

from __future__ import annotations

from alembic import op

revision = "service_0004"
down_revision = "service_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Find ended effects by age, and summarise as pages fill."""
    op.execute("CREATE INDEX effects_ended_at ON effects USING brin (ended_at) WITH (autosummarize)")
    op.execute("ALTER INDEX events_recorded_at SET (autosummarize)")


def downgrade() -> None:
    """Read them all."""
    op.execute("ALTER INDEX events_recorded_at RESET (autosummarize)")
    op.execute("DROP INDEX effects_ended_at")
