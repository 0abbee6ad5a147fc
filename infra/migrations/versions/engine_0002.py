"""Replays: what is given to a consumer once more, how far that has come, and who is at it."""

from __future__ import annotations

from alembic import op

revision = "engine_0002"
down_revision = "engine_0001"
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
        CHECK (standing IN ('running', 'stopped', 'done')))""",
    "CREATE UNIQUE INDEX replays_running ON replays (consumer) WHERE standing = 'running'",
    "COMMENT ON TABLE replays IS 'What operators gave a consumer once more; next_offsets move with the effects.'",
    "ALTER TABLE parked ADD COLUMN replay uuid",
    "COMMENT ON COLUMN parked.replay IS 'The replay that applied it anew when it was parked: a redrive goes on for that one.'",
)


def upgrade() -> None:
    """Make the table and the column."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take them away."""
    op.execute("ALTER TABLE parked DROP COLUMN replay")
    op.execute("DROP TABLE replays")
