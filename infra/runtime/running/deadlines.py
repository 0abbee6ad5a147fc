"""Deadlines fire by the database's clock, once, and only when the saga has consumed its inputs past them.

After an outage the backlog goes first: a reply that lies unread in the log must win over the deadline it was in time for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import structlog

from infra.kafka.admin import Admin, Topic
from infra.kafka.record import Place
from infra.postgres.writes import Writes
from infra.runtime.catalog import SagaWiring
from infra.runtime.consuming.batch import Batcher
from infra.runtime.engine import AWAY
from infra.runtime.folding.stepping import Stepping, parking_key
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

POLL_S: Final = 0.5
BATCH: Final = 200


class Deadlines:
    """Fires the deadlines of one saga; any number of processes may, each instance's row lock decides."""

    def __init__(
        self,
        wiring: SagaWiring,
        batcher: Batcher,
        admin: Admin,
        topics: Mapping[str, Topic],
        wakeups: Wakeups,
    ) -> None:
        """Fire deadlines of `wiring`'s saga through the same database and codec as its consumer's `batcher`."""
        self.name = f"deadlines.{wiring.saga.name}"
        self.vitals = Vitals()
        self._wiring = wiring
        self._batcher = batcher
        self._admin = admin
        self._topics = [topics[name] for name in wiring.topics]
        self._wakeups = wakeups
        self._barrier: tuple[datetime, dict[Place, int]] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Fire what is due until `stop` is set."""
        while not stop.is_set():
            self.vitals.turned_at = time.time()
            fired = 0
            try:
                fired = await self._one_turn()
            except AWAY as passing:
                log.warning("deadlines wait", saga=self._wiring.saga.name, error=repr(passing))
                self._barrier = None
            except Exception:
                log.exception("deadline failed", saga=self._wiring.saga.name)
                self.vitals.count(failures=1)
            if not fired:
                await asyncio.sleep(POLL_S)

    async def _one_turn(self) -> int:
        database = self._batcher.database
        if self._barrier is None:
            rows = await database.fetch(
                """SELECT now() AS now WHERE EXISTS (
                     SELECT FROM deadlines d WHERE saga = $1 AND due <= now() AND NOT EXISTS (
                       SELECT FROM parked_keys p WHERE p.consumer = $2 AND p.key = d.saga || ':' || d.tenant || ':' || d.key))""",
                self._wiring.saga.name,
                self._wiring.name,
            )
            if not rows:
                return 0
            # The end offsets are read after the deadline: whatever was appended in time lies before them.
            self._barrier = (rows[0]["now"], await self._admin.offsets(self._topics, end=True))
        asked_at, ends = self._barrier
        if not await self._consumed(ends):
            return 0
        self._barrier = None
        return await self._fire(asked_at)

    async def _consumed(self, ends: dict[Place, int]) -> bool:
        rows = await self._batcher.database.fetch(
            "SELECT topic, partition, next_offset FROM checkpoints WHERE consumer = $1 AND generation = $2",
            self._wiring.name,
            self._batcher.generation,
        )
        next_offset = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        return all(next_offset.get(place, 0) >= end for place, end in ends.items())

    async def _fire(self, until: datetime) -> int:
        """Step instances whose deadline had passed at `until`, when every input was consumed past it."""
        fired = 0
        async with self._batcher.database.transaction() as tx:
            rows: list[Any] = await tx.fetch(
                """SELECT d.tenant, d.key, d.number FROM deadlines d JOIN instances i USING (saga, tenant, key)
                   WHERE d.saga = $1 AND d.due <= $2 AND NOT EXISTS (
                     SELECT FROM parked_keys p WHERE p.consumer = $3 AND p.key = d.saga || ':' || d.tenant || ':' || d.key)
                   ORDER BY d.tenant COLLATE "C", d.key COLLATE "C" LIMIT $4 FOR UPDATE OF i SKIP LOCKED""",
                self._wiring.saga.name,
                until,
                self._wiring.name,
                BATCH,
            )
            if not rows:
                return 0
            failed: str | None = None
            stepping = Stepping(self._wiring, self._batcher.codec)
            await stepping.lock(tx, {(row["tenant"], row["key"]) for row in rows})
            for row in rows:
                try:
                    fired += stepping.late((row["tenant"], row["key"]), row["number"])
                except Exception as raised:
                    failed = f"the move for a deadline raises ({type(raised).__name__}); see the log"
                    key = parking_key(self._wiring, row["tenant"], row["key"])
                    log.exception("the move for a deadline raised; it is tried again", saga=key)
                    self.vitals.count(failures=1)
            writes = Writes()
            await stepping.save(tx, writes)
            await writes.send(tx)
        self.vitals.stopped_because = failed
        if fired:
            self.vitals.count(fired=fired)
            self._wakeups.poke(self._batcher.database)
        return fired
