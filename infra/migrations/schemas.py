"""Makes schemas and their roles, and brings each schema to the heads of its chains."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from infra.runtime.catalog import Catalog
from infra.runtime.catalog.schemas import ANALYSTS, chains
from infra.settings import Settings


async def ensure_schemas(settings: Settings, catalog: Catalog) -> list[str]:
    """Make missing schemas and roles and bring every schema to its chains' heads; give the schemas that changed.

    Each schema belongs to a login role of its own, which has no right in any other. That of `operations` may take on that of
    `projections`, in which it has none by itself: an operator's act and what it does to a read model are one commit.
    """
    wanted = chains(catalog)
    admin = await asyncpg.connect(settings.postgres)
    try:
        # Two migrations at once: the second waits, then finds nothing to do.
        await admin.execute("SELECT pg_advisory_lock(4711)")
        await _ensure_roles(settings, admin, list(wanted))
        behind = await _behind(admin, wanted)
        for schema in behind:
            await _upgrade(settings, schema, wanted[schema])
    finally:
        await admin.close()
    return behind


async def _ensure_roles(
    settings: Settings, admin: asyncpg.Connection[asyncpg.Record], schemas: list[str]
) -> None:
    await admin.execute(
        "REVOKE CREATE, TEMPORARY ON DATABASE "
        + await admin.fetchval("SELECT quote_ident(current_database())")
        + " FROM PUBLIC"
    )
    known = {row["rolname"] for row in await admin.fetch("SELECT rolname FROM pg_roles")}
    if ANALYSTS not in known:
        await admin.execute(f"CREATE ROLE {ANALYSTS} NOLOGIN")
    for schema in schemas:
        role = f"triplane_{schema}"
        verb = "ALTER" if role in known else "CREATE"
        await admin.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{settings.password(role)}'")
        await admin.execute(f"GRANT {role} TO CURRENT_USER")
        await admin.execute(f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}")
    # In this order: servers since PostgreSQL 16 keep with the grant whether it is inherited.
    await admin.execute("ALTER ROLE triplane_operations NOINHERIT")
    await admin.execute("GRANT triplane_projections TO triplane_operations")
    # The engine writes rows of every tenant; readers never get this role.
    await admin.execute("ALTER ROLE triplane_projections BYPASSRLS")


def heads(catalog: Catalog) -> dict[str, set[str]]:
    """Give the revisions that every schema must be at."""
    return _heads(chains(catalog))


def _heads(wanted: dict[str, tuple[str, ...]]) -> dict[str, set[str]]:
    scripts = ScriptDirectory.from_config(_config())
    return {
        schema: {script.revision for label in labels for script in scripts.get_revisions(f"{label}@head")}
        for schema, labels in wanted.items()
        if labels
    }


async def _behind(admin: asyncpg.Connection[asyncpg.Record], wanted: dict[str, tuple[str, ...]]) -> list[str]:
    behind = []
    for schema, expected in _heads(wanted).items():
        exists = await admin.fetchval("SELECT to_regclass($1)", f"{schema}.alembic_version")
        current = (
            {
                row["version_num"]
                for row in await admin.fetch(f"SELECT version_num FROM {schema}.alembic_version")
            }
            if exists
            else set()
        )
        if not expected <= current:
            behind.append(schema)
    return behind


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


async def _upgrade(settings: Settings, schema: str, labels: tuple[str, ...]) -> None:
    url = make_url(settings.database(f"triplane_{schema}")).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)

    def run(connection: SyncConnection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        config.attributes["schema"] = schema
        for label in labels:
            command.upgrade(config, f"{label}@head")

    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()
