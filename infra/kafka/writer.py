"""Writes records in order, idempotently, acknowledged by all in-sync replicas; thrown away after any unknown error.

After one refused send the client's sequence numbers are out of step, and a send that timed out may still be written. So an
error means: outcome unknown, new producer; and nothing more goes to a partition before what came before it is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from infra.kafka import connections
from infra.kafka.record import Header

log = structlog.get_logger(__name__)
MAX_REQUEST: Final = 1_040_000
LARGE: Final = MAX_REQUEST // 2
"""A record of a smaller body is surely small enough: headers are, too."""
CONNECT_S: Final = 10.0
CLOSE_S: Final = 3.0
STOP_S: Final = 30.0


class Sendable(NamedTuple):
    """One record to be written."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class Written(NamedTuple):
    """Where a record stands now."""

    partition: int
    offset: int


class Writer:
    """A producer that replaces itself."""

    def __init__(self, bootstrap: str, name: str) -> None:
        """Write to the cluster at `bootstrap`; `name` shows in the broker's logs."""
        self._bootstrap = bootstrap
        self._name = name
        self._producer: Any = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def send(self, records: Sequence[Sendable], within_s: float) -> list[Written | None]:
        """Write records in order; `None` where it is not known to be written, or refused, within `within_s` seconds.

        `connect` comes first. What goes to one partition goes in batches, as each message by itself would cost the client
        several times as much; of a key with a record that is too large, nothing goes from there on.
        """
        producer = self._producer
        if producer is None:
            return [None] * len(records)
        written: list[Written | None] = [None] * len(records)
        broken = False
        try:
            async with asyncio.timeout(within_s):
                places = await self._placed(producer, records)
                await asyncio.gather(
                    *(
                        _sent(producer, topic, partition, [(it, records[it]) for it in numbers], written)
                        for (topic, partition), numbers in places.items()
                    )
                )
        except (KafkaError, OSError, TimeoutError) as failed:
            broken = True
            log.warning("send failed", writer=self._name, error=repr(failed))
        if broken or None in written:
            await self.discard()
        return written

    async def _placed(self, producer: Any, records: Sequence[Sendable]) -> dict[tuple[str, int], list[int]]:
        """Say which of the records go to which partition; a key with one that is too large holds up nobody else."""
        partitions: dict[str, int] = {}
        refused: set[tuple[str, bytes]] = set()
        places: dict[tuple[str, int], list[int]] = {}
        for number, record in enumerate(records):
            topic, key = record.topic, record.key
            if topic not in partitions:
                partitions[topic] = len(await producer.partitions_for(topic))
            if len(record.value) > LARGE and _size(record) > MAX_REQUEST:
                log.error(
                    "record refused; its key waits", writer=self._name, topic=topic, bytes=len(record.value)
                )
                refused.add((topic, key))
            if (topic, key) not in refused:
                places.setdefault((topic, _hash(key) % partitions[topic]), []).append(number)
        return places

    async def connect(self) -> bool:
        """Have a producer that knows the cluster; give whether there is one."""
        if self._producer is None:
            producer: Any = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                client_id=self._name,
                acks="all",
                enable_idempotence=True,
                max_request_size=MAX_REQUEST,
                max_batch_size=128 * 1024,
                request_timeout_ms=10_000,
                retry_backoff_ms=50,
            )
            try:
                await asyncio.wait_for(producer.start(), CONNECT_S)
            except (KafkaError, OSError, TimeoutError) as away:
                log.warning("no broker to write to", writer=self._name, error=repr(away))
                self._stop(producer)
                return False
            self._producer = producer
        return True

    async def discard(self) -> None:
        """Throw the producer away; what it may still write is a duplicate at worst."""
        producer, self._producer = self._producer, None
        if producer is not None:
            self._stop(producer)

    async def close(self) -> None:
        """Let what is in flight be acknowledged, for a few seconds."""
        await self.discard()
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=CLOSE_S)

    def _stop(self, producer: Any) -> None:
        """Stop a producer without waiting for it: a broker that is away would keep us."""
        task = asyncio.create_task(connections.let_go(producer, STOP_S))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)


async def _sent(
    producer: Any,
    topic: str,
    partition: int,
    records: Sequence[tuple[int, Sendable]],
    written: list[Written | None],
) -> None:
    """Write what goes to one partition, in as few batches as it fits into; note where each record stands.

    A batch goes once the one before it is acknowledged: a new producer's next one is taken even where the first was refused.
    """
    rest = list(records)
    while rest:
        batch, numbers = producer.create_batch(), list[int]()
        for number, record in rest:
            given = {"key": record.key, "value": record.value, "headers": record.headers, "timestamp": None}
            if batch.append(**given) is None:
                break
            numbers.append(number)
        batch.close()
        future = await producer.send_batch(batch, topic, partition=partition)
        await asyncio.wait([future])
        error = future.exception()
        if error is not None:
            log.warning("records not written", topic=topic, partition=partition, error=repr(error))
            return
        base = future.result().offset
        for place, number in enumerate(numbers):
            written[number] = Written(partition, base + place)
        rest = rest[len(numbers) :]


def _size(record: Sendable) -> int:
    headers: list[Header] = [*record.headers]
    size: int = DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, headers)
    return size


@lru_cache(maxsize=50_000)
def _hash(key: bytes) -> int:
    """Give the number by which a key finds its partition, the same as in Java's client."""
    number: int = murmur2(key)
    return number & 0x7FFFFFFF
