"""What the monitor may read: how far the engine has come in every schema, and nothing of what the messages say.

Outcomes, lag and health are asked across schemas, which no service role can. So one login, `triplane_monitor`, reads the
engine's own tables: positions, digests, reasons, counters. Bodies, states and keys of people stay out of its reach; the
one text it sees is the reason of a refusal, which is written for whoever asked.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from infra.runtime.catalog import Catalog
from infra.runtime.catalog.schemas import ANALYSTS, chains
from infra.settings import Settings

MONITOR: Final = "triplane_monitor"

READABLE: Final = {
    "heartbeats": ("heartbeats",),
    "engine": (
        "checkpoints",
        "inbox",
        "parked_keys",
        "parked (id, consumer, generation, topic, partition, offset, tenant, source, message_id, type, reason, detail, parked_at)",
    ),
    "outbox": ("outbox (position, bucket, id, topic, written_at)", "buckets", "published"),
    "service": (
        "effects (id, consumer, tenant, type, standing, attempts, not_before, recorded_at, ended_at)",
        "outcomes",
    ),
    "sagas": (
        "instances (saga, tenant, state_name, started_at, stepped_at)",
        "deadlines (saga, tenant, due)",
        "early (saga, tenant, type, kept_at)",
    ),
    "projections": ("generations",),
    "intake": ("webhooks (provider, event_id, type, received_at, standing, detail)",),
    "tenancy": ("tenants",),
}
"""Table (and columns, where not all) that the monitor reads, by the chain that makes it."""

_FORBIDDEN: Final = """SELECT oid::regprocedure::text AS signature FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace
      AND (proname ~ '^pg_(try_)?advisory_' OR proname ~ '^lo_' OR proname IN ('pg_notify', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until'))"""


async def ensure_monitoring(settings: Settings, catalog: Catalog) -> None:
    """Make the views of outcomes and grant the monitor what it reads; take from everybody what nobody but us needs."""
    admin = await asyncpg.connect(settings.postgres)
    try:
        async with admin.transaction():
            await admin.execute("SELECT pg_advisory_xact_lock(4711)")
            for schema, labels in chains(catalog).items():
                if "service" in labels:
                    await _make_outcomes(admin, schema, catalog)
                if labels:
                    await _grant(
                        admin,
                        schema,
                        ("alembic_version", *(it for label in labels for it in READABLE.get(label, ()))),
                    )
            await _withhold(admin, list(chains(catalog)))
    finally:
        await admin.close()


async def _make_outcomes(admin: asyncpg.Connection[asyncpg.Record], schema: str, catalog: Catalog) -> None:
    refusals = ", ".join(
        f"'{contract.name}'"
        for contract in catalog.contracts.values()
        if contract.context == schema and contract.kind == "refusal"
    )
    reason = f"CASE WHEN type IN ({refusals}) THEN payload ->> 'reason' END" if refusals else "NULL::text"
    await admin.execute(
        f"""CREATE OR REPLACE VIEW {schema}.outcomes AS
            SELECT id, tenant, type, key, version, correlation, recorded_at, {reason} AS reason FROM {schema}.events"""
    )
    await admin.execute(f"ALTER VIEW {schema}.outcomes OWNER TO triplane_{schema}")
    await admin.execute(
        f"COMMENT ON VIEW {schema}.outcomes IS 'What came of messages: every fact without its body.'"
    )


async def _grant(admin: asyncpg.Connection[asyncpg.Record], schema: str, readable: tuple[str, ...]) -> None:
    await admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO {MONITOR}")
    for it in readable:
        table, _, columns = it.partition(" ")
        listed = columns.replace("offset", '"offset"')
        await admin.execute(f"GRANT SELECT {listed} ON {schema}.{table} TO {MONITOR}")


async def _withhold(admin: asyncpg.Connection[asyncpg.Record], schemas: list[str]) -> None:
    """Keep SQL logins from what a read-only transaction still allows: locks, large objects, notifications, sleeping."""
    await admin.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    await admin.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, {ANALYSTS}")
    if not await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        # On a server of somebody else the functions are the owner's to withhold.
        return
    signatures = ", ".join(row["signature"] for row in await admin.fetch(_FORBIDDEN))
    roles = ", ".join(f"triplane_{schema}" for schema in schemas)
    await admin.execute(f"REVOKE EXECUTE ON FUNCTION {signatures} FROM PUBLIC")
    await admin.execute(f"GRANT EXECUTE ON FUNCTION {signatures} TO {roles}")
