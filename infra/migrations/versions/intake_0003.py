"""Old answers and webhooks are found by their age."""

from __future__ import annotations

from alembic import op

revision = "intake_0003"
down_revision = "intake_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Find them by age, and summarise as pages fill."""
    op.execute("CREATE INDEX answers_at ON answers USING brin (at) WITH (autosummarize)")
    op.execute("CREATE INDEX webhooks_received_at ON webhooks USING brin (received_at) WITH (autosummarize)")


def downgrade() -> None:
    """Read them all."""
    op.execute("DROP INDEX webhooks_received_at, answers_at")
