"""Read models at a migration: a new projection gets its first generation; what has changed since is noticed, not touched.

A changed read model is built anew beside the one that serves (`triplane rebuild`), never in its place.
"""

from __future__ import annotations

import json

import asyncpg

from infra.postgres.database import Connection, open_database
from infra.runtime.catalog import Catalog, ProjectionWiring
from infra.runtime.catalog.schemas import ANALYSTS
from infra.runtime.folding.fingerprints import code, shape
from infra.runtime.folding.generations import (
    Generation,
    behind,
    columns_json,
    locked,
    make,
    release,
    serving,
    stand,
)
from infra.runtime.folding.tables import columns_of, ensure_indexes, models_of, show, stored_columns
from infra.settings import Settings


async def ensure_read_models(settings: Settings, catalog: Catalog) -> list[str]:
    """Give every projection a serving generation; say which are new, and which are behind their code."""
    await _grant(settings)
    news: list[str] = []
    database = await open_database(settings, "projections", size=1)
    try:
        for wiring in catalog.projections.values():
            async with database.transaction() as tx:
                said = await _ensure(tx, wiring)
            if said is not None:
                news.append(f"{wiring.projection.name}: {said}")
    finally:
        await database.close()
    return news


async def _grant(settings: Settings) -> None:
    """Let the role that folds make views, so that a rebuild needs no administrator."""
    admin = await asyncpg.connect(settings.postgres)
    try:
        await admin.execute(
            f"""GRANT USAGE ON SCHEMA read TO {ANALYSTS};
                GRANT USAGE, CREATE ON SCHEMA read TO triplane_projections;
                GRANT SELECT ON projections.logins TO {ANALYSTS};
                ALTER TABLE projections.logins ENABLE ROW LEVEL SECURITY;
                ALTER TABLE projections.logins FORCE ROW LEVEL SECURITY;
                DROP POLICY IF EXISTS own ON projections.logins;
                CREATE POLICY own ON projections.logins FOR SELECT USING (role = current_user);
                GRANT USAGE ON SCHEMA projections TO triplane_read;
                GRANT SELECT (projection, generation, standing, views, columns, switched_at)
                  ON projections.generations TO triplane_read"""
        )
        views = await admin.fetch(
            "SELECT viewname FROM pg_views WHERE schemaname = 'read' AND viewowner <> 'triplane_projections'"
        )
        for view in views:
            await admin.execute(f'ALTER VIEW read."{view["viewname"]}" OWNER TO triplane_projections')
    finally:
        await admin.close()


async def _ensure(tx: Connection, wiring: ProjectionWiring) -> str | None:
    known = await locked(tx, wiring)
    if not known:
        number = await make(tx, wiring, known, "active")
        await stand(tx, wiring, number, "active", await show(tx, wiring, number, {}))
        await ensure_indexes(tx, wiring, number)
        await release(tx, wiring)
        return "has its first generation"
    await release(tx, wiring)
    active = serving(wiring, known)
    if active.code is None and await _same_columns(tx, wiring, active):
        await _adopt(tx, wiring, active)
        active = serving(wiring, await locked(tx, wiring))
    if active.fits(wiring):
        await ensure_indexes(tx, wiring, active.number)
        await _describe(tx, wiring, active)
    return behind(wiring, active)


async def _same_columns(tx: Connection, wiring: ProjectionWiring, active: Generation) -> bool:
    models = models_of(wiring, active.number)
    stored = await stored_columns(tx, "projections", [it.table for it in models])
    return all(stored.get(it.table) == columns_of(it) for it in models)


async def _adopt(tx: Connection, wiring: ProjectionWiring, active: Generation) -> None:
    """Take a generation from before its code was kept for what the code is now."""
    await tx.execute(
        "UPDATE generations SET shape = $3, code = $4, views = $5::jsonb WHERE projection = $1 AND generation = $2",
        wiring.projection.name,
        active.number,
        shape(wiring),
        code(wiring),
        json.dumps({view: view for view in wiring.rows.values()}),
    )


async def _describe(tx: Connection, wiring: ProjectionWiring, active: Generation) -> None:
    """Say of a generation from before that was kept which columns it has: those of today's code, whose shape it has."""
    await tx.execute(
        "UPDATE generations SET columns = $3::jsonb WHERE projection = $1 AND generation = $2 AND columns IS NULL",
        wiring.projection.name,
        active.number,
        columns_json(wiring),
    )
