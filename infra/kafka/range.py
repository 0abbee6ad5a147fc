"""Reads a range of a topic beside everybody: assigned, in no group, so that nobody's position moves.

The partitions are merged by append time, so the same range always comes in the same order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from infra.kafka import connections
from infra.kafka.admin import BrokerUnavailable
from infra.kafka.reader import as_record
from infra.kafka.record import Place, Record

PATIENCE_S: Final = 10.0
FETCH_MS: Final = 500


class RangeReader:
    """The records from one offset to another, of any number of partitions."""

    def __init__(self, bootstrap: str, ranges: Mapping[Place, tuple[int, int]]) -> None:
        """Read `ranges` (first offset, and the one before which to end) from the cluster at `bootstrap`."""
        self._ranges = {place: (first, end) for place, (first, end) in ranges.items() if first < end}
        self._ahead: dict[Place, deque[Record]] = {place: deque() for place in self._ranges}
        self._open = set(self._ranges)
        self._heads: list[tuple[int, Place]] = []
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            client_id="triplane-range",
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_records=2_000,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )

    async def start(self) -> None:
        """Connect; raise `BrokerUnavailable` where nobody answers."""
        if not self._ranges:
            return
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as away:
            await self.stop()
            raise BrokerUnavailable(f"the broker did not answer: {away}") from away
        self._consumer.assign([TopicPartition(*place) for place in self._ranges])
        for place, (first, _) in self._ranges.items():
            self._consumer.seek(TopicPartition(*place), first)

    async def take(self, limit: int) -> list[Record]:
        """Give the next records in the order of their append times, at most `limit`; none at the end."""
        taken: list[Record] = []
        while len(taken) < limit and await self._filled():
            _, place = heappop(self._heads)
            taken.append(self._ahead[place].popleft())
            self._show_head(place)
        return taken

    async def stop(self) -> None:
        """Let the connections go."""
        await connections.let_go(self._consumer, PATIENCE_S)

    async def _filled(self) -> bool:
        """Have a record of every partition that has any left; give whether there is one at all."""
        give_up = time.monotonic() + PATIENCE_S
        while empty := [place for place in self._open if not self._ahead[place]]:
            # Never cancelled: the client would believe for ever that a fetch goes on.
            try:
                found = await self._consumer.getmany(
                    *(TopicPartition(*place) for place in empty), timeout_ms=FETCH_MS
                )
            except KafkaError as failed:
                raise BrokerUnavailable(f"the range cannot be read: {failed}") from failed
            for place in empty:
                await self._keep(place, found.get(TopicPartition(*place), []))
            if found:
                give_up = time.monotonic() + PATIENCE_S
            elif time.monotonic() > give_up:
                raise BrokerUnavailable(f"no record of the range came within {PATIENCE_S:g} s")
        return bool(self._heads)

    async def _keep(self, place: Place, raw_records: Sequence[Any]) -> None:
        _, end = self._ranges[place]
        for raw in raw_records:
            record = as_record(raw)
            if record.offset < end:
                self._ahead[place].append(record)
        self._show_head(place)
        # Markers of transactions take offsets and are never given: only the position tells that the end is passed.
        if await self._consumer.position(TopicPartition(*place)) >= end:
            self._open.discard(place)
            self._consumer.pause(TopicPartition(*place))

    def _show_head(self, place: Place) -> None:
        if self._ahead[place]:
            heappush(self._heads, (self._ahead[place][0].timestamp, place))
