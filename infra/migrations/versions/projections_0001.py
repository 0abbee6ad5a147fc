"""What read models need beside their tables: generations, and which SQL login belongs to which tenant."""

from __future__ import annotations

from alembic import op

revision = "projections_0001"
down_revision = None
branch_labels = ("projections",)
depends_on = None

STATEMENTS = (
    """CREATE TABLE generations (
        projection text NOT NULL, generation int NOT NULL, shape bigint NOT NULL, standing text NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (projection, generation),
        CHECK (standing IN ('building', 'active', 'retired')))""",
    "CREATE UNIQUE INDEX generations_active ON generations (projection) WHERE standing = 'active'",
    "CREATE TABLE logins (role text PRIMARY KEY, tenant text NOT NULL)",
    "COMMENT ON TABLE logins IS 'Which read-only SQL login sees which tenant''s rows.'",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take the tables away."""
    op.execute("DROP TABLE logins, generations")
