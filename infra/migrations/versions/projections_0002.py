"""What a blue/green rebuild needs: the code of a generation, its views, who builds it, and since when it serves."""

from __future__ import annotations

from alembic import op

revision = "projections_0002"
down_revision = "projections_0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """ALTER TABLE generations
        ADD COLUMN code bigint, ADD COLUMN views jsonb, ADD COLUMN switched_at timestamptz,
        ADD COLUMN builder uuid, ADD COLUMN operator text, ADD COLUMN host text, ADD COLUMN pid int,
        ADD COLUMN building_since timestamptz, ADD COLUMN expires_at timestamptz,
        DROP CONSTRAINT generations_standing_check,
        ADD CONSTRAINT generations_standing_check CHECK (standing IN ('building', 'active', 'standby', 'retired'))""",
    "CREATE UNIQUE INDEX generations_building ON generations (projection) WHERE standing = 'building'",
    "CREATE UNIQUE INDEX generations_standby ON generations (projection) WHERE standing = 'standby'",
    "COMMENT ON TABLE generations IS 'Every build of a read model: one serves, one may be built, one may stand by to go back to.'",
    "COMMENT ON COLUMN generations.code IS 'Digest of the functions that fold it; empty for what was made before that was kept.'",
    "COMMENT ON COLUMN generations.views IS 'Which view of schema read shows each of its tables.'",
    "COMMENT ON COLUMN generations.switched_at IS 'Since when it serves, or stands by.'",
    "COMMENT ON COLUMN generations.expires_at IS 'When whoever builds it counts as gone, on this clock.'",
)


def upgrade() -> None:
    """Add the columns; one generation may be built, and one stand by, at a time."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take them away; what is built or stands by is retired."""
    op.execute("UPDATE generations SET standing = 'retired' WHERE standing IN ('building', 'standby')")
    op.execute("DROP INDEX generations_building")
    op.execute("DROP INDEX generations_standby")
    op.execute(
        """ALTER TABLE generations DROP COLUMN code, DROP COLUMN views, DROP COLUMN switched_at, DROP COLUMN builder,
             DROP COLUMN operator, DROP COLUMN host, DROP COLUMN pid, DROP COLUMN building_since, DROP COLUMN expires_at,
             DROP CONSTRAINT generations_standing_check,
             ADD CONSTRAINT generations_standing_check CHECK (standing IN ('building', 'active', 'retired'))"""
    )
