"""Code is deployed when certain generations are there: a later one of other code is of later code, for all its processes."""

from __future__ import annotations

from alembic import op

revision = "projections_0006"
down_revision = "projections_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """CREATE TABLE releases (
             projection text NOT NULL, code bigint NOT NULL, generation integer NOT NULL, PRIMARY KEY (projection, code))"""
    )
    op.execute("COMMENT ON TABLE releases IS 'What there was when each code of a read model was deployed.'")
    op.execute("COMMENT ON COLUMN releases.code IS 'Digest of the functions of the projection.'")
    op.execute(
        "COMMENT ON COLUMN releases.generation IS 'The latest generation when this code was last migrated, or else first started.'"
    )


def downgrade() -> None:
    """Take it away."""
    op.execute("DROP TABLE releases")
