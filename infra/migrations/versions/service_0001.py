"""What a context owns: its aggregates, their events, claims, local views and outside effects."""

from __future__ import annotations

from alembic import op

revision = "service_0001"
down_revision = None
branch_labels = ("service",)
depends_on = None

STATEMENTS = (
    """CREATE TABLE aggregates (
        kind text NOT NULL, tenant text NOT NULL, key text NOT NULL, version bigint NOT NULL DEFAULT 0,
        shape bigint NOT NULL DEFAULT 0, state json, PRIMARY KEY (kind, tenant, key)) WITH (fillfactor = 80)""",
    "COMMENT ON TABLE aggregates IS 'Snapshots; one whose shape is not the code''s is folded anew from events.'",
    """CREATE TABLE events (
        id uuid PRIMARY KEY, kind text NOT NULL, tenant text NOT NULL, key text NOT NULL, version bigint NOT NULL,
        type text NOT NULL, schema_version int NOT NULL, payload json NOT NULL, source text NOT NULL,
        correlation text NOT NULL, causation text, traceparent text, time timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(), UNIQUE (kind, tenant, key, version))""",
    "CREATE INDEX events_recorded_at ON events USING brin (recorded_at)",
    "COMMENT ON TABLE events IS 'Every fact of this context, for ever: the audit log. Personal values are sealed.'",
    """CREATE TABLE claims (
        digest bytea PRIMARY KEY, kind text NOT NULL, claim text NOT NULL, tenant text NOT NULL, holder text)""",
    "COMMENT ON TABLE claims IS 'Unique values, as keyed hashes, and the aggregate that holds each.'",
    """CREATE TABLE locals (
        view text NOT NULL, tenant text NOT NULL, key text NOT NULL, shape bigint NOT NULL DEFAULT 0, state json,
        PRIMARY KEY (view, tenant, key))""",
    """CREATE TABLE effects (
        id uuid PRIMARY KEY, position bigint GENERATED ALWAYS AS IDENTITY, consumer text NOT NULL, tenant text NOT NULL,
        key text NOT NULL, type text NOT NULL, headers json NOT NULL, value bytea NOT NULL, appended_at timestamptz NOT NULL,
        standing text NOT NULL DEFAULT 'due', attempts int NOT NULL DEFAULT 0, not_before timestamptz NOT NULL DEFAULT now(),
        owner uuid, epoch bigint NOT NULL DEFAULT 0, expires_at timestamptz NOT NULL DEFAULT '-infinity',
        error text, recorded_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz,
        CHECK (standing IN ('due', 'started', 'done', 'unknown')))""",
    "CREATE INDEX effects_open ON effects (consumer, tenant, key, position) WHERE standing <> 'done'",
    "COMMENT ON TABLE effects IS 'What is to be done outside; started is committed before the call, done with its outcome.'",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take the tables away."""
    op.execute("DROP TABLE effects, locals, claims, events, aggregates")
