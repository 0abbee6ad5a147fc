"""Copies of a range to a topic of another environment: how far each has come, and who is at it."""

from __future__ import annotations

from alembic import op

revision = "operations_0002"
down_revision = "operations_0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """CREATE TABLE replays (
        id uuid PRIMARY KEY, consumer text NOT NULL, generation int NOT NULL, topic text NOT NULL, topic_id uuid NOT NULL,
        partitions int[] NOT NULL, from_offsets bigint[] NOT NULL, until_offsets bigint[] NOT NULL,
        next_offsets bigint[] NOT NULL, key text, type text, tenant text, most bigint, rate int, again boolean NOT NULL,
        counts json NOT NULL DEFAULT '[]', skipped bigint NOT NULL DEFAULT 0, reason text NOT NULL,
        operator text NOT NULL, host text NOT NULL, pid int NOT NULL, owner uuid NOT NULL, expires_at timestamptz NOT NULL,
        standing text NOT NULL DEFAULT 'running', started_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz,
        bootstrap text NOT NULL, target text NOT NULL, target_id uuid NOT NULL, target_partitions int NOT NULL,
        CHECK (standing IN ('running', 'stopped', 'done')))""",
    "CREATE UNIQUE INDEX replays_running ON replays (target_id) WHERE standing = 'running'",
    """COMMENT ON TABLE replays IS 'As the replays of a consumer, but to a topic: what has been copied moves next_offsets once the
        target has acknowledged it.'""",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take it away."""
    op.execute("DROP TABLE replays")
