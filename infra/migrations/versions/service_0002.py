"""Effects in the order in which they came: lanes take the first that are free, and need not look at the others."""

from __future__ import annotations

from alembic import op

revision = "service_0002"
down_revision = "service_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.execute("CREATE INDEX effects_in_order ON effects (consumer, position) WHERE standing <> 'done'")


def downgrade() -> None:
    """Take the index away."""
    op.execute("DROP INDEX effects_in_order")
