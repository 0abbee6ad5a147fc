"""Publishes a schema's outbox: never skips a row, never reorders a key; a crash may publish twice.

What is visible of a key is always a prefix of what was committed, because the publishing state's row stays locked until
the commit. So the set of unpublished rows, ordered, is read; rows go only once the broker has acknowledged them, and
only under the same lease epoch. Relays share the buckets out by leases on the database's clock.

What is acknowledged is deleted beside what is sent next, a few milliseconds' together, and passed over until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import structlog
from pydantic_core import from_json

from infra.kafka.writer import Sendable, Writer, Written
from infra.postgres.database import TRANSIENT, Database
from infra.runtime.publishing.outbox import BUCKETS
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

LEASE_S: Final = 10.0
MIN_BATCH, MAX_BATCH = 100, 2_000
"""Halved when the broker does not acknowledge in time, so that what is sent again stays small; doubled when it does."""
POLL_S: Final = 1.0
GATHER_S: Final = 0.01
"""So long acknowledged rows wait for others, to be deleted with them."""
MOST_SENT: Final = 4 * MAX_BATCH
"""How many acknowledged rows may wait: nothing more is sent before they are gone."""


class Sent(NamedTuple):
    """A row that the broker has acknowledged: under which lease it was sent, and where it stands now."""

    bucket: int
    epoch: int
    place: Written


class Relay:
    """One relay of one schema in this process."""

    def __init__(
        self, database: Database, bootstrap: str, wakeups: Wakeups, *, standby: bool = False
    ) -> None:
        """Publish the outbox of `database`'s schema; on `standby` only as long as no other relay is alive that is not."""
        self.name = f"relay.{database.schema}"
        self.vitals = Vitals()
        if standby:
            self.vitals.count(standby=1)
        self.database = database
        self._standby = standby
        self._me = uuid4()
        self._writer = Writer(bootstrap, f"triplane.{self.name}")
        self._epochs: dict[int, int] = {}
        self._sent: dict[int, Sent] = {}
        self._forgetting: asyncio.Task[None] | None = None
        self._renewed_at = -math.inf
        self._waiting = False
        self._batch = MIN_BATCH
        self._wakeups = wakeups
        self._woken = wakeups.listen(database.schema)

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set, then give the buckets back."""
        listening = asyncio.create_task(self._wakeups.hear(self.database, stop))
        try:
            while not stop.is_set():
                try:
                    busy = await self._one_turn()
                    await self._forget_soon()
                except TRANSIENT as passing:
                    log.warning("relay turn failed", relay=self.name, error=repr(passing))
                    self.vitals.count(failures=1)
                    self._forget()
                    await asyncio.sleep(0.3)
                    continue
                if not busy:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._woken.wait(), POLL_S)
        finally:
            self._wakeups.alone(self.database.schema, yes=False)
            listening.cancel()
            if self._forgetting is not None:
                await asyncio.gather(self._forgetting, return_exceptions=True)
            with contextlib.suppress(*TRANSIENT):
                await self._forget_sent()
                await self._release(list(self._epochs))
            await self._writer.close()

    async def _one_turn(self) -> bool:
        self.vitals.turned_at = time.time()
        self._woken.clear()
        self._wakeups.alone(self.database.schema, yes=len(self._epochs) == BUCKETS)
        if not await self._writer.connect():
            self.vitals.stopped_because = "no broker to write to"
            self._forget()
            return False
        self.vitals.stopped_because = None
        # Whoever has nothing yet looks more often: what another has given back stands still until then.
        if time.monotonic() - self._renewed_at > (LEASE_S / 40 if self._waiting else LEASE_S / 4):
            await self._lease()
        self.vitals.partitions = len(self._epochs)
        if not self._epochs:
            return False
        most = min(self._batch, MOST_SENT - len(self._sent))
        rows = await self.database.fetch(
            """SELECT position, bucket, id, topic, key, headers, value FROM outbox
               WHERE bucket = ANY($1::smallint[]) AND position <> ALL($2::bigint[]) ORDER BY position LIMIT $3""",
            sorted(self._epochs),
            list(self._sent),
            most,
        )
        if not rows:
            return False
        epochs = dict(self._epochs)
        written = await self._writer.send([_sendable(row) for row in rows], self._time_left())
        done = _acknowledged(rows, written)
        for row, place in done:
            self._sent[row["position"]] = Sent(row["bucket"], epochs[row["bucket"]], place)
        self.vitals.count(published=len(done), unknown=len(rows) - len(done))
        if len(done) < len(rows):
            self._batch = max(MIN_BATCH, self._batch // 2)
            await asyncio.sleep(0.2)
            return True
        self._batch = min(MAX_BATCH, self._batch * 2)
        return len(rows) == most

    def _time_left(self) -> float:
        """How long sending is safe: well within the lease, by the monotonic clock."""
        return max(0.05, self._renewed_at + 0.6 * LEASE_S - time.monotonic())

    async def _forget_soon(self) -> None:
        """Have what is acknowledged deleted while the next rows are sent."""
        if self._sent and (self._forgetting is None or self._forgetting.done()):
            self._forgetting = asyncio.create_task(self._gather())
        if self._forgetting is not None and len(self._sent) >= MOST_SENT:
            await self._forgetting

    async def _gather(self) -> None:
        if len(self._sent) < MIN_BATCH:
            await asyncio.sleep(GATHER_S)
        try:
            await self._forget_sent()
        except TRANSIENT as passing:
            log.warning(
                "relay keeps what it has sent", relay=self.name, rows=len(self._sent), error=repr(passing)
            )
            self.vitals.count(failures=1)

    async def _forget_sent(self) -> None:
        """Delete what the broker has acknowledged, but only where the lease is still ours, and note where it stands."""
        sent = dict(self._sent)
        if not sent:
            return
        await self.database.execute(
            """WITH gone AS (
                 DELETE FROM outbox o USING unnest($1::bigint[], $2::smallint[], $3::bigint[], $5::int[], $6::bigint[])
                     AS d (position, bucket, epoch, partition, "offset"), buckets b
                 WHERE o.position = d.position AND b.bucket = d.bucket AND b.owner = $4 AND b.epoch = d.epoch
                 RETURNING o.id, o.topic, d.partition, d."offset")
               INSERT INTO published (id, topic, partition, "offset") SELECT id, topic, partition, "offset" FROM gone
               ON CONFLICT DO NOTHING""",
            list(sent),
            [it.bucket for it in sent.values()],
            [it.epoch for it in sent.values()],
            self._me,
            [it.place.partition for it in sent.values()],
            [it.place.offset for it in sent.values()],
        )
        for position in sent:
            self._sent.pop(position, None)

    async def _lease(self) -> None:
        """Renew our buckets and take free ones, up to a fair share; give back what is beyond it."""
        began = time.monotonic()
        rows = await self.database.fetch(
            """UPDATE buckets SET expires_at = now() + make_interval(secs => $2)
               WHERE owner = $1 AND expires_at > now() RETURNING bucket, epoch""",
            self._me,
            LEASE_S,
        )
        self._epochs = {row["bucket"]: row["epoch"] for row in rows}
        # Counted by their heartbeats: one that has just come holds no bucket yet.
        (relays,) = await self.database.fetch(
            """SELECT count(*) AS alive, count(*) FILTER (WHERE NOT counters ? 'standby') AS active FROM heartbeats
               WHERE consumer = $1 AND beat_at > now() - make_interval(secs => $2) AND NOT counters ? 'stopped_because'""",
            self.name,
            LEASE_S / 2,
        )
        share = math.ceil(BUCKETS / max(1, relays["active"] or relays["alive"]))
        if self._standby and relays["active"]:
            share = 0
        if len(self._epochs) > share:
            await self._release(sorted(self._epochs)[share:])
        elif len(self._epochs) < share:
            taken = await self.database.fetch(
                """UPDATE buckets SET owner = $1, epoch = epoch + 1, expires_at = now() + make_interval(secs => $2)
                   WHERE bucket IN (SELECT bucket FROM buckets WHERE expires_at < now() ORDER BY bucket LIMIT $3
                                    FOR UPDATE SKIP LOCKED)
                   RETURNING bucket, epoch""",
                self._me,
                LEASE_S,
                share - len(self._epochs),
            )
            self._epochs |= {row["bucket"]: row["epoch"] for row in taken}
        self._waiting = share > 0 and not self._epochs
        self._renewed_at = began

    async def _release(self, buckets: list[int]) -> None:
        for bucket in buckets:
            del self._epochs[bucket]
        await self.database.execute(
            "UPDATE buckets SET expires_at = '-infinity' WHERE owner = $1 AND bucket = ANY($2::smallint[])",
            self._me,
            buckets,
        )

    def _forget(self) -> None:
        self._epochs = {}
        self._renewed_at = -math.inf


def _sendable(row: Any) -> Sendable:
    headers = [(name, text.encode()) for name, text in from_json(row["headers"])]
    return Sendable(row["topic"], row["key"].encode(), row["value"], headers)


def _acknowledged(rows: list[Any], written: list[Written | None]) -> list[tuple[Any, Written]]:
    """Keep of each key only the acknowledged prefix: what comes after a failure is sent again, in order."""
    failed: set[tuple[str, UUID]] = set()
    done = []
    for row, place in zip(rows, written, strict=True):
        key = (row["topic"], row["key"])
        if place is None:
            failed.add(key)
        elif key not in failed:
            done.append((row, place))
    return done
