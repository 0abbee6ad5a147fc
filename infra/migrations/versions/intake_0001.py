"""Answers already given to an Idempotency-Key."""

from __future__ import annotations

from alembic import op

revision = "intake_0001"
down_revision = None
branch_labels = ("intake",)
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute(
        """CREATE TABLE answers (
            tenant text NOT NULL, route text NOT NULL, key text NOT NULL, body_hash bytea NOT NULL, status int NOT NULL,
            answer text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant, route, key))"""
    )
    op.execute(
        """CREATE TABLE webhooks (
            provider text NOT NULL, event_id text NOT NULL, type text NOT NULL, received_at timestamptz NOT NULL DEFAULT now(),
            body bytea NOT NULL, standing text NOT NULL, detail text, PRIMARY KEY (provider, event_id))"""
    )
    op.execute("CREATE INDEX webhooks_open ON webhooks (received_at) WHERE standing = 'stored'")


def downgrade() -> None:
    """Take the tables away."""
    op.execute("DROP TABLE webhooks, answers")
