"""What everybody who publishes needs: the outbox, its buckets with their leases, and where messages went."""

from __future__ import annotations

from alembic import op

revision = "outbox_0001"
down_revision = None
branch_labels = ("outbox",)
depends_on = None

STATEMENTS = (
    """CREATE TABLE outbox (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, bucket smallint NOT NULL, id uuid NOT NULL,
        topic text NOT NULL, key text NOT NULL, headers json NOT NULL, value bytea NOT NULL,
        written_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE INDEX outbox_by_bucket ON outbox (bucket, position)",
    "COMMENT ON TABLE outbox IS 'Messages committed with their state and not yet acknowledged by the broker.'",
    """CREATE TABLE buckets (
        bucket smallint PRIMARY KEY, owner uuid, epoch bigint NOT NULL DEFAULT 0,
        expires_at timestamptz NOT NULL DEFAULT '-infinity') WITH (fillfactor = 50)""",
    "INSERT INTO buckets (bucket) SELECT generate_series(0, 63)",
    """CREATE TABLE published (
        id uuid PRIMARY KEY, topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL,
        published_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE INDEX published_at ON published USING brin (published_at)",
    "COMMENT ON TABLE published IS 'Where a message stands in its topic; kept for a day, for tokens.'",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take the tables away."""
    op.execute("DROP TABLE published, buckets, outbox")
