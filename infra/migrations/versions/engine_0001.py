"""What every consumer needs: checkpoints, inbox, parking."""

from __future__ import annotations

from alembic import op

revision = "engine_0001"
down_revision = None
branch_labels = ("engine",)
depends_on = None

STATEMENTS = (
    """CREATE TABLE checkpoints (
        consumer text NOT NULL, generation int NOT NULL, topic_id uuid NOT NULL, topic text NOT NULL,
        partition int NOT NULL, start_offset bigint NOT NULL, next_offset bigint NOT NULL,
        epoch bigint NOT NULL DEFAULT 0, updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, generation, topic_id, partition)) WITH (fillfactor = 50)""",
    "COMMENT ON TABLE checkpoints IS 'How far each consumer has applied each partition; moves only with its effects.'",
    """CREATE TABLE inbox (
        key uuid PRIMARY KEY, payload bigint NOT NULL, received_on date NOT NULL DEFAULT CURRENT_DATE)""",
    "CREATE INDEX inbox_received_on ON inbox USING brin (received_on)",
    "COMMENT ON TABLE inbox IS 'Digests of (consumer, tenant, source, id) already applied; written only with the effect.'",
    """CREATE TABLE parked_keys (
        consumer text NOT NULL, generation int NOT NULL, key text NOT NULL, parked_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, generation, key))""",
    """CREATE TABLE parked (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, consumer text NOT NULL, generation int NOT NULL,
        topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, timestamp bigint NOT NULL,
        tenant text NOT NULL, source text, message_id text, type text, keys text[] NOT NULL, record bytea NOT NULL,
        reason text NOT NULL, detail text NOT NULL, parked_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (consumer, generation, topic, partition, "offset"))""",
    "CREATE INDEX parked_by_key ON parked USING gin (keys)",
    "CREATE INDEX parked_by_message ON parked (message_id)",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take the tables away."""
    op.execute("DROP TABLE parked, parked_keys, inbox, checkpoints")
