"""What sagas need: instances, their history, deadlines, and events that came early."""

from __future__ import annotations

from alembic import op

revision = "sagas_0001"
down_revision = None
branch_labels = ("sagas",)
depends_on = None

STATEMENTS = (
    """CREATE TABLE instances (
        saga text NOT NULL, tenant text NOT NULL, key text NOT NULL, version bigint NOT NULL DEFAULT 0,
        state_name text, state json, shape bigint NOT NULL DEFAULT 0, correlation text, deadline bigint NOT NULL DEFAULT 0,
        started_at timestamptz, stepped_at timestamptz, PRIMARY KEY (saga, tenant, key)) WITH (fillfactor = 80)""",
    """CREATE TABLE history (
        saga text NOT NULL, tenant text NOT NULL, key text NOT NULL, version bigint NOT NULL,
        because text NOT NULL, cause text NOT NULL, was text, entered text NOT NULL, commands text[] NOT NULL,
        at timestamptz NOT NULL, PRIMARY KEY (saga, tenant, key, version))""",
    "COMMENT ON TABLE history IS 'Every step of every saga, for ever.'",
    """CREATE TABLE deadlines (
        saga text NOT NULL, tenant text NOT NULL, key text NOT NULL, number bigint NOT NULL, due timestamptz NOT NULL,
        PRIMARY KEY (saga, tenant, key))""",
    "CREATE INDEX deadlines_due ON deadlines (saga, due)",
    """CREATE TABLE early (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, saga text NOT NULL, tenant text NOT NULL,
        key text NOT NULL, record bytea NOT NULL, topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL,
        timestamp bigint NOT NULL, type text NOT NULL, kept_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE INDEX early_by_saga ON early (saga, tenant, key, position)",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take the tables away."""
    op.execute("DROP TABLE early, deadlines, history, instances")
