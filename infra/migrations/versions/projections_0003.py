"""Rows are inserted whole: nothing need say any more which of them are filled."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "projections_0003"
down_revision = "projections_0002"
branch_labels = None
depends_on = None

TABLES = """SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = '_filled'
    WHERE c.relnamespace = 'projections'::regnamespace AND c.relkind = 'r'"""


def upgrade() -> None:
    """Take the column away from every generation's tables."""
    for (table,) in op.get_bind().execute(text(TABLES)).all():
        op.execute(f'ALTER TABLE projections."{table}" DROP COLUMN _filled')


def downgrade() -> None:
    """Give it back: every row is filled."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'projections' AND tablename ~ '_g[0-9]+$'"
    for (table,) in op.get_bind().execute(text(tables)).all():
        op.execute(f'ALTER TABLE projections."{table}" ADD COLUMN _filled boolean NOT NULL DEFAULT true')
        op.execute(f'ALTER TABLE projections."{table}" ALTER COLUMN _filled SET DEFAULT false')
