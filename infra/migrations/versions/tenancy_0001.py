"""Which tenants there are."""

from __future__ import annotations

from alembic import op

revision = "tenancy_0001"
down_revision = None
branch_labels = ("tenancy",)
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """CREATE TABLE tenants (
            tenant text PRIMARY KEY CHECK (tenant ~ '^[a-z0-9-]{1,63}$'), standing text NOT NULL DEFAULT 'active'
            CHECK (standing IN ('active', 'suspended')), origin text NOT NULL, added_at timestamptz NOT NULL DEFAULT now())"""
    )


def downgrade() -> None:
    """Take the table away."""
    op.execute("DROP TABLE tenants")
