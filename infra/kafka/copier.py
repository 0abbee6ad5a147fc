"""Writes records into a topic as they were read: null keys, null values and repeated headers too, and in order.

The other client, because aiokafka refuses a record without key and value. Blocking calls, run beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaException, Producer

from infra.kafka.admin import BrokerUnavailable, Topic
from infra.kafka.record import Record

TIMEOUT_S: Final = 20.0
BY_KEY: Final = -1


class Copier:
    """An idempotent producer for one topic."""

    def __init__(self, bootstrap: str, topic: Topic) -> None:
        """Write to `topic` of the cluster at `bootstrap`."""
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "triplane-copy",
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "message.timeout.ms": int(TIMEOUT_S * 1000),
                "log_level": 0,
            }
        )

    async def write(self, records: Sequence[Record], partitions: int) -> None:
        """Write records that come from a topic of so many `partitions`; returns when all are acknowledged.

        Where both topics have as many, each stays in its partition; else its key decides. Raises `BrokerUnavailable`.
        """
        await asyncio.to_thread(self._write, records, same=partitions == self._topic.partitions)

    def _write(self, records: Sequence[Record], *, same: bool) -> None:
        failed: list[str] = []

        def told(error: Any, _: object) -> None:
            if error is not None:
                failed.append(str(error))

        try:
            for record in records:
                self._producer.produce(
                    self._topic.name,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    on_delivery=told,
                    partition=record.partition if same else BY_KEY,
                )
                self._producer.poll(0)
            left = self._producer.flush(TIMEOUT_S)
        except (KafkaException, BufferError) as wrong:
            raise BrokerUnavailable(f"{self._topic.name} cannot be written: {wrong}") from wrong
        if failed or left:
            raise BrokerUnavailable(
                f"{self._topic.name}: not every record was taken: {(failed or ['in time'])[0]}"
            )
