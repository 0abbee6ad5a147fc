"""What contestants work on: records on a topic, put there as a publisher does; where they begin, and in which order they lie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from confluent_kafka import Producer

from infra.kafka.admin import Admin

Outgoing = tuple[str, bytes, list[tuple[str, bytes]]]
"""Key, value and headers of a record."""


@dataclass(frozen=True)
class Load:
    """Records that lie on a topic: all of them behind `begin`, each partition's in order."""

    topic: str
    begin: Mapping[int, int]
    """The offset before the first one, by partition."""
    order: Mapping[int, Sequence[int]]
    """Which records lie in a partition, one after the other: their numbers as they were given."""

    @property
    def size(self) -> int:
        """How many there are."""
        return sum(map(len, self.order.values()))

    def until(self, ends: Mapping[int, int]) -> list[int]:
        """Give the numbers of the records below the given offsets."""
        return [
            number for place, end in ends.items() for number in self.order[place][: end - self.begin[place]]
        ]


async def ends(kafka: str, topic: str) -> dict[int, int]:
    """Give the offset that each partition's next record will get."""
    admin = Admin(kafka)
    known = (await admin.topics([topic])).values()
    return {partition: offset for (_, partition), offset in (await admin.offsets(known, end=True)).items()}


async def fill(kafka: str, topic: str, records: Iterable[Outgoing]) -> Load:
    """Append records by their keys, acknowledged by all replicas."""
    begin = await ends(kafka, topic)
    load = Load(topic, begin, await asyncio.to_thread(_append, _producer(kafka), topic, records, list(begin)))
    after = await ends(kafka, topic)
    assert after == {place: begin[place] + len(numbers) for place, numbers in load.order.items()}, (
        "somebody else writes to the topic"
    )
    return load


async def hold(kafka: str, topic: str, records: Iterable[Outgoing]) -> tuple[Load, Callable[[], None]]:
    """Append records that nobody sees until the second result is called; then all of them are there at once.

    They lie in a transaction of Kafka's, which ends with a mark of its own in every partition.
    """
    begin = await ends(kafka, topic)
    producer = _producer(kafka, **{"transactional.id": str(uuid4()), "transaction.timeout.ms": 300_000})
    await asyncio.to_thread(producer.init_transactions, 30)
    producer.begin_transaction()
    order = await asyncio.to_thread(_append, producer, topic, records, list(begin))
    return Load(topic, begin, order), producer.commit_transaction


def _producer(kafka: str, **settings: Any) -> Producer:
    return Producer(
        {
            "bootstrap.servers": kafka,
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2",
            "linger.ms": 20,
            "queue.buffering.max.messages": 50_000,
            "log_level": 0,
            **settings,
        }
    )


def _append(
    producer: Producer, topic: str, records: Iterable[Outgoing], partitions: Sequence[int]
) -> dict[int, list[int]]:
    order: dict[int, list[int]] = {partition: [] for partition in partitions}
    failed: list[str] = []

    def told(number: int) -> Any:
        def delivered(error: object, message: Any) -> None:
            if error is not None:
                failed.append(str(error))
            else:
                order[message.partition()].append(number)

        return delivered

    for number, (key, value, headers) in enumerate(records):
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=told(number))  # type: ignore[arg-type]
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(120) == 0
    assert not failed, failed[:3]
    # Acknowledgements of one partition come in its order; nothing depends on that being so.
    return {partition: sorted(numbers) for partition, numbers in order.items()}
