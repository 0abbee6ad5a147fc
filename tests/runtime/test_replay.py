"""A replay on real servers: what it delivers, to whom, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest

from events import Message
from infra.kafka.admin import Topic
from infra.kafka.range import RangeReader
from infra.kafka.record import Place, Record
from infra.kafka.writer import Sendable, Writer
from infra.runtime.consuming.batch import Counts, Position
from infra.runtime.operating.replay_job import Job, Only, Order, Tally, begun
from infra.runtime.operating.replay_range import Bound, Range, reached, resolved
from infra.runtime.operating.replaying import Replaying, Steps, batcher_for, replay
from tests.shop.bench import Bench
from tests.shop.events import Paid

SHOP, COLOURS, SAGA, SHIP = "shop", "projections.colours", "sagas.delivery", "shop.ship"
COMMANDS, EVENTS = "shop.commands", "shop.events"
IGNORED = ("replays", "checkpoints")
EVERYTHING = Only()


class Log:
    """The shop's topics on the broker, and its consumers, which begin where the topics end."""

    def __init__(self, bench: Bench, topics: dict[str, Topic]) -> None:
        self.bench = bench
        self.kafka = bench.engine.settings.kafka
        self._topics = topics
        self._writer = Writer(self.kafka, "tests")
        self.begins: dict[Place, int] = {}

    async def begin(self) -> None:
        """Register every consumer at the end, as if the topics were new."""
        assert await self._writer.connect()
        self.begins = await self.bench.engine.admin.offsets(self._topics.values(), end=True)
        for consumer in self.bench.engine.catalog.consumers:
            await self.register(consumer)

    async def register(self, consumer: str) -> None:
        """Let a consumer stand at the end of its topics."""
        batcher = await self.bench.batcher(consumer)
        ends = await self.bench.engine.admin.offsets(
            [self._topics[it] for it in batcher.wiring.topics], end=True
        )
        for (topic, partition), offset in ends.items():
            await batcher.database.execute(
                """INSERT INTO checkpoints (consumer, generation, topic_id, topic, partition, start_offset, next_offset)
                   VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (consumer, generation, topic_id, partition)
                   DO UPDATE SET next_offset = excluded.next_offset""",
                *batcher.scope,
                self._topics[topic].id,
                topic,
                partition,
                offset,
            )

    async def close(self) -> None:
        await self._writer.close()

    # -- given ------------------------------------------------------------------------------------------------------

    async def send(self, *records: Record) -> None:
        """Append records, each where its key belongs."""
        sendable = [
            Sendable(
                it.topic, it.key or b"", it.value or b"", [(name, raw or b"") for name, raw in it.headers]
            )
            for it in records
        ]
        assert None not in await self._writer.send(sendable, 30)

    async def sent(self, *messages: Message, topic: str | None = None) -> None:
        await self.send(*[await self.bench.of(it, topic=topic) for it in messages])

    async def published(self, schema: str = "shop") -> list[Record]:
        """Do what the relay does."""
        records = await self.bench.published(schema)
        await self.send(*records)
        return records

    async def live(self, consumer: str) -> Counts:
        """Let a consumer read to the end."""
        batcher = await self.bench.batcher(consumer)
        positions = {
            (row["topic"], row["partition"]): Position(row["topic_id"], row["next_offset"], row["epoch"])
            for row in await batcher.database.fetch(
                "SELECT * FROM checkpoints WHERE consumer = $1 AND generation = $2", *batcher.scope
            )
        }
        ends = await self.bench.engine.admin.offsets(
            [self._topics[it] for it in batcher.wiring.topics], end=True
        )
        reader = RangeReader(self.kafka, {it: (at.next, ends[it]) for it, at in positions.items()})
        await reader.start()
        records = await reader.take(100_000)
        await reader.stop()
        counts, lost = await batcher.run(positions, records)
        assert not lost
        return counts

    # -- when -------------------------------------------------------------------------------------------------------

    async def range(self, consumer: str, topic: str, start: Bound = None, end: Bound = None) -> Range:
        """Resolve a range; without bounds, what this test has sent."""
        asked = await resolved(self.bench.engine.admin, topic, start, end)
        if start is None:
            mine = {
                number: (max(first, min(self.begins[topic, number], until)), until)
                for number, (first, until) in asked.offsets.items()
            }
            asked = Range(asked.topic, mine)
        return await reached(await self.bench.batcher(consumer), asked)

    async def order(
        self,
        consumer: str,
        topic: str,
        only: Only = EVERYTHING,
        limit: int | None = None,
        *,
        again: bool = False,
    ) -> Order:
        scope = (await self.bench.batcher(consumer)).scope
        return Order(scope, await self.range(consumer, topic), only, limit, again, "test")

    async def rehearse(self, consumer: str, order: Order) -> Tally:
        wiring = self.bench.engine.catalog.consumers[consumer]
        anew = uuid4() if order.again else None
        batcher = await batcher_for(self.bench.engine, wiring, order.range.topic, anew=anew)
        return await Replaying(batcher, Steps(batcher, order, self.kafka)).rehearse(order, quiet)

    async def begun(self, consumer: str, order: Order) -> Job:
        return await begun((await self.bench.batcher(consumer)).database, order)

    async def go_on(self, job: Job, *, rate: int | None = None, steps: int = 10**6) -> Tally:
        """Go on with a replay for so many steps."""
        stop = asyncio.Event()

        def told(_: Tally, __: int) -> None:
            nonlocal steps
            steps -= 1
            if steps == 0:
                stop.set()

        await replay(self.bench.engine, job, who="tester", rate=rate, stop=stop, told=told)
        return job.tally

    async def replay(self, consumer: str, topic: str, **more: Any) -> Tally:
        return await self.go_on(await self.begun(consumer, await self.order(consumer, topic, **more)))

    # -- then -------------------------------------------------------------------------------------------------------

    async def state(self, *, without: tuple[str, ...] = IGNORED) -> dict[str, list[str]]:
        """Everything that is stored, in every schema."""
        found = {}
        for schema, database in self.bench.engine.databases.items():
            tables = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
            for name in [row["tablename"] for row in tables if row["tablename"] not in without]:
                rows = await database.fetch(f'SELECT t::text AS row FROM {schema}."{name}" t ORDER BY 1')
                found[f"{schema}.{name}"] = [row["row"] for row in rows]
        return found

    async def checkpoints(self) -> list[str]:
        """Every position, of everybody."""
        state = await self.state(without=())
        return [row for name in state if name.endswith(".checkpoints") for row in state[name]]


def quiet(_: Tally, __: int) -> None:
    """Tell nobody."""


def counts(tally: Tally) -> tuple[int, int, int, int]:
    total = tally.total
    return total.applied, total.duplicates, total.parked, tally.skipped


@pytest.fixture
async def log(bench: Bench) -> AsyncGenerator[Log]:
    names = bench.engine.catalog.topics
    await bench.engine.admin.ensure_topics(names)
    made = Log(bench, await bench.engine.admin.topics(names))
    await made.begin()
    yield made
    await made.close()


async def test_it_delivers_what_was_never_applied_and_moves_nobodys_position(bench: Bench, log: Log) -> None:
    baskets = [uuid4() for _ in range(30)]
    paid = [Paid(basket_id=it) for it in baskets]
    await log.sent(*paid[:20])
    await log.register(SAGA)
    await log.sent(*paid[20:])
    assert (await log.live(SAGA)).applied == 10
    before = await log.checkpoints()

    assert counts(await log.replay(SAGA, EVENTS)) == (20, 10, 0, 0)

    assert await log.checkpoints() == before
    assert len(await bench.rows("instances", "sagas")) == 30
    assert Counter(fact for fact in [row["because"] for row in await bench.rows("history", "sagas")]) == {
        "shop.Paid": 30
    }
    once = await log.state()
    assert counts(await log.replay(SAGA, EVENTS)) == (0, 30, 0, 0)
    twice = await log.state()
    changed = {name for name in once if once[name] != twice[name]}
    assert changed == {"operations.acts", "operations.outbox"}
