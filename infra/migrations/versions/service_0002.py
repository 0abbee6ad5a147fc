"""Effects in the order in which they came: lanes take the first that are free, and need not look at the others.

And room beside an aggregate, so that its next state need not go elsewhere and its index stays as it is.
"""

from __future__ import annotations

from alembic import op

revision = "service_0002"
down_revision = "service_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index and the room."""
    op.execute("CREATE INDEX effects_in_order ON effects (consumer, position) WHERE standing <> 'done'")
    op.execute("ALTER TABLE aggregates SET (fillfactor = 60)")


def downgrade() -> None:
    """Take both away."""
    op.execute("ALTER TABLE aggregates SET (fillfactor = 80)")
    op.execute("DROP INDEX effects_in_order")
