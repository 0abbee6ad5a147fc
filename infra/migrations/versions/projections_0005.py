"""Workers fold a generation before it is switched to: the switch then changes nothing for them."""

from __future__ import annotations

from alembic import op

revision = "projections_0005"
down_revision = "projections_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE generations ADD COLUMN candidate boolean NOT NULL DEFAULT false")
    op.execute(
        "COMMENT ON COLUMN generations.candidate IS 'Whether it is compared and waits for its switch: workers fold it already.'"
    )


def downgrade() -> None:
    """Take it away."""
    op.execute("ALTER TABLE generations DROP COLUMN candidate")
