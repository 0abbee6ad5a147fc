"""Operators' acts, for ever."""

from __future__ import annotations

from alembic import op

revision = "operations_0001"
down_revision = None
branch_labels = ("operations",)
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute(
        """CREATE TABLE acts (
            id uuid PRIMARY KEY, type text NOT NULL, tenant text NOT NULL, who text NOT NULL, why text NOT NULL,
            body json NOT NULL, at timestamptz NOT NULL DEFAULT now())"""
    )
    op.execute(
        """CREATE TABLE overlays (
            consumer text NOT NULL, topic_id uuid NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL,
            tenant text NOT NULL, record bytea NOT NULL, act uuid NOT NULL REFERENCES acts, at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (consumer, topic_id, partition, "offset"))"""
    )
    op.execute(
        "COMMENT ON TABLE overlays IS 'Records that an operator discarded: every rebuild and replay leaves them out.'"
    )


def downgrade() -> None:
    """Take the tables away."""
    op.execute("DROP TABLE overlays, acts")
