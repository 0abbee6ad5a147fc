"""Relays on a real broker: nothing skipped, no key reordered, and nothing deleted under somebody else's lease."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from infra.kafka.writer import Sendable, Writer, Written
from infra.runtime.messages.envelope import Envelope
from infra.runtime.publishing import outbox
from infra.runtime.publishing import relay as relaying
from infra.runtime.publishing.outbox import Outgoing
from infra.runtime.publishing.relay import Relay
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.running.heartbeats import beat
from infra.settings import Settings
from tests.shop.bench import NOON, TENANT, Bench

KEYS = [f"key-{number}" for number in range(12)]


@pytest.fixture
async def topic(bench: Bench) -> str:
    """A topic of this test's own."""
    name = f"t{uuid4().hex}.events"
    await bench.engine.admin.ensure_topics([name])
    await bench.engine.databases["shop"].execute("UPDATE buckets SET expires_at = '-infinity', owner = NULL")
    return name


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "LEASE_S", 1.5)


def message(topic: str, key: str, number: int) -> Outgoing:
    envelope = Envelope(
        str(uuid4()), "shop.Filled", "triplane/shop", TENANT, 1, NOON, "flow", sequence=number
    )
    return Outgoing(UUID(envelope.id), topic, key, envelope, str(number).encode())


async def write(bench: Bench, topic: str, times: int, dice: random.Random) -> None:
    """Write as deciders do: the key's state is locked until the commit, and its version is the message's sequence."""
    database = bench.engine.databases["shop"]
    for _ in range(times):
        key = dice.choice(KEYS)
        with suppress(InterruptedError):
            async with database.transaction() as tx:
                await tx.execute(
                    "INSERT INTO aggregates (kind, tenant, key) VALUES ('K', 't', $1) ON CONFLICT DO NOTHING",
                    key,
                )
                number = await tx.fetchval(
                    "UPDATE aggregates SET version = version + 1 WHERE kind = 'K' AND key = $1 RETURNING version",
                    key,
                )
                await outbox.write(tx, [message(topic, key, number)])
                await asyncio.sleep(dice.uniform(0, 0.01))
                if dice.random() < 0.05:
                    raise InterruptedError


async def emptied(bench: Bench) -> None:
    async with asyncio.timeout(30):
        while await bench.engine.databases["shop"].fetch("SELECT FROM outbox LIMIT 1"):
            await asyncio.sleep(0.05)


def read(settings: Settings, topic: str) -> dict[str, list[int]]:
    """Read what each key got, in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka,
            "group.id": topic,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    partitions = set(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    found: dict[str, list[int]] = defaultdict(list)
    while partitions:
        for record in consumer.consume(500, timeout=1):
            if record.error() is not None:
                partitions.discard(record.partition() or 0)
            else:
                found[(record.key() or b"").decode()].append(int(record.value() or b"0"))
    consumer.close()
    return found


async def turn(relay: Relay) -> None:
    await relay._one_turn()
    await relay._forget_sent()


def first_occurrences(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


class Mortal(Relay):
    """A relay that can die: its leases are not given back."""

    async def _release(self, buckets: list[int]) -> None:
        if not asyncio.current_task() or not getattr(asyncio.current_task(), "dying", False):
            await super()._release(buckets)


async def test_with_many_writers_and_dying_relays_nothing_is_skipped_or_reordered(
    bench: Bench, topic: str
) -> None:
    stop = asyncio.Event()

    def relay() -> asyncio.Task[None]:
        made = Mortal(bench.engine.databases["shop"], bench.engine.settings.kafka, Wakeups())
        return asyncio.create_task(made.run(stop))

    relays = [relay() for _ in range(2)]
    writers = asyncio.gather(*(write(bench, topic, 120, random.Random(seed)) for seed in range(4)))
    deaths = 0
    while not writers.done():
        await asyncio.sleep(0.6)
        victim = relays.pop(0)
        victim.dying = True  # type: ignore[attr-defined]
        victim.cancel()
        await asyncio.gather(victim, return_exceptions=True)
        deaths += 1
        relays.append(relay())
    await writers
    await emptied(bench)
    stop.set()
    await asyncio.gather(*relays, return_exceptions=True)

    written = await bench.engine.databases["shop"].fetch(
        "SELECT key, version FROM aggregates WHERE kind = 'K'"
    )
    log = read(bench.engine.settings, topic)
    assert deaths >= 3
    for row in written:
        assert first_occurrences(log[row["key"]]) == list(range(1, row["version"] + 1))


class Cursor(Relay):
    """The mutant: remembers how far it has read, and never looks back."""

    reached = 0

    async def _one_turn(self) -> bool:
        assert await self._writer.connect()
        rows = await self.database.fetch(
            "SELECT * FROM outbox WHERE position > $1 ORDER BY position", self.reached
        )
        if rows:
            await self._writer.send([relaying._sendable(row) for row in rows], 5)
        self.reached = max([row["position"] for row in rows], default=self.reached)
        return bool(rows)


@pytest.mark.parametrize("kind", [Relay, Cursor])
async def test_what_commits_late_is_published_but_not_by_a_cursor(
    bench: Bench, topic: str, kind: type[Relay]
) -> None:
    database = bench.engine.databases["shop"]
    relay = kind(database, bench.engine.settings.kafka, Wakeups())
    async with database.transaction() as slow:
        await outbox.write(slow, [message(topic, "slow", 1)])
        async with database.transaction() as fast:
            await outbox.write(fast, [message(topic, "fast", 1)])
        await turn(relay)
    await turn(relay)
    await relay._writer.close()
    log = read(bench.engine.settings, topic)
    assert log["fast"] == [1]
    assert log["slow"] == ([1] if kind is Relay else [])


class Unfenced(Relay):
    """The mutant: deletes what it has sent, whoever has the lease by now."""

    async def _forget_sent(self) -> None:
        await self.database.execute("DELETE FROM outbox WHERE position = ANY($1::bigint[])", list(self._sent))


@pytest.mark.parametrize("kind", [Relay, Unfenced])
async def test_a_relay_that_was_held_up_past_its_lease_deletes_nothing(
    bench: Bench, topic: str, monkeypatch: pytest.MonkeyPatch, kind: type[Relay]
) -> None:
    database = bench.engine.databases["shop"]
    async with database.transaction() as tx:
        await outbox.write(tx, [message(topic, "key", number) for number in range(1, 6)])
    zombie = kind(database, bench.engine.settings.kafka, Wakeups())
    heir = Relay(database, bench.engine.settings.kafka, Wakeups())
    send = zombie._writer.send

    async def held_up(records: list[Sendable], within_s: float) -> list[Written | None]:
        written = await send(records, within_s)
        await database.execute("UPDATE buckets SET expires_at = now() - interval '1 second'")
        await heir._lease()
        return written

    monkeypatch.setattr(zombie._writer, "send", held_up)
    await turn(zombie)
    (left,) = await database.fetch("SELECT count(*) AS rows FROM outbox")
    assert left["rows"] == (5 if kind is Relay else 0)
    if kind is Relay:
        await heir._writer.connect()
        await turn(heir)
        log = read(bench.engine.settings, topic)
        assert first_occurrences(log["key"]) == [1, 2, 3, 4, 5]
    for relay in (zombie, heir):
        await relay._writer.close()


class Hoarder(Relay):
    """A relay that cannot delete for a while."""

    hoards = True

    async def _forget_sent(self) -> None:
        if self.hoards:
            raise TimeoutError
        await super()._forget_sent()


async def test_a_relay_that_cannot_delete_sends_no_more_than_it_may_remember(
    bench: Bench, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "MOST_SENT", 5)
    async with bench.engine.databases["shop"].transaction() as tx:
        await outbox.write(tx, [message(topic, "key", number) for number in range(1, 13)])
    relay = Hoarder(bench.engine.databases["shop"], bench.engine.settings.kafka, Wakeups())
    for _ in range(3):
        await relay._one_turn()
        await relay._forget_soon()
    assert read(bench.engine.settings, topic) == {"key": [1, 2, 3, 4, 5]}
    assert relay.vitals.counters["failures"] == 3
    relay.hoards = False
    await relay._forget_sent()
    for _ in range(2):
        await turn(relay)
    await relay._writer.close()
    assert read(bench.engine.settings, topic) == {"key": list(range(1, 13))}
    await emptied(bench)


async def test_a_key_whose_message_is_refused_holds_up_nobody_else(
    bench: Bench, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = bench.engine.databases["shop"]
    messages = [message(topic, key, number) for number in range(1, 4) for key in ("bad", "good")]
    async with database.transaction() as tx:
        await outbox.write(tx, messages)
    relay = Relay(database, bench.engine.settings.kafka, Wakeups())
    sendable = relaying._sendable

    def too_large(row: Any) -> Sendable:
        made = sendable(row)
        if (made.key, made.value) == (b"bad", b"2"):
            return Sendable(made.topic, made.key, b"x" * 2_000_000, made.headers)
        return made

    monkeypatch.setattr(relaying, "_sendable", too_large)
    for _ in range(3):
        await turn(relay)
    left = await database.fetch("SELECT key, value FROM outbox ORDER BY position")
    assert [(row["key"], bytes(row["value"])) for row in left] == [("bad", b"2"), ("bad", b"3")]
    monkeypatch.setattr(relaying, "_sendable", sendable)
    await turn(relay)
    await relay._writer.close()
    log = read(bench.engine.settings, topic)
    assert first_occurrences(log["good"]) == [1, 2, 3]
    assert first_occurrences(log["bad"]) == [1, 2, 3]


async def test_nothing_overtakes_a_batch_that_the_broker_refuses(bench: Bench) -> None:
    name = f"t{uuid4().hex}.events"
    kafka = bench.engine.settings.kafka
    narrow = NewTopic(name, 1, 1, config={"max.message.bytes": "100000"})
    admin = AdminClient({"bootstrap.servers": kafka})
    for made in admin.create_topics([narrow]).values():
        made.result()
    # The first batch holds more than the topic takes, the second one does not.
    records = [Sendable(name, b"key", f"{number:04}".encode() * 1_000, []) for number in range(40)]
    writer = Writer(kafka, "test")
    for _ in range(2):
        assert await writer.connect()
        assert await writer.send(records, 5) == [None] * 40
    await writer.close()
    assert read(bench.engine.settings, name) == {}


async def test_buckets_are_shared_out_and_taken_over(bench: Bench, topic: str) -> None:
    del topic
    database = bench.engine.databases["shop"]
    first, second = (Relay(database, bench.engine.settings.kafka, Wakeups()) for _ in range(2))
    await first._lease()
    assert len(first._epochs) == 64
    await alive(first)
    await alive(second)
    for relay in (second, first, second):
        await relay._lease()
    assert (len(first._epochs), len(second._epochs)) == (32, 32)
    assert not first._epochs.keys() & second._epochs.keys()
    # The first dies: its heartbeat ages, its leases end.
    await asyncio.sleep(1.6)
    await second._lease()
    assert len(second._epochs) == 64


async def test_a_standby_gives_way_and_takes_over(bench: Bench, topic: str) -> None:
    del topic
    database = bench.engine.databases["shop"]
    standby = Relay(database, bench.engine.settings.kafka, Wakeups(), standby=True)
    relay = Relay(database, bench.engine.settings.kafka, Wakeups())
    # Given: nobody else is there, so the standby has everything.
    await alive(standby)
    await standby._lease()
    assert len(standby._epochs) == 64
    # When: one comes that is no standby. Then: it gets everything, and long before it has to renew its leases.
    await alive(relay)
    await relay._one_turn()
    await standby._lease()
    await asyncio.sleep(0.05)
    await relay._one_turn()
    await relay._writer.close()
    assert (len(relay._epochs), len(standby._epochs)) == (64, 0)
    # When: that one has no broker any more. Then: alive or not, the standby has everything again.
    await asyncio.sleep(1.6)
    relay.vitals.stopped_because = "no broker to write to"
    await alive(relay)
    await standby._lease()
    assert len(standby._epochs) == 64


async def alive(relay: Relay) -> None:
    """Let a relay show one heartbeat."""
    beating = asyncio.create_task(beat(relay.database, uuid4(), lambda: [relay]))
    await asyncio.sleep(0.1)
    beating.cancel()
