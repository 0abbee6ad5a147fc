"""The tables and views of read models: made when a projection is new, made anew when its rows have changed.

Tables are private to schema `projections` and under forced row-level security; `read` holds stable, commented views
that run with the reader's own rights. HTTP reads under `app.tenant`, an SQL login under its own name.
"""

from __future__ import annotations

import asyncpg

from infra.runtime.catalog import Catalog, ProjectionWiring
from infra.runtime.catalog.schemas import ANALYSTS
from infra.runtime.folding.read_models import ReadModel, read_model
from infra.runtime.messages.codec import shape_of
from infra.runtime.messages.ids import payload_hash
from infra.settings import Settings

TENANT_COMMENT = "The tenant that the row belongs to."


def shape(wiring: ProjectionWiring) -> int:
    """Give a signed 64-bit hash of all row classes of a projection."""
    parts = sorted(f"{view}={shape_of(row)}" for row, view in wiring.rows.items())
    return payload_hash("\n".join(parts).encode())


async def ensure_read_models(settings: Settings, catalog: Catalog) -> list[str]:
    """Give every projection an active generation that fits its row classes; name those that got a new one."""
    admin = await asyncpg.connect(settings.postgres, server_settings={"search_path": "projections"})
    changed = []
    try:
        await _grants(admin)
        for wiring in catalog.projections.values():
            async with admin.transaction():
                if await _ensure(admin, wiring):
                    changed.append(wiring.name)
                await _ensure_indexes(admin, wiring)
    finally:
        await admin.close()
    return changed


async def _grants(admin: asyncpg.Connection[asyncpg.Record]) -> None:
    await admin.execute(f"GRANT USAGE ON SCHEMA read TO {ANALYSTS}")
    await admin.execute(f"GRANT SELECT ON projections.logins TO {ANALYSTS}")
    await admin.execute("ALTER TABLE projections.logins ENABLE ROW LEVEL SECURITY")
    await admin.execute("ALTER TABLE projections.logins FORCE ROW LEVEL SECURITY")
    await admin.execute("DROP POLICY IF EXISTS own ON projections.logins")
    await admin.execute("CREATE POLICY own ON projections.logins FOR SELECT USING (role = current_user)")


async def _ensure(admin: asyncpg.Connection[asyncpg.Record], wiring: ProjectionWiring) -> bool:
    name = wiring.projection.name
    active = await admin.fetchrow(
        "SELECT generation, shape FROM generations WHERE projection = $1 AND standing = 'active' FOR UPDATE",
        name,
    )
    wanted = shape(wiring)
    if active is not None and active["shape"] == wanted:
        return False
    generation = 1 + await admin.fetchval(
        "SELECT coalesce(max(generation), 0) FROM generations WHERE projection = $1", name
    )
    models = [read_model(row, view, generation) for row, view in wiring.rows.items()]
    for model in models:
        await _make_table(admin, model)
    await admin.execute(
        "UPDATE generations SET standing = 'retired' WHERE projection = $1 AND standing = 'active'", name
    )
    await admin.execute("INSERT INTO generations VALUES ($1, $2, $3, 'active')", name, generation, wanted)
    for model in models:
        await _make_view(admin, model)
    return True


async def _make_table(admin: asyncpg.Connection[asyncpg.Record], model: ReadModel) -> None:
    columns = ", ".join(f'"{column.name}" {column.sql}' for column in model.columns)
    key = ", ".join(f'"{name}"' for name in model.primary_key)
    table = f'projections."{model.table}"'
    await admin.execute(
        f"CREATE TABLE {table} (tenant text NOT NULL, {columns}, _filled boolean NOT NULL DEFAULT false, PRIMARY KEY ({key}))"
    )
    await admin.execute(f"ALTER TABLE {table} OWNER TO triplane_projections")
    await admin.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    await admin.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    await admin.execute(
        f"""CREATE POLICY http ON {table} FOR SELECT TO triplane_read
            USING (tenant = nullif(current_setting('app.tenant', true), ''))"""
    )
    await admin.execute(
        f"""CREATE POLICY login ON {table} FOR SELECT TO {ANALYSTS}
            USING (tenant = (SELECT l.tenant FROM projections.logins l WHERE l.role = current_user))"""
    )
    await admin.execute(f"GRANT SELECT ON {table} TO triplane_read, {ANALYSTS}")


async def _ensure_indexes(admin: asyncpg.Connection[asyncpg.Record], wiring: ProjectionWiring) -> None:
    """Give every query an index: its required parameters, then its order, then the primary key as the tie-break."""
    generation = await admin.fetchval(
        "SELECT generation FROM generations WHERE projection = $1 AND standing = 'active'",
        wiring.projection.name,
    )
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
        await admin.execute(
            f'CREATE INDEX IF NOT EXISTS "{model.table}_{mark}" ON projections."{model.table}" ({listed})'
        )


async def _make_view(admin: asyncpg.Connection[asyncpg.Record], model: ReadModel) -> None:
    columns = ", ".join(f'"{name}"' for name in ("tenant", *(column.name for column in model.columns)))
    view = f'read."{model.view}"'
    await admin.execute(f"DROP VIEW IF EXISTS {view}")
    await admin.execute(
        f'CREATE VIEW {view} WITH (security_invoker = true, security_barrier = true) AS SELECT {columns} FROM projections."{model.table}"'
    )
    comment = " ".join((model.row.__doc__ or "").split())
    await admin.execute(f"COMMENT ON VIEW {view} IS {_quoted(comment)}")
    await admin.execute(f"COMMENT ON COLUMN {view}.tenant IS {_quoted(TENANT_COMMENT)}")
    for column in model.columns:
        await admin.execute(
            f'COMMENT ON COLUMN {view}."{column.name}" IS {_quoted(" ".join(column.comment.split()))}'
        )
    await admin.execute(f"GRANT SELECT ON {view} TO triplane_read, {ANALYSTS}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
