"""What is open is what has not ended: an effect that begins stays where it is in its indexes, and on its page.

The indexes go by a column that beginning leaves alone, and there is room on the page for the row as it stands then. Each
index says it in its own words, so that no question about one key can be answered by reading the order of all of them: where
nearly everything has ended few open rows are expected, and there may be many.
"""

from __future__ import annotations

from alembic import op

revision = "service_0003"
down_revision = "service_0002"
branch_labels = None
depends_on = None

OPEN = {
    "effects_open (consumer, tenant, key, position)": "ended_at IS NULL",
    "effects_in_order (consumer, position)": "coalesce(ended_at, 'infinity') = 'infinity'",
}


def _index(conditions: dict[str, str]) -> None:
    op.execute("DROP INDEX effects_open, effects_in_order")
    for index, condition in conditions.items():
        name, _, columns = index.partition(" ")
        op.execute(f"CREATE INDEX {name} ON effects {columns} WHERE {condition}")


def upgrade() -> None:
    """Go by the end, and make room."""
    _index(OPEN)
    op.execute("ALTER TABLE effects SET (fillfactor = 50)")


def downgrade() -> None:
    """Go by the standing again."""
    op.execute("ALTER TABLE effects RESET (fillfactor)")
    _index(dict.fromkeys(OPEN, "standing <> 'done'"))
