"""A bench for the engine: batches of hand-made records on a real database, without a broker.

Each bench has a database to itself, made once a session and emptied for each test.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from types import ModuleType
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4, uuid5

import asyncpg
import pytest

import events.operations
import events.sagas
import tests.shop.events
import tests.shop.handlers
import tests.shop.projections
import tests.shop.sagas
from events import Message
from infra.kafka.record import Header, Place, Record
from infra.migrations.read_models import ensure_read_models
from infra.migrations.schemas import ensure_schemas
from infra.postgres.database import Database
from infra.runtime import catalog as cataloguing
from infra.runtime.catalog import Catalog, discover, message_types
from infra.runtime.consuming.batch import Batcher, Counts, Position
from infra.runtime.engine import Engine, open_engine
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import source_of
from infra.runtime.operating import parked as repair
from infra.settings import Settings

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
TENANT = "acme"
SCHEMAS = ("shop", "sagas", "projections", "operations")


def wire(
    events_: Iterable[ModuleType] = (),
    handlers: Iterable[ModuleType] = (),
    sagas: Iterable[ModuleType] = (),
    projections: Iterable[ModuleType] = (),
) -> Catalog:
    """Wire other modules than those of the platform; `WiringError` names the culprit, as at a start."""
    modules = {
        "events": [events.operations, events.sagas, *events_],
        "handlers": list(handlers),
        "sagas": list(sagas),
        "projections": list(projections),
    }

    def walked(package: ModuleType) -> Iterator[ModuleType]:
        return iter(modules[package.__name__])

    with patch.object(cataloguing, "modules", walked), patch.object(message_types, "modules", walked):
        return discover.__wrapped__()


def shop() -> Catalog:
    """Wire the shop."""
    return wire(
        [tests.shop.events],
        [tests.shop.handlers],
        [tests.shop.sagas],
        [tests.shop.projections],
    )


class Bench:
    """One open engine, and the log that the records pretend to come from."""

    def __init__(self, engine: Engine) -> None:
        """Begin with an empty log."""
        self.engine = engine
        self.space = uuid4()
        self.positions: dict[str, dict[Place, Position]] = defaultdict(dict)
        self._ends: dict[Place, int] = defaultdict(int)
        self._numbers = count(1)
        self._batchers: dict[str, Batcher] = {}

    # -- given ------------------------------------------------------------------------------------------------------

    async def of(
        self,
        message: Message,
        *,
        topic: str | None = None,
        partition: int = 0,
        tenant: str = TENANT,
        id: str | None = None,  # noqa: A002 - what CloudEvents calls it
        source: str | None = None,
    ) -> Record:
        """Give the next record of a partition: on `.inbound` as upstream sends it, elsewhere as our own relay does."""
        contract = self.engine.catalog.of(type(message))
        topic = topic or contract.topic
        inbound = topic.endswith(".inbound")
        envelope = Envelope(
            id=id or f"m{next(self._numbers)}",
            type=contract.name,
            source=source or ("upstream" if inbound else source_of("tests")),
            tenant=tenant,
            version=contract.current,
            time=NOON,
            correlation="flow-1",
            sequence=1 if topic.endswith(".events") else None,
        )
        if inbound:
            body = message.model_dump_json().encode()
        else:
            subject = self.engine.codec.subject_of(contract, tenant, message)
            if subject is not None:
                await self.engine.codec.vault.warm([subject], create=True)
            body = self.engine.codec.encode(contract, tenant, message)
        key = str(getattr(message, contract.key)).encode()
        return self.raw(topic, body, envelope.headers(), key=key, partition=partition)

    def raw(
        self,
        topic: str,
        value: bytes | None,
        headers: Sequence[Header],
        *,
        key: bytes | None = None,
        partition: int = 0,
    ) -> Record:
        """Give the next record of a partition, whatever is in it."""
        offset = self._ends[topic, partition]
        self._ends[topic, partition] += 1
        return Record(topic, partition, offset, int(NOON.timestamp() * 1000), key, value, headers)

    def again(self, record: Record, *, partition: int | None = None) -> Record:
        """Give the same record at another place of the log."""
        place = (record.topic, record.partition if partition is None else partition)
        offset = self._ends[place]
        self._ends[place] += 1
        return replace(record, partition=place[1], offset=offset)

    def end(self, topic: str, partition: int) -> int:
        """Give the offset that a partition's next record will get."""
        return self._ends[topic, partition]

    # -- when -------------------------------------------------------------------------------------------------------

    async def batcher(self, consumer: str) -> Batcher:
        """Give the batcher of a consumer."""
        if consumer not in self._batchers:
            self._batchers[consumer] = await self.engine.batcher(self.engine.catalog.consumers[consumer])
        return self._batchers[consumer]

    def use(self, consumer: str, batcher: Batcher) -> None:
        """Let a consumer be served by another batcher: a mutant."""
        self._batchers[consumer] = batcher

    async def claim(self, consumer: str, places: Iterable[Place]) -> dict[Place, Position]:
        """Claim partitions as a worker does: register them at what is first delivered, and count the epoch up."""
        database = (await self.batcher(consumer)).database
        claimed = {}
        for topic, partition in places:
            row = await self.fetchrow(
                database,
                """INSERT INTO checkpoints (consumer, generation, topic_id, topic, partition, start_offset, next_offset, epoch)
                   VALUES ($1, 1, $2, $3, $4, 0, 0, 1)
                   ON CONFLICT (consumer, generation, topic_id, partition) DO UPDATE SET epoch = checkpoints.epoch + 1
                   RETURNING topic_id, next_offset, epoch""",
                consumer,
                uuid5(self.space, topic),
                topic,
                partition,
            )
            claimed[topic, partition] = Position(row["topic_id"], row["next_offset"], row["epoch"])
        return claimed

    async def deliver(self, consumer: str, *records: Record) -> Counts:
        """Run one batch; nobody else holds the partitions."""
        batcher = await self.batcher(consumer)
        positions = self.positions[consumer]
        missing = {(it.topic, it.partition) for it in records} - positions.keys()
        positions |= await self.claim(consumer, sorted(missing))
        counts, lost = await batcher.run(positions, records, await batcher.open(records))
        assert not lost
        return counts

    async def run(
        self, consumer: str, positions: dict[Place, Position], records: Sequence[Record]
    ) -> tuple[Counts, set[Place]]:
        """Run one batch from the positions that a process holds."""
        batcher = await self.batcher(consumer)
        return await batcher.run(positions, records, await batcher.open(records))

    async def published(self, schema: str = "shop") -> list[Record]:
        """Do what the relay does: take what is in the outbox, in order, and append it to the log."""
        rows = await self.engine.databases[schema].fetch("DELETE FROM outbox RETURNING *")
        found = []
        for row in sorted(rows, key=lambda row: row["position"]):
            headers = [(name, text.encode()) for name, text in headers_of(row["headers"])]
            found.append(self.raw(row["topic"], bytes(row["value"]), headers, key=row["key"].encode()))
        return found

    async def redrive(self, consumer: str, number: int) -> bool:
        """Redrive one parked message."""
        return await repair.redrive(await self.batcher(consumer), number)

    # -- then -------------------------------------------------------------------------------------------------------

    async def parked(self, schema: str = "shop", **wanted: Any) -> list[repair.ParkedMessage]:
        """List what is parked."""
        return await repair.parked(self.engine.databases[schema], **wanted)

    async def reasons(self, schema: str = "shop") -> list[str]:
        """Say why things are parked, in order."""
        return [it.reason for it in await self.parked(schema)]

    async def rows(self, table: str, schema: str = "shop", where: str = "true") -> list[dict[str, Any]]:
        """Read a table."""
        found = await self.engine.databases[schema].fetch(
            f'SELECT * FROM "{table}" WHERE {where} ORDER BY 1, 2, 3'
        )
        return [dict(row) for row in found]

    async def facts(self, key: UUID, tenant: str = TENANT) -> list[tuple[int, str]]:
        """Give a stream's facts: version and type."""
        rows = await self.engine.databases["shop"].fetch(
            "SELECT version, type FROM events WHERE tenant = $1 AND key = $2 ORDER BY version",
            tenant,
            str(key),
        )
        return [(row["version"], row["type"].removeprefix("shop.")) for row in rows]

    async def next_offset(self, consumer: str, topic: str, partition: int = 0) -> int:
        """Say how far a consumer's checkpoint stands."""
        database = (await self.batcher(consumer)).database
        row = await self.fetchrow(
            database,
            "SELECT next_offset FROM checkpoints WHERE consumer = $1 AND topic_id = $2 AND partition = $3",
            consumer,
            uuid5(self.space, topic),
            partition,
        )
        return int(row["next_offset"])

    @staticmethod
    async def fetchrow(database: Database, query: str, *arguments: object) -> Any:
        """Give the one row of a statement."""
        (row,) = await database.fetch(query, *arguments)
        return row


def headers_of(text: str) -> list[tuple[str, str]]:
    """Read an outbox row's headers."""
    from pydantic_core import from_json

    return [(name, value) for name, value in from_json(text)]


def fact_types(records: Iterable[Record]) -> list[str]:
    """Name the messages in records."""
    return [dict(record.headers)["ce_type"].decode().removeprefix("shop.") for record in records]  # type: ignore[union-attr]


@asynccontextmanager
async def opened(settings: Settings, *, size: int = 3) -> AsyncGenerator[Bench]:
    """Open a bench on a database that `ready` has made."""
    async with open_engine(settings, shop(), SCHEMAS, size=size) as engine:
        yield Bench(engine)


async def emptied(settings: Settings) -> None:
    """Forget what earlier tests left."""
    connection = await asyncpg.connect(settings.postgres)
    try:
        tables = await connection.fetch(
            """SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
               WHERE schemaname IN ('shop', 'sagas', 'projections', 'operations', 'vault', 'tenancy', 'intake')
                 AND tablename NOT IN ('alembic_version', 'generations', 'buckets')"""
        )
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(";".join(f"DELETE FROM {row['name']}" for row in tables))
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def shop_settings(platform: Settings) -> Generator[Settings]:
    """A database with the shop's schemas."""
    name = f"shop_{uuid4().hex}"
    asyncio.run(administered(platform.postgres, f"CREATE DATABASE {name}"))
    settings = replace(platform, postgres=urlunsplit(urlsplit(platform.postgres)._replace(path=f"/{name}")))
    asyncio.run(_migrated(settings))
    yield settings
    asyncio.run(administered(platform.postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def bench(shop_settings: Settings) -> AsyncGenerator[Bench]:
    """A bench of its own for each test."""
    await emptied(shop_settings)
    async with opened(shop_settings) as bench:
        yield bench


async def _migrated(settings: Settings) -> None:
    await ensure_schemas(settings, shop())
    await ensure_read_models(settings, shop())


async def administered(uri: str, statement: str) -> None:
    """Run a statement as the administrator."""
    connection = await asyncpg.connect(uri)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
