"""Forgets what has served its time, and looks for what must never be: a gap in a stream.

Everything here is idempotent, so any number of processes may do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import structlog

from infra.postgres.database import TRANSIENT, Database
from infra.runtime.messages.ids import INBOX_DAYS
from infra.runtime.operating.parked import discard
from infra.runtime.operating.switching import retire
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

EVERY_S: Final = 60.0
FORGET: Final = {
    "heartbeats": "beat_at < now() - interval '10 minutes'",
    "inbox": f"received_on < CURRENT_DATE - {INBOX_DAYS}",
    "published": "published_at < now() - interval '1 day'",
    "effects": "standing = 'done' AND ended_at < now() - interval '35 days'",
    "answers": "at < now() - interval '30 days'",
    "webhooks": "received_at < now() - interval '90 days'",
}
"""Table -> what may go."""

_GAPS: Final = """
    SELECT DISTINCT kind, tenant, key FROM events e
    WHERE recorded_at > now() - interval '2 minutes' AND version > 1 AND NOT EXISTS (
        SELECT FROM events b WHERE (b.kind, b.tenant, b.key, b.version) = (e.kind, e.tenant, e.key, e.version - 1))
    LIMIT 20"""
"""Streams in which a fact of late has none before it: only what is new is looked at, however long the stream is."""


class Housekeeping:
    """The upkeep of one schema."""

    def __init__(self, database: Database, standby_hours: float) -> None:
        """Keep the schema of `database`; a read model's earlier generation is kept for `standby_hours`."""
        self.name = f"housekeeping.{database.schema}"
        self.vitals = Vitals()
        self._database = database
        self._standby_hours = standby_hours

    async def run(self, stop: asyncio.Event) -> None:
        """Keep house every minute until `stop` is set."""
        while not stop.is_set():
            try:
                await self.one_round()
            except TRANSIENT as passing:
                log.warning("housekeeping waits", schema=self._database.schema, error=repr(passing))
            waited = 0.0
            while waited < EVERY_S and not stop.is_set():
                self.vitals.turned_at = time.time()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 5)
                waited += 5

    async def one_round(self) -> None:
        """Keep house once."""
        for table, condition in FORGET.items():
            if not await self._has(table):
                continue
            status = await self._database.execute(
                f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT 50000))"
            )
            forgotten = int(status.split()[-1])
            if forgotten:
                self.vitals.count(**{f"forgotten_{table}": forgotten})
                log.info("forgotten", schema=self._database.schema, table=table, rows=forgotten)
        if await self._has("parked"):
            await self._expire_parked()
        if await self._has("generations"):
            for gone in await retire(self._database, self._standby_hours):
                self.vitals.count(retired=1)
                log.info("retired", model=gone)
        if await self._has("events"):
            for row in await self._database.fetch(_GAPS):
                self.vitals.count(gaps=1)
                log.error(
                    "gap in a stream",
                    schema=self._database.schema,
                    kind=row["kind"],
                    tenant=row["tenant"],
                    key=row["key"],
                )

    async def _expire_parked(self) -> None:
        """Parked bytes from outside may hold personal values that nobody can erase, so they expire."""
        for row in await self._database.fetch(
            "SELECT id FROM parked WHERE topic LIKE '%.inbound' AND parked_at < now() - interval '30 days' LIMIT 1000"
        ):
            gone = await discard(self._database, row["id"])
            if gone is not None:
                self.vitals.count(expired_parked=1)
                log.warning("parked message expired", name=gone.name, tenant=gone.tenant, reason=gone.reason)

    async def _has(self, table: str) -> bool:
        rows = await self._database.fetch(
            "SELECT to_regclass($1) IS NOT NULL AS found", f"{self._database.schema}.{table}"
        )
        return bool(rows[0]["found"])
