"""`relay`: from the outbox to the topic, in order for each key.

The outbox is filled before the clock starts, by 16 writers at once, each with its own keys, in transactions of 50 rows:
so rows of all writers lie between each other. The clock starts when our relay has leased its buckets (it is then
connected to both servers and has sent nothing), and stops when the outbox is empty.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, TopicPartition
from pydantic_core import from_json

from infra.postgres.database import open_database
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import source_of
from infra.runtime.publishing import outbox
from infra.settings import Settings
from tests.benchmarks.baseline import Baseline, Job
from tests.benchmarks.harness import Case, Contestant, Goal, Run, agree
from tests.benchmarks.ledger import Deposited
from tests.benchmarks.load import Load, ends
from tests.benchmarks.meter import Marks
from tests.benchmarks.payments import NOON, TENANTS
from tests.benchmarks.site import Site

TOPIC: Final = "benchmarks.events"
KEYS: Final = 10_000
WRITERS: Final = 16
TOGETHER: Final = 50
LOOK_S: Final = 0.05
TABLES: Final = """
    CREATE SCHEMA IF NOT EXISTS baseline;
    DROP TABLE IF EXISTS baseline.outbox;
    CREATE TABLE baseline.outbox (LIKE benchmarks.outbox INCLUDING ALL)
"""


def share(writer: int, count: int) -> Iterator[outbox.Outgoing]:
    """Give what one writer writes: its share of `count` facts, of keys that are its own."""
    drawn = random.Random(writer)
    keys = [UUID(int=drawn.getrandbits(128), version=4) for _ in range(KEYS // WRITERS)]
    versions = dict.fromkeys(keys, 0)
    for _ in range(count // WRITERS + (writer < count % WRITERS)):
        key = drawn.choice(keys)
        versions[key] += 1
        event = Deposited(
            account_id=key,
            amount_minor=versions[key],
            balance_minor=drawn.randrange(10**9),
            reference=f"invoice {drawn.getrandbits(64):016x}",
            deposited_at=NOON,
        )
        message = UUID(int=drawn.getrandbits(128), version=4)
        envelope = Envelope(
            id=str(message),
            type="benchmarks.Deposited",
            source=source_of("benchmarks"),
            tenant=TENANTS[int(key) % len(TENANTS)],
            version=1,
            time=NOON,
            correlation=str(message),
            causation=str(message),
            sequence=versions[key],
        )
        yield outbox.Outgoing(message, TOPIC, str(key), envelope, event.model_dump_json().encode())


def in_order(who: str, found: Iterable[tuple[str, int]], count: int) -> None:
    """Raise `WrongAnswer` unless `count` facts, by key and sequence, have come, of each key in order; some may come again."""
    last: dict[str, int] = {}
    for key, sequence in found:
        if sequence > last.get(key, 0):
            agree(f"{who}: the next fact of {key}", sequence, last.get(key, 0) + 1)
            last[key] = sequence
    agree(f"{who}: facts on the topic", sum(last.values()), count)


class Outbox:
    """The rows that all contestants publish, and what must be on the topic afterwards."""

    def __init__(self, site: Site, count: int) -> None:
        """Let `count` rows be published."""
        self._site = site
        self.count = count
        self._begin: dict[int, int] = {}

    async def fill(self, count: int) -> None:
        """Empty the schema's outbox and fill it anew; remember where the topic ends."""
        await self._site.sql("TRUNCATE benchmarks.outbox, benchmarks.published")
        database = await open_database(self._site.settings, "benchmarks", size=WRITERS, at_once=WRITERS)

        async def write(writer: int) -> None:
            rows = list(share(writer, count))
            for start in range(0, len(rows), TOGETHER):
                async with database.transaction() as tx:
                    await outbox.write(tx, rows[start : start + TOGETHER])

        await asyncio.gather(*map(write, range(WRITERS)))
        await database.close()
        self._begin = await ends(self._site.settings.kafka, TOPIC)

    async def check(self, who: str, count: int) -> None:
        """Read the topic: nothing is missing, and of each key nothing comes before what was written before it."""
        in_order(
            who, await asyncio.to_thread(self._read, await ends(self._site.settings.kafka, TOPIC)), count
        )

    def _read(self, end: Mapping[int, int]) -> list[tuple[str, int]]:
        consumer = Consumer(
            {
                "bootstrap.servers": self._site.settings.kafka,
                "group.id": "bench",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        consumer.assign(
            [TopicPartition(TOPIC, partition, offset) for partition, offset in self._begin.items()]
        )
        found: list[tuple[str, int]] = []
        expected = sum(end.values()) - sum(self._begin.values())
        deadline = time.monotonic() + 120
        while len(found) < expected and time.monotonic() < deadline:
            for message in consumer.consume(5_000, timeout=1):
                headers: Any = message.headers()
                key: Any = message.key()
                found.append((key.decode(), int(dict(headers)["ce_sequence"])))
        consumer.close()
        return found


class Relayed(Contestant):
    """Our relay."""

    name = "ours"

    def __init__(self, site: Site, rows: Outbox) -> None:
        """Publish `rows`."""
        self._site = site
        self._rows = rows

    async def reset(self) -> None:
        """Fill the outbox."""
        await self._rows.fill(self._rows.count)
        await self._site.sql("VACUUM ANALYZE benchmarks.outbox", "CHECKPOINT")

    async def run(self) -> Run:
        """Publish until the outbox is empty."""
        async with (
            self._site.connection() as connection,
            self._site.process(self._site.worker_module, "relay.benchmarks") as worker,
            self._site.metered(worker.pid) as meter,
        ):
            leased = "SELECT EXISTS (SELECT FROM benchmarks.buckets WHERE expires_at > now())"
            while not await connection.fetchval(leased):
                agree("relay.benchmarks: has ended", worker.returncode, None)
                await asyncio.sleep(LOOK_S / 5)
            began = time.monotonic()
            while await connection.fetchval("SELECT EXISTS (SELECT FROM benchmarks.outbox)"):
                agree("relay.benchmarks: has ended", worker.returncode, None)
                await asyncio.sleep(LOOK_S)
            marks = Marks(began, time.monotonic(), self._rows.count)
        return meter.run(marks)

    async def verify(self) -> None:
        """Read the topic."""
        await self._rows.check(self.name, self._rows.count)


async def row_by_row(job: Job) -> Marks:
    """A relay as it is written first: send a row, await the acknowledgement, delete the row; all in order."""
    settings = Settings.load()
    connection = await asyncpg.connect(settings.postgres, server_settings={"search_path": "baseline"})
    read = await connection.prepare(
        "SELECT position, topic, key, headers, value FROM outbox ORDER BY position LIMIT 500"
    )
    forget = await connection.prepare("DELETE FROM outbox WHERE position = $1")
    producer: Any = AIOKafkaProducer(bootstrap_servers=settings.kafka, acks="all", enable_idempotence=True)
    await producer.start()
    await producer.partitions_for(job.topic)
    job.begin()
    done = 0
    while rows := await read.fetch():
        for row in rows:
            headers = [(name, text.encode()) for name, text in from_json(row["headers"])]
            await producer.send_and_wait(row["topic"], row["value"], row["key"].encode(), headers=headers)
            await forget.fetch(row["position"])
            done += 1
    marks = job.end(done)
    await producer.stop()
    await connection.close()
    return marks


class Relay(Case):
    """One context's outbox."""

    name = "relay"
    events = 200_000
    goals = (Goal("row_by_row", must=20, aim=50),)
    baselines = {"row_by_row": row_by_row}  # noqa: RUF012

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Prepare the rows; each contestant gets the outbox filled anew."""
        rows = Outbox(site, events)
        sample = min(5_000, events)

        async def tables() -> None:
            await rows.fill(sample)
            await site.sql(
                TABLES,
                "INSERT INTO baseline.outbox OVERRIDING SYSTEM VALUE SELECT * FROM benchmarks.outbox",
                "VACUUM ANALYZE baseline.outbox",
            )

        async def check(_: Mapping[int, int]) -> None:
            await rows.check("row_by_row", sample)

        nothing = Load(TOPIC, {}, {0: range(sample)})
        return [
            Relayed(site, rows),
            Baseline(site, self.name, "row_by_row", nothing, events=sample, reset=tables, check=check),
        ]


case = Relay()
