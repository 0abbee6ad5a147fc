"""What everything that runs shows of itself."""

from __future__ import annotations

from alembic import op

revision = "heartbeats_0001"
down_revision = None
branch_labels = ("heartbeats",)
depends_on = None

STATEMENTS = (
    """CREATE TABLE heartbeats (
        process uuid NOT NULL, consumer text NOT NULL, host text NOT NULL, pid int NOT NULL,
        beat_at timestamptz NOT NULL, turned_at timestamptz NOT NULL, partitions int NOT NULL,
        counters jsonb NOT NULL, PRIMARY KEY (process, consumer)) WITH (fillfactor = 50)""",
    "COMMENT ON TABLE heartbeats IS 'Which process works for which consumer, and when it last showed life and made a turn.'",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take the table away."""
    op.execute("DROP TABLE heartbeats")
