"""Reads records in a consumer group, and keeps the traps of the client in one place.

Never cancelled: a cancelled `getmany` leaves the client believing that a fetch goes on for ever. Never stopped by an
exception in a rebalance callback: the client swallows those. A client of which a part has died is replaced: it would fail, or be
silent, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from infra.kafka import connections
from infra.kafka.record import Place, Record
from infra.kafka.sessions import Sessions

log = structlog.get_logger(__name__)
SESSION_MS: Final = 6_000
REBALANCE_MS: Final = 60_000
PATIENCE_S: Final = 5.0
AGAIN_S: Final = 0.2
MAX_RECORD: Final = 1_048_576
"""What a topic takes; of each partition no more lies in memory unread, so that many consumers fit into a process."""


def as_record(raw: Any) -> Record:
    """Give what the client has read as everybody else knows it."""
    return Record(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, raw.headers)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, rebalanced: Callable[[], Awaitable[None]]) -> None:
        self._rebalanced = rebalanced

    # The client awaits both, though its own are declared plain.
    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        revoked: Any,  # noqa: ARG002 - the client's signature
    ) -> None:
        await self._rebalanced()

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        assigned: Any,  # noqa: ARG002 - the client's signature
    ) -> None:
        await self._rebalanced()


class Reader:
    """A member of one consumer group."""

    def __init__(
        self, bootstrap: str, group: str, topics: Collection[str], rebalanced: Callable[[], Awaitable[None]]
    ) -> None:
        """Read `topics` in `group`; `rebalanced` is awaited before partitions go and after they have come."""
        self._bootstrap = bootstrap
        self._group = group
        self._topics = sorted(topics)
        self.failing: tuple[float, str] | None = None
        """Since when (monotonic seconds) no fetch has succeeded, and why the first one failed."""
        self._listener = _Listener(rebalanced)
        self._consumer = self._made()

    def _made(self) -> Any:
        """Make a consumer that is not connected yet."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group,
            client_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 4,
            rebalance_timeout_ms=REBALANCE_MS,
            max_poll_interval_ms=5 * REBALANCE_MS,
            max_partition_fetch_bytes=MAX_RECORD,
            metadata_max_age_ms=60_000,
        )
        client: Any = consumer._client  # noqa: SLF001 - it offers no other way
        client.send = Sessions(client.send).send
        return consumer

    async def start(self, stop: asyncio.Event) -> None:
        """Join the group, waiting for a broker as long as it takes."""
        while not stop.is_set():
            try:
                await self._consumer.start()
            except (KafkaError, OSError) as away:
                log.warning("no broker yet", error=str(away))
                await asyncio.sleep(0.5)
            else:
                self._join()
                return

    def _join(self) -> None:
        connections.wake_when_lost(self._consumer)
        self._consumer.subscribe(topics=self._topics, listener=self._listener)

    async def _renew(self) -> None:
        """Put a new consumer in the place of one that has died, which stays where no broker answers."""
        consumer = self._made()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await consumer.start()
        except (KafkaError, OSError) as away:
            log.warning("no broker yet", error=str(away))
            await connections.let_go(consumer, PATIENCE_S)
            return
        died, self._consumer = self._consumer, consumer
        await connections.let_go(died, PATIENCE_S)
        self._join()

    async def fetch(self, timeout_ms: int, limit: int) -> dict[Place, Sequence[Record]]:
        """Give what has arrived, waiting up to `timeout_ms` ms for something; nothing where the client had to be replaced."""
        if (died := connections.lost(self._consumer)) is not None:
            self._failed(died)
            await self._renew()
            await asyncio.sleep(AGAIN_S)
            return {}
        try:
            found = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=limit)
        except KafkaError as passing:
            self._failed(str(passing))
            await asyncio.sleep(AGAIN_S)
            return {}
        self.failing = None
        return {
            (place.topic, place.partition): [as_record(raw) for raw in records]
            for place, records in found.items()
        }

    def _failed(self, why: str) -> None:
        self.failing = self.failing or (time.monotonic(), why)
        log.warning("fetch failed", group=self._group, error=why)

    def assignment(self) -> set[Place]:
        """Give the partitions that the group has assigned to this member."""
        return {(place.topic, place.partition) for place in self._consumer.assignment()}

    def seek(self, place: Place, offset: int) -> None:
        """Read on from `offset`; what was fetched before is dropped by the client."""
        # A partition that has gone meanwhile needs none: `rebalanced` is about to be awaited.
        with contextlib.suppress(IllegalStateError):
            self._consumer.seek(TopicPartition(*place), offset)

    async def bounds(self, places: Collection[Place]) -> tuple[dict[Place, int], dict[Place, int]]:
        """Give the first and the end offset of partitions."""
        wanted = [TopicPartition(*place) for place in places]
        # The client would ask for 40 s; whoever waits for this turn (a rebalance, a stop) must not.
        async with asyncio.timeout(PATIENCE_S):
            # At once: each waits behind the fetch under way on the broker's connection.
            first, end = await asyncio.gather(
                self._consumer.beginning_offsets(wanted), self._consumer.end_offsets(wanted)
            )
        return (
            {(place.topic, place.partition): offset for place, offset in first.items()},
            {(place.topic, place.partition): offset for place, offset in end.items()},
        )

    async def commit(self, offsets: dict[Place, int]) -> None:
        """Tell the group where we stand: advisory, for lag tools, so a failure is of no matter."""
        mine = self.assignment()
        explicit = {TopicPartition(*place): offset for place, offset in offsets.items() if place in mine}
        if explicit:
            try:
                await asyncio.wait_for(self._consumer.commit(explicit), 5)
            except (KafkaError, TimeoutError, ValueError) as failed:
                log.debug("advisory commit failed", error=str(failed))

    async def stop(self) -> None:
        """Leave the group; a client that cannot, because its broker is away, is cut off."""
        await connections.let_go(self._consumer, PATIENCE_S)
