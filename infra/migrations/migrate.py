"""Brings an installation to what the code declares: schemas, roles, read models, topics, registered consumers."""

from __future__ import annotations

import asyncpg
import structlog

from infra.kafka.admin import Admin
from infra.migrations.monitoring import ensure_monitoring
from infra.migrations.read_models import ensure_read_models
from infra.migrations.schemas import ensure_schemas
from infra.postgres.database import open_database
from infra.runtime.catalog import Catalog, ProjectionWiring, Wiring
from infra.runtime.consuming.first_start import register
from infra.runtime.folding.generations import generations, serving
from infra.settings import Settings

log = structlog.get_logger(__name__)


async def migrate(settings: Settings, catalog: Catalog) -> None:
    """Do whatever is missing, and only that; safe to run at any time, and by two at once."""
    for schema in await ensure_schemas(settings, catalog):
        log.info("schema brought up to date", schema=schema)
    for news in await ensure_read_models(settings, catalog):
        log.info("read model", news=news)
    await ensure_monitoring(settings, catalog)
    if settings.development:
        await _demo_tenants(settings)
    admin = Admin(settings.kafka)
    await admin.ensure_topics(catalog.topics)
    topics = await admin.topics(catalog.topics)
    by_schema: dict[str, list[Wiring]] = {}
    for wiring in catalog.consumers.values():
        by_schema.setdefault(wiring.schema, []).append(wiring)
    for schema, wirings in by_schema.items():
        database = await open_database(settings, schema, size=1)
        try:
            for wiring in wirings:
                generation = (
                    serving(wiring, await generations(database, wiring)).number
                    if isinstance(wiring, ProjectionWiring)
                    else 1
                )
                await register(database, admin, wiring, generation, topics)
        finally:
            await database.close()


async def _demo_tenants(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database("triplane_tenancy"))
    try:
        await connection.execute(
            """INSERT INTO tenancy.tenants (tenant, origin) VALUES ('demo-a', 'development'), ('demo-b', 'development')
               ON CONFLICT DO NOTHING"""
        )
    finally:
        await connection.close()
