"""The subjects' keys, each wrapped by a key from outside the database."""

from __future__ import annotations

from alembic import op

revision = "vault_0001"
down_revision = None
branch_labels = ("vault",)
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """CREATE TABLE subject_keys (
            tenant text NOT NULL, subject text NOT NULL, wrapped bytea, made_at timestamptz NOT NULL DEFAULT now(),
            erased_at timestamptz, PRIMARY KEY (tenant, subject))"""
    )


def downgrade() -> None:
    """Take the table away."""
    op.execute("DROP TABLE subject_keys")
