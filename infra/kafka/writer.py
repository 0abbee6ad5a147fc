"""Writes records in order, idempotently, acknowledged by all in-sync replicas; thrown away after any unknown error.

After one refused send the client's sequence numbers are out of step and every later send fails; and a send that timed
out may still be written. So an error means: outcome unknown, new producer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordTooLargeError

log = structlog.get_logger(__name__)
MAX_REQUEST: Final = 1_040_000
CONNECT_S: Final = 10.0
CLOSE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Sendable:
    """One record to be written."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Written:
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

        `connect` comes first.
        """
        producer = self._producer
        if producer is None:
            return [None] * len(records)
        futures: list[asyncio.Future[Any] | None] = []
        refused: set[tuple[str, bytes]] = set()
        broken = False
        try:
            async with asyncio.timeout(within_s):
                for record in records:
                    futures.append(await self._sent(producer, record, refused))  # noqa: PERF401 - kept on failure
                if sent := [future for future in futures if future is not None]:
                    await asyncio.wait(sent)
        except (KafkaError, OSError, TimeoutError) as failed:
            broken = True
            log.warning("send failed", writer=self._name, error=repr(failed))
        written = [None if future is None else _outcome(future) for future in futures]
        written += [None] * (len(records) - len(written))
        if broken or None in written:
            await self.discard()
        return written

    async def _sent(
        self, producer: Any, record: Sendable, refused: set[tuple[str, bytes]]
    ) -> asyncio.Future[Any] | None:
        """Hand a record to the client; one that it refuses outright holds up its key, and nobody else."""
        key = (record.topic, record.key)
        if key in refused:
            return None
        try:
            future: asyncio.Future[Any] = await producer.send(
                record.topic, record.value, record.key, headers=record.headers
            )
        except MessageSizeTooLargeError as too_large:
            log.error(  # noqa: TRY400 - the client's trace says nothing more
                "record refused; its key waits", writer=self._name, topic=record.topic, error=repr(too_large)
            )
            refused.add(key)
            return None
        return future

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
        task = asyncio.create_task(_stopped(producer))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)


async def _stopped(producer: Any) -> None:
    with contextlib.suppress(KafkaError, TimeoutError, OSError):
        await asyncio.wait_for(producer.stop(), 30)


def _outcome(future: asyncio.Future[Any]) -> Written | None:
    if not future.done() or future.cancelled():
        return None
    error = future.exception()
    if error is not None:
        level = (
            log.error if isinstance(error, MessageSizeTooLargeError | RecordTooLargeError) else log.warning
        )
        level("record not written", error=repr(error))
        return None
    metadata = future.result()
    return Written(metadata.partition, metadata.offset)
