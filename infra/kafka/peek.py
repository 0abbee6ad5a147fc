"""When a record was appended, asked of the broker for one place at a time: what lag in seconds is measured by.

A client of its own in no group, so that nobody's position moves. Blocking calls, run beside the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.kafka.record import Place

CACHED: Final = 4_096


class Peek:
    """Append times of records."""

    def __init__(self, bootstrap: str, timeout_s: float) -> None:
        """Ask the cluster at `bootstrap`, for at most `timeout_s` seconds at a time."""
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._consumer: Any = None
        self._known: dict[tuple[Place, int], float] = {}

    async def append_times(self, offsets: Mapping[Place, int]) -> dict[Place, float]:
        """Give, in Unix seconds, when the first record at or after each offset was appended; those not read are left out."""
        missing = {place: offset for place, offset in offsets.items() if (place, offset) not in self._known}
        if missing:
            if len(self._known) > CACHED:
                self._known.clear()
            self._known |= await asyncio.to_thread(self._read, missing)
        return {
            place: self._known[place, offset]
            for place, offset in offsets.items()
            if (place, offset) in self._known
        }

    async def close(self) -> None:
        """Let the connections go."""
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)
            self._consumer = None

    def _read(self, offsets: dict[Place, int]) -> dict[tuple[Place, int], float]:
        found: dict[tuple[Place, int], float] = {}
        give_up = time.monotonic() + self._timeout_s
        try:
            consumer = self._opened()
            consumer.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])
            while len(found) < len(offsets) and (left := give_up - time.monotonic()) > 0:
                record: Any = consumer.poll(left)
                if record is None or record.error():
                    continue
                place = (record.topic(), record.partition())
                if (place, offsets[place]) not in found:
                    found[place, offsets[place]] = record.timestamp()[1] / 1000
                    consumer.incremental_unassign([TopicPartition(*place)])
            consumer.unassign()
        except KafkaException:
            return found
        return found

    def _opened(self) -> Any:
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    "bootstrap.servers": self._bootstrap,
                    "group.id": "triplane-peek",
                    "client.id": "triplane-peek",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "isolation.level": "read_committed",
                    "fetch.message.max.bytes": 65_536,
                    "queued.max.messages.kbytes": 1_024,
                    "log_level": 0,
                }
            )
        return self._consumer
