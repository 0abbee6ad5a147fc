"""The tables of a generation and the views that show them, made and taken away in a transaction of the role that owns both.

Tables are in schema `projections`, under forced row-level security; HTTP reads those that its code knows, under `app.tenant`.
SQL logins read stable, commented views in `read`, which run with the reader's own rights: under the login's name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from infra.postgres.database import Connection
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.catalog.schemas import ANALYSTS
from infra.runtime.folding.read_models import ReadModel, read_model
from infra.runtime.messages.ids import payload_hash

BUSY, FULL = 60, 100
"""How full pages are made, in percent: a row that many messages change finds room beside itself, and its index stays as it is."""
TENANT_COMMENT: Final = "The tenant that the row belongs to."
PATIENCE_S: Final = 3_600.0
"""How long an index may take to build."""
Columns = dict[str, str]
"""Name and SQL type of each column, in their order."""


def models_of(wiring: ProjectionWiring, generation: int) -> list[ReadModel]:
    """Describe the tables of a generation, as the code of this process has them."""
    return [read_model(row, view, generation) for row, view in wiring.rows.items()]


def columns_of(model: ReadModel) -> Columns:
    """Give the columns that a row class asks for, the tenant first."""
    return {"tenant": "text", **{column.name: column.sql for column in model.columns}}


async def stored_columns(tx: Connection, schema: str, names: list[str]) -> dict[str, Columns]:
    """Give the columns of those of the tables or views `names` that exist."""
    rows = await tx.fetch(
        """SELECT c.relname AS name, a.attname AS "column",
                  CASE t.typname WHEN 'int8' THEN 'bigint' WHEN 'bool' THEN 'boolean' ELSE t.typname END AS type
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           JOIN pg_type t ON t.oid = a.atttypid
           WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) ORDER BY c.oid, a.attnum""",
        schema,
        names,
    )
    found: dict[str, Columns] = {}
    for row in rows:
        found.setdefault(row["name"], {})[row["column"]] = row["type"]
    return found


async def make_tables(tx: Connection, wiring: ProjectionWiring, generation: int) -> None:
    """Make the empty tables of a generation, without the indexes of its queries."""
    for model in models_of(wiring, generation):
        await _make_table(tx, model, BUSY if model.row not in wiring.owned else FULL)


async def _make_table(tx: Connection, model: ReadModel, fill: int) -> None:
    columns = ", ".join(f'"{column.name}" {column.sql}' for column in model.columns)
    key = ", ".join(f'"{name}"' for name in model.primary_key)
    table = f'projections."{model.table}"'
    await tx.execute(
        f"""CREATE TABLE {table} (tenant text NOT NULL, {columns}, PRIMARY KEY ({key}))
              WITH (fillfactor = {fill});
            ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
            ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
            CREATE POLICY http ON {table} FOR SELECT TO triplane_read
              USING (tenant = nullif(current_setting('app.tenant', true), ''));
            CREATE POLICY login ON {table} FOR SELECT TO {ANALYSTS}
              USING (tenant = (SELECT l.tenant FROM projections.logins l WHERE l.role = current_user));
            GRANT SELECT ON {table} TO triplane_read, {ANALYSTS}"""
    )


async def ensure_indexes(tx: Connection, wiring: ProjectionWiring, generation: int) -> None:
    """Give every query an index: its required parameters, then its order, then the primary key as the tie-break.

    While one is being made, nobody writes into its table.
    """
    for query, row in wiring.queries.values():
        model = read_model(row, wiring.rows[row], generation)
        required = [
            name
            for name, field in query.model_fields.items()
            if field.is_required() and name in row.model_fields
        ]
        columns = {f'"{name}"': "" for name in ("tenant", *required)}
        for name in query.order:
            columns.setdefault(f'"{name.lstrip("-")}"', " DESC" if name.startswith("-") else "")
        columns |= {f'"{name}"': "" for name in model.key if f'"{name}"' not in columns}
        listed = ", ".join(f"{name}{direction}" for name, direction in columns.items())
        mark = format(payload_hash(listed.encode()) & 0xFFFFFFFF, "08x")
        await tx.execute(
            f'CREATE INDEX IF NOT EXISTS "{model.table}_{mark}" ON projections."{model.table}" ({listed})',
            timeout=PATIENCE_S,
        )


async def view_names(
    tx: Connection, wiring: ProjectionWiring, generation: int, serving: Mapping[str, str]
) -> dict[str, str]:
    """Give the name of the view that is to show each table of a generation, by that of version 1.

    `serving` are the views that show the serving generation. One of them is kept where columns are only added to it;
    a shape that loses or retypes a column gets the newest other version that has no column which the shape lacks, or a new
    one, and the view of the serving generation stays where it is.
    """
    return {base: it.chosen for base, it in (await _choices(tx, wiring, generation, serving)).items()}


class _Choice(NamedTuple):
    """The view that is to show a table, the table's columns, and the versions of that view that there are."""

    chosen: str
    table: Columns
    versions: dict[str, Columns]


async def _choices(
    tx: Connection, wiring: ProjectionWiring, generation: int, serving: Mapping[str, str]
) -> dict[str, _Choice]:
    tables = await stored_columns(
        tx, "projections", [f"{view}_g{generation}" for view in wiring.rows.values()]
    )
    choices: dict[str, _Choice] = {}
    for base in wiring.rows.values():
        table, versions = tables[f"{base}_g{generation}"], await _versions(tx, base)
        candidates = [it for it in (serving.get(base), *reversed(versions)) if it in versions]
        fitting = (it for it in candidates if it and appends(versions[it], table))
        unused = base if not versions else f"{base}_v{max(map(_version, versions)) + 1}"
        choices[base] = _Choice(next(fitting, unused), table, versions)
    return choices


async def show(
    tx: Connection, wiring: ProjectionWiring, generation: int, serving: Mapping[str, str]
) -> dict[str, str]:
    """Let views show a generation: those that `view_names` gives, which are given, and every version that fits it."""
    choices = await _choices(tx, wiring, generation, serving)
    for row, base in wiring.rows.items():
        model, it = read_model(row, base, generation), choices[base]
        for name, shown in {it.chosen: Columns(), **it.versions}.items():
            if name == it.chosen or appends(shown, it.table):
                await _make_view(tx, model, name, shown, it.table)
    return {base: it.chosen for base, it in choices.items()}


async def show_again(tx: Connection, generation: int, views: Mapping[str, str]) -> None:
    """Let the views of an earlier generation, and every version that fits it, show it again: a column that it has not is empty."""
    tables = await stored_columns(tx, "projections", [f"{base}_g{generation}" for base in views])
    for base, own in views.items():
        table = f"{base}_g{generation}"
        for name, shown in (await _versions(tx, base)).items():
            if name == own or appends(shown, tables[table]):
                await _replace(tx, name, table, shown, tables[table])


def appends(view: Columns, table: Columns) -> bool:
    """Whether a table has every column of a view, as it is."""
    return all(table.get(name) == sql for name, sql in view.items())


async def _versions(tx: Connection, base: str) -> dict[str, Columns]:
    """Give the views of one table that exist, the oldest version first."""
    rows = await tx.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'read'")
    names = [it["viewname"] for it in rows if re.fullmatch(re.escape(base) + r"(_v[0-9]+)?", it["viewname"])]
    columns = await stored_columns(tx, "read", names)
    return {name: columns[name] for name in sorted(names, key=_version)}


def _version(name: str) -> int:
    found = re.search(r"_v([0-9]+)$", name)
    return int(found[1]) if found else 1


async def _replace(tx: Connection, name: str, table: str, shown: Columns, stored: Columns) -> None:
    """Let a view show a table: the columns that it has shown so far first, as nothing else may be replaced."""
    types = {**shown, **stored}
    listed = ", ".join(
        f'"{column}"' if column in stored else f'NULL::{types[column]} AS "{column}"'
        for column in (*shown, *(it for it in stored if it not in shown))
    )
    await tx.execute(
        f'CREATE OR REPLACE VIEW read."{name}" WITH (security_invoker = true) AS SELECT {listed} FROM projections."{table}"'
    )


async def _make_view(tx: Connection, model: ReadModel, name: str, shown: Columns, stored: Columns) -> None:
    await _replace(tx, name, model.table, shown, stored)
    view = f'read."{name}"'
    comments = {f"VIEW {view}": model.row.__doc__ or "", f"COLUMN {view}.tenant": TENANT_COMMENT}
    comments |= {f'COLUMN {view}."{column.name}"': column.comment for column in model.columns}
    statements = [f"COMMENT ON {it} IS {_quoted(' '.join(text.split()))}" for it, text in comments.items()]
    await tx.execute("; ".join((*statements, f"GRANT SELECT ON {view} TO {ANALYSTS}")))


async def drop(tx: Connection, consumer: str, generation: int, bases: Collection[str]) -> None:
    """Take the tables of a generation away, with the views that still show them, its positions and what it has parked."""
    for base in bases:
        table = f"{base}_g{generation}"
        views = await tx.fetch(
            """SELECT DISTINCT v.relname AS name FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
               JOIN pg_class v ON v.oid = r.ev_class JOIN pg_class t ON t.oid = d.refobjid
               WHERE d.classid = 'pg_rewrite'::regclass AND t.relname = $1 AND t.relnamespace = 'projections'::regnamespace""",
            table,
        )
        for view in views:
            await tx.execute(f'DROP VIEW read."{view["name"]}"')
        await tx.execute(f'DROP TABLE IF EXISTS projections."{table}"')
    for kept in ("checkpoints", "parked", "parked_keys"):
        await tx.execute(f"DELETE FROM {kept} WHERE consumer = $1 AND generation = $2", consumer, generation)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
