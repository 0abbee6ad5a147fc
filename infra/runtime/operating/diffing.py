"""What differs between two generations, row by row, at one and the same place of the log.

Personal values are sealed with chance in it, so the same value never looks the same twice: only whether there is one is
compared, and said so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from infra.postgres.database import Connection
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.folding.generations import Generation
from infra.runtime.folding.tables import Columns, models_of, stored_columns, view_names

SAMPLE: Final = 5
PATIENCE_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that differs: its key, and of each differing column the value before and after."""

    key: Mapping[str, Any]
    change: str
    """`changed`, `new` or `gone`."""
    columns: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class TableDiff:
    """What differs in one table."""

    view: str
    """The name that tables and views of all generations have in common."""
    rows_before: int = 0
    rows: int = 0
    gone: int = 0
    new: int = 0
    changed: int = 0
    comparable: bool = True
    """Whether rows have their likes: the keys are the same columns."""
    columns_added: Sequence[str] = ()
    columns_lost: Sequence[str] = ()
    columns_retyped: Sequence[str] = ()
    personal: Sequence[str] = ()
    """Columns of which only whether there is a value was compared."""
    sample: Sequence[Sample] = field(default_factory=tuple[Sample, ...])
    moves_to: str | None = None
    """The view that is to show it after the switch, where that is another one than before."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        columns = (*self.columns_added, *self.columns_lost, *self.columns_retyped)
        return self.comparable and not (self.gone or self.new or self.changed or columns)


async def compare(
    tx: Connection, wiring: ProjectionWiring, before: Generation, after: int
) -> list[TableDiff]:
    """Compare two generations table by table, as one snapshot of `tx` shows them."""
    models = {it.view: it for it in models_of(wiring, after)}
    bases = sorted({*before.views, *models})
    old = await stored_columns(tx, "projections", [f"{it}_g{before.number}" for it in bases])
    new = await stored_columns(tx, "projections", [f"{it}_g{after}" for it in bases])
    names = await view_names(tx, wiring, after, before.shown)
    found: list[TableDiff] = []
    for base in bases:
        was, now = f"{base}_g{before.number}", f"{base}_g{after}"
        personal = {it.name for it in models[base].columns if it.personal} if base in models else set[str]()
        diff = await _table(tx, base, (was, old.get(was, {})), (now, new.get(now, {})), personal)
        name = names.get(base)
        found.append(replace(diff, moves_to=name if name != before.shown.get(base, base) else None))
    return found


async def _table(
    tx: Connection, base: str, before: tuple[str, Columns], after: tuple[str, Columns], personal: set[str]
) -> TableDiff:
    (was, old), (now, new) = before, after
    same = [name for name in old if new.get(name) == old[name]]
    columns: dict[str, Any] = {
        "columns_added": sorted(new.keys() - old.keys()),
        "columns_lost": sorted(old.keys() - new.keys()),
        "columns_retyped": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
        "personal": sorted(personal & set(same)),
    }
    keys = [await _key(tx, table) if known else [] for table, known in (before, after)]
    if keys[0] != keys[1] or not set(keys[0]) <= set(same):
        counts = [await _count(tx, table) if known else 0 for table, known in (before, after)]
        return TableDiff(base, counts[0], counts[1], comparable=False, **columns)
    key = keys[0]
    on = " AND ".join(f'b."{name}" = g."{name}"' for name in key)
    values = [name for name in same if name not in key]
    compared = [f'(%s."{name}" IS NULL)' if name in personal else f'%s."{name}"' for name in values]
    differs = " OR ".join(f"{it % 'b'} IS DISTINCT FROM {it % 'g'}" for it in compared) or "false"
    joined = f"""FROM projections."{was}" b
        FULL JOIN projections."{now}" g ON {on}"""
    row = await tx.fetchrow(
        f"""SELECT count(b.tenant) AS rows_before, count(g.tenant) AS rows,
              count(*) FILTER (WHERE g.tenant IS NULL) AS gone, count(*) FILTER (WHERE b.tenant IS NULL) AS new,
              count(*) FILTER (WHERE b.tenant IS NOT NULL AND g.tenant IS NOT NULL AND ({differs})) AS changed {joined}""",
        timeout=PATIENCE_S,
    )
    assert row is not None
    different = await tx.fetch(
        f"""SELECT to_jsonb(b)::text AS before, to_jsonb(g)::text AS after {joined}
            WHERE b.tenant IS NULL OR g.tenant IS NULL OR {differs} LIMIT {SAMPLE}""",
        timeout=PATIENCE_S,
    )
    sample = [
        _sample(it["before"], it["after"], key, [it for it in values if it not in personal])
        for it in different
    ]
    return TableDiff(base, **dict(row), **columns, sample=sample)


def _sample(before: str | None, after: str | None, key: Sequence[str], values: Sequence[str]) -> Sample:
    old: dict[str, Any] = json.loads(before or "{}")
    new: dict[str, Any] = json.loads(after or "{}")
    change = "new" if before is None else "gone" if after is None else "changed"
    differing = {name: (old.get(name), new.get(name)) for name in values if old.get(name) != new.get(name)}
    return Sample({name: (old or new)[name] for name in key}, change, differing)


async def _count(tx: Connection, table: str) -> int:
    found: int = await tx.fetchval(f'SELECT count(*) FROM projections."{table}"', timeout=PATIENCE_S)
    return found


async def _key(tx: Connection, table: str) -> list[str]:
    rows = await tx.fetch(
        """SELECT a.attname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
           WHERE c.relnamespace = 'projections'::regnamespace AND c.relname = $1 AND i.indisprimary ORDER BY a.attname""",
        table,
    )
    return [row["name"] for row in rows]
