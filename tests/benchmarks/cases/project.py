"""`project`: one projection of two tables, a row for each payment and a sum for each customer.

The baselines write the same two tables, with the same keys. Those that commit event by event do so in order, in one
process, as FastStream does unless told otherwise; they work on a sample, because they take so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID, uuid5

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from faststream.kafka import KafkaBroker, KafkaMessage
from sqlalchemy import BigInteger, DateTime, Text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from events.payments import PaymentCompleted
from infra.settings import Settings
from tests.benchmarks.baseline import Baseline, Job, Marks, consumer_of
from tests.benchmarks.catalogue import catalogue
from tests.benchmarks.checksum import Digest, digest, digest_query
from tests.benchmarks.harness import Case, Contestant, Goal, agree
from tests.benchmarks.load import Load
from tests.benchmarks.payments import TOPIC, Paid, payments, records, spent
from tests.benchmarks.product import Product
from tests.benchmarks.site import Site

BATCH: Final = 5_000
NAMESPACE: Final = UUID("5a0e1c8e-8f4c-4f0e-9d8a-3f1f1e5a7c11")
PAYMENT: Final = (
    "tenant",
    "payment_id",
    "customer_id",
    "product_id",
    "amount_minor",
    "currency",
    "provider",
    "provider_ref",
)
SPEND: Final = ("tenant", "customer_id", "payments", "spent_minor")

TABLES: Final = """
    CREATE SCHEMA IF NOT EXISTS baseline;
    DROP TABLE IF EXISTS baseline.payment, baseline.spend, baseline.inbox;
    CREATE TABLE baseline.payment (
        tenant text NOT NULL, payment_id uuid, customer_id uuid, product_id uuid, amount_minor bigint, currency text,
        provider text, provider_ref text, captured_at timestamptz, PRIMARY KEY (tenant, payment_id));
    CREATE TABLE baseline.spend (
        tenant text NOT NULL, customer_id uuid, payments bigint, spent_minor bigint, last_paid_at timestamptz,
        PRIMARY KEY (tenant, customer_id));
    CREATE TABLE baseline.inbox (key uuid PRIMARY KEY)
"""


class Answers:
    """What the two tables must hold."""

    def __init__(self, site: Site, load: Load, paid: Sequence[Paid]) -> None:
        """Judge what comes of `paid`, which lie on a topic as `load` says."""
        self._site = site
        self._load = load
        self._paid = paid
        self._whole = self._expected(paid)

    @staticmethod
    def _expected(paid: Iterable[Paid]) -> tuple[Digest, Digest]:
        known = list(paid)
        rows = ((*(getattr(it, name) for name in PAYMENT), it.captured_at) for it in known)
        sums = (
            (tenant, customer, it.payments, it.spent_minor, it.last_paid_at)
            for (tenant, customer), it in spent(known).items()
        )
        return digest(rows), digest(sums)

    async def check(self, who: str, payment: str, spend: str, ends: Mapping[int, int] | None = None) -> None:
        """Compare two tables to the fold of all payments, or of those below the offsets `ends`."""
        expected = (
            self._whole
            if ends is None
            else self._expected(self._paid[number] for number in self._load.until(ends))
        )
        found = (
            await self._site.row(digest_query(payment, PAYMENT, ("captured_at",))),
            await self._site.row(digest_query(spend, SPEND, ("last_paid_at",))),
        )
        agree(f"{who}: rows and digest of both tables", found, expected)


async def laid_out(site: Site, events: int) -> tuple[Load, Answers]:
    """Put payments on their topic."""
    paid = list(payments(events))
    load = await site.fill(TOPIC, records(paid))
    return load, Answers(site, load, paid)


class Projected(Product):
    """Our projection."""

    def __init__(self, site: Site, load: Load, answers: Answers, **how: Any) -> None:
        """Fold `load` into the projection's tables, which `answers` judges."""
        wiring = catalogue().projections["projections.benchmark"]
        super().__init__(site, wiring, load, **how)
        self._answers = answers
        self._tables = ("", "")

    async def empty(self, connection: asyncpg.Connection[Any]) -> None:
        """Empty both tables of the generation that serves."""
        generation = await connection.fetchval(
            "SELECT generation FROM projections.generations WHERE projection = 'benchmark' AND standing = 'active'"
        )
        self._tables = (f"projections.benchmark_g{generation}", f"projections.benchmark_spend_g{generation}")
        await connection.execute(f"TRUNCATE {', '.join(self._tables)}")

    async def fill(self, connection: asyncpg.Connection[Any], already: int) -> None:
        """Put in payments of other customers, 20 each."""
        payment, spend = self._tables
        await connection.execute(
            f"""INSERT INTO {payment} SELECT 'old-' || n / 20 % 20, md5('p' || n)::uuid, md5('c' || n / 20)::uuid, md5('s' || n % 100)::uuid,
                n % 1000, 'EUR', 'stripe', 'pi_' || md5('r' || n), now() FROM generate_series(1, {already}) n"""
        )
        await connection.execute(
            f"""INSERT INTO {spend} SELECT tenant, customer_id, count(*), sum(amount_minor), max(captured_at)
                FROM {payment} GROUP BY tenant, customer_id"""
        )
        await connection.execute(f"VACUUM ANALYZE {payment}, {spend}")

    async def check(self) -> None:
        """Compare both tables."""
        await self._answers.check(self.name, *self._tables)


# -- baselines ----------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    """The tables of the baseline that maps objects."""


class PaymentRow(Base):
    """A payment."""

    __tablename__ = "payment"
    __table_args__ = {"schema": "baseline"}  # noqa: RUF012 - SQLAlchemy's way to say it

    tenant: Mapped[str] = mapped_column(Text, primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    customer_id: Mapped[UUID]
    product_id: Mapped[UUID]
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    provider_ref: Mapped[str] = mapped_column(Text)
    captured_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class SpendRow(Base):
    """A customer's sum."""

    __tablename__ = "spend"
    __table_args__ = {"schema": "baseline"}  # noqa: RUF012 - SQLAlchemy's way to say it

    tenant: Mapped[str] = mapped_column(Text, primary_key=True)
    customer_id: Mapped[UUID] = mapped_column(primary_key=True)
    payments: Mapped[int] = mapped_column(BigInteger)
    spent_minor: Mapped[int] = mapped_column(BigInteger)
    last_paid_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


async def orm_per_event(job: Job) -> Marks:
    """FastStream and SQLAlchemy: a subscriber, a session and a transaction for each event."""
    settings = Settings.load()
    engine = create_async_engine(
        make_url(settings.postgres).set(drivername="postgresql+asyncpg"), pool_size=5
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")
    await _stand(settings, job)
    broker = KafkaBroker(settings.kafka, logger=None)
    over = asyncio.Event()
    done = 0

    @broker.subscriber(job.topic, group_id=job.group, auto_offset_reset="earliest")
    async def completed(message: KafkaMessage) -> None:
        nonlocal done
        if over.is_set():
            return
        if not done:
            job.begin()
        raw: Any = message.raw_message
        event = PaymentCompleted.model_validate_json(message.body)
        tenant = message.headers["ce_tenantid"]
        async with sessions.begin() as session:
            fresh = await session.scalar(
                insert(PaymentRow)
                .values(
                    tenant=tenant,
                    payment_id=event.payment_id,
                    customer_id=event.customer_id,
                    product_id=event.product_id,
                    amount_minor=event.amount.minor,
                    currency=event.amount.currency,
                    provider=event.provider,
                    provider_ref=event.provider_ref,
                    captured_at=event.captured_at,
                )
                .on_conflict_do_nothing()
                .returning(PaymentRow.payment_id)
            )
            if fresh is not None:
                spend = await session.get(SpendRow, (tenant, event.customer_id), with_for_update=True)
                if spend is None:
                    session.add(
                        SpendRow(
                            tenant=tenant,
                            customer_id=event.customer_id,
                            payments=1,
                            spent_minor=event.amount.minor,
                            last_paid_at=event.captured_at,
                        )
                    )
                else:
                    spend.payments += 1
                    spend.spent_minor += event.amount.minor
                    spend.last_paid_at = max(spend.last_paid_at, event.captured_at)
        job.next[raw.partition] = raw.offset + 1
        done += 1
        if done == job.events:
            over.set()

    async with broker:
        await broker.start()
        await over.wait()
        marks = job.end(done)
    await engine.dispose()
    return marks


async def _stand(settings: Settings, job: Job) -> None:
    """Let a consumer group stand before the load."""
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, group_id=job.group, enable_auto_commit=False
    )
    await consumer.start()
    places = {TopicPartition(job.topic, partition): offset for partition, offset in job.begin_at.items()}
    consumer.assign(list(places))
    await consumer.commit(places)
    await consumer.stop()


async def driver_per_event(job: Job) -> Marks:
    """A plain client and a plain driver: inbox, row and sum in a transaction for each event, all prepared."""
    connection = await asyncpg.connect(Settings.load().postgres)
    note = await connection.prepare(
        "INSERT INTO baseline.inbox VALUES ($1) ON CONFLICT DO NOTHING RETURNING key"
    )
    add = await connection.prepare(
        "INSERT INTO baseline.payment VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"
    )
    total = await connection.prepare(
        """INSERT INTO baseline.spend AS s VALUES ($1, $2, 1, $3, $4) ON CONFLICT (tenant, customer_id) DO UPDATE SET
           payments = s.payments + 1, spent_minor = s.spent_minor + excluded.spent_minor,
           last_paid_at = greatest(s.last_paid_at, excluded.last_paid_at)"""
    )
    consumer = await consumer_of(job)
    job.begin()
    done = 0
    while done < job.events:
        fetched = await consumer.getmany(timeout_ms=500, max_records=500)
        for record in islice((it for found in fetched.values() for it in found), job.events - done):
            headers = dict(record.headers)
            event = PaymentCompleted.model_validate_json(record.value)
            tenant = headers["ce_tenantid"].decode()
            async with connection.transaction():
                if await note.fetchval(uuid5(NAMESPACE, headers["ce_id"].decode())) is not None:
                    await add.fetch(
                        tenant,
                        event.payment_id,
                        event.customer_id,
                        event.product_id,
                        event.amount.minor,
                        event.amount.currency,
                        event.provider,
                        event.provider_ref,
                        event.captured_at,
                    )
                    await total.fetch(tenant, event.customer_id, event.amount.minor, event.captured_at)
            job.next[record.partition] = record.offset + 1
            done += 1
        if fetched:
            await consumer.commit()
    marks = job.end(done)
    await consumer.stop()
    await connection.close()
    return marks


async def copy_merge_floor(job: Job) -> Marks:
    """What the database itself takes: rows that lie in memory, copied and merged 5,000 at a time."""
    rows = [(*(getattr(it, name) for name in PAYMENT), it.captured_at) for it in payments(job.total)]
    connection = await asyncpg.connect(Settings.load().postgres)
    await connection.execute("CREATE TEMPORARY TABLE fresh (LIKE baseline.payment) ON COMMIT DELETE ROWS")
    job.begin()
    for start in range(0, len(rows), BATCH):
        async with connection.transaction():
            await connection.copy_records_to_table("fresh", records=rows[start : start + BATCH])
            await connection.execute(
                "INSERT INTO baseline.payment SELECT * FROM fresh ORDER BY tenant, payment_id ON CONFLICT DO NOTHING"
            )
            await connection.execute(
                """INSERT INTO baseline.spend AS s
                   SELECT tenant, customer_id, count(*), sum(amount_minor), max(captured_at) FROM fresh
                   GROUP BY tenant, customer_id ORDER BY tenant, customer_id
                   ON CONFLICT (tenant, customer_id) DO UPDATE SET payments = s.payments + excluded.payments,
                   spent_minor = s.spent_minor + excluded.spent_minor,
                   last_paid_at = greatest(s.last_paid_at, excluded.last_paid_at)"""
            )
    marks = job.end(len(rows))
    await connection.close()
    return marks


async def consume_floor(job: Job) -> Marks:
    """What the client itself takes: the records are read and forgotten."""
    consumer = await consumer_of(job)
    job.begin()
    done = 0
    while done < job.events:
        for place, found in (await consumer.getmany(timeout_ms=500, max_records=BATCH)).items():
            done += len(found)
            job.next[place.partition] = found[-1].offset + 1
    marks = job.end(done)
    await consumer.stop()
    return marks


class Project(Case):
    """One projection, two tables."""

    name = "project"
    events = 200_000
    goals = (
        Goal("orm_per_event", must=60, aim=200),
        Goal("copy_merge_floor", must=0.15, aim=0.4),
    )
    baselines = {it.__name__: it for it in (orm_per_event, driver_per_event, copy_merge_floor, consume_floor)}  # noqa: RUF012

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Put the payments on their topic."""
        load, answers = await laid_out(site, events)

        async def tables() -> None:
            await site.sql(TABLES)

        def baseline(name: str, sample: int, *, writes: str = "sample") -> Contestant:
            async def check(ends: Mapping[int, int]) -> None:
                if writes == "nothing":
                    agree(f"{name}: records", len(load.until(ends)), load.size)
                else:
                    await answers.check(
                        name, "baseline.payment", "baseline.spend", ends if writes == "sample" else None
                    )

            return Baseline(site, self.name, name, load, events=sample, reset=tables, check=check)

        return [
            Projected(site, load, answers),
            baseline("orm_per_event", 3_000),
            baseline("driver_per_event", 10_000),
            baseline("copy_merge_floor", events, writes="everything"),
            baseline("consume_floor", events, writes="nothing"),
        ]


case = Project()
