"""A replay on real servers: what it delivers, to whom, and what it leaves alone."""

from __future__ import annotations

import asyncio
import getpass
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from events import Message
from infra.errors import Unacceptable
from infra.kafka.admin import Topic
from infra.kafka.range import RangeReader
from infra.kafka.record import Place, Record
from infra.kafka.writer import Sendable, Writer
from infra.runtime.consuming.batch import Counts, Position
from infra.runtime.engine import open_engine
from infra.runtime.messages.delivery import Delivery
from infra.runtime.operating import parked as repair
from infra.runtime.operating import replay_job, replay_range, replay_steps, replaying
from infra.runtime.operating.replay_copy import check_same, copy, rehearsed, target
from infra.runtime.operating.replay_job import Job, Order, TakenOver, Tally, Target, begun, find, resumed
from infra.runtime.operating.replay_range import (
    Bound,
    Range,
    ReplayRefused,
    WrongCall,
    check_kept,
    check_size,
    reached,
    resolved,
)
from infra.runtime.operating.replay_steps import Only
from infra.runtime.operating.replaying import Replaying, batcher_for, check_allowed, replay, steps_for
from tests.runtime.test_effects import Outside, acting, all_done, until
from tests.shop.bench import SCHEMAS, TENANT, Bench, shop
from tests.shop.events import Filled, Join, Paid, Put, Recalled, Sent, Ship
from tests.shop.handlers import BROKEN
from tests.topics import new_topic

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
        counts, lost = await batcher.run(positions, records, await batcher.open(records))
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
            asked = Range(asked.topic, mine, asked.notes)
        return await reached(await self.bench.batcher(consumer), asked)

    async def order(
        self,
        consumer: str,
        topic: str,
        only: Only = EVERYTHING,
        limit: int | None = None,
        *,
        again: bool = False,
        rate: int | None = None,
    ) -> Order:
        scope = (await self.bench.batcher(consumer)).scope
        return Order(scope, await self.range(consumer, topic), only, limit, again, "test", rate)

    async def rehearse(self, consumer: str, order: Order) -> Tally:
        anew = uuid4() if order.again else None
        async with open_engine(self.bench.engine.settings, shop(), SCHEMAS, size=2, rehearsal=True) as engine:
            wiring = engine.catalog.consumers[consumer]
            batcher = await batcher_for(engine, wiring, order.range.topic, anew=anew)
            return await Replaying(batcher, steps_for(batcher, order, self.kafka)).rehearse(order, quiet)

    async def begun(self, consumer: str, order: Order) -> Job:
        return await begun((await self.bench.batcher(consumer)).database, order)

    async def go_on(self, job: Job, *, steps: int = 10**6) -> Tally:
        """Go on with a replay for so many steps."""
        stop = asyncio.Event()

        def told(_: Tally, __: int) -> None:
            nonlocal steps
            steps -= 1
            if steps == 0:
                stop.set()

        await replay(self.bench.engine, job, who="tester", stop=stop, told=told)
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


async def mixed(log: Log) -> list[UUID]:
    """Send what can be applied, what cannot, what waits behind it, duplicates, strange types and unreadable bytes."""
    bench = log.bench
    baskets = [uuid4() for _ in range(40)]
    records = [await bench.of(Filled(basket_id=it, amount=1, total=1, colour=it.hex[:2])) for it in baskets]
    records += [await bench.of(Paid(basket_id=it)) for it in baskets]
    records += [await bench.of(Filled(basket_id=it, amount=1, total=2, colour="grey")) for it in baskets[:3]]
    records += [await bench.of(Filled(basket_id=it, amount=1, total=3, colour="red")) for it in baskets[:6]]
    records += [bench.again(it) for it in records[::7]]
    odd = await bench.of(Filled(basket_id=baskets[7], amount=1, total=9, colour="red"))
    records += [
        replace(odd, value=b"{"),
        await bench.of(Filled(basket_id=baskets[7], amount=1, total=9, colour="red")),
    ]
    await log.send(*records)
    return baskets


@pytest.mark.parametrize("window_s", [60.0, 0.0], ids=["in one transaction", "rolled back at every step"])
@pytest.mark.parametrize("size", [1_000, 7], ids=["one step", "many steps"])
async def test_a_dry_run_counts_what_the_run_will_and_changes_nothing(
    log: Log, monkeypatch: pytest.MonkeyPatch, window_s: float, size: int
) -> None:
    monkeypatch.setattr(replaying, "WINDOW_S", window_s)
    monkeypatch.setattr(replay_steps, "BATCH", size)
    await mixed(log)
    await log.register(COLOURS)
    await log.replay(COLOURS, EVENTS, limit=25)
    before = await log.state(without=())
    order = await log.order(COLOURS, EVENTS)
    rehearsed = await log.rehearse(COLOURS, order)
    assert await log.state(without=()) == before

    run = await log.replay(COLOURS, EVENTS)
    assert rehearsed == run
    applied, duplicates, parked, skipped = counts(run)
    assert applied > 10
    assert duplicates >= 15
    assert parked + run.total.parked_before >= 5
    assert skipped == 46
    assert len(await log.bench.rows("parked", "projections")) == parked + run.total.parked_before


async def test_a_dry_run_keeps_no_key_of_a_new_person(log: Log) -> None:
    await log.sent(Join(member_id=uuid4(), email="a@example.org"), topic="shop.inbound")
    await log.register(SHOP)
    before = await log.state(without=())
    tally = await log.rehearse(SHOP, await log.order(SHOP, "shop.inbound"))
    assert counts(tally) == (1, 0, 0, 0)
    assert await log.state(without=()) == before


@pytest.mark.parametrize("again", [False, True], ids=["what was never applied", "anew"])
async def test_an_interrupted_replay_goes_on_without_gap_or_repeat(
    bench: Bench, log: Log, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    monkeypatch.setattr(replay_steps, "BATCH", 4)
    baskets = [uuid4() for _ in range(20)]
    await log.sent(*[Put(basket_id=it, amount=3) for it in baskets])
    if again:
        assert (await log.live(SHOP)).applied == 20
    await log.register(SHOP)
    job = await log.begun(SHOP, await log.order(SHOP, COMMANDS, again=again))
    await log.go_on(job, steps=2)
    while not job.at_end:
        job = await resumed(bench.engine.databases["shop"], job.id)
        await log.go_on(job, steps=1)
    assert counts(job.tally) == (20, 0, 0, 0)
    facts = [(1, "Filled"), (2, "Filled")] if again else [(1, "Filled")]
    assert [await bench.facts(it) for it in baskets] == [facts] * 20
    (row,) = await bench.rows("replays")
    assert (row["standing"], row["next_offsets"]) == ("done", row["until_offsets"])


async def test_each_run_is_an_act_with_who_and_why(bench: Bench, log: Log) -> None:
    await log.sent(Paid(basket_id=uuid4()))
    await log.register(SAGA)
    await log.replay(SAGA, EVENTS)
    rows = await bench.engine.databases["operations"].fetch("SELECT * FROM acts ORDER BY at")
    assert [(row["type"], row["who"], row["why"]) for row in rows] == [
        ("operations.ReplayStarted", "tester", "test"),
        ("operations.ReplayEnded", "tester", "test"),
    ]
    ended = json.loads(rows[1]["body"])
    assert (ended["to"], ended["done"], ended["applied"]) == (SAGA, True, 1)


async def test_the_second_operator_is_refused_by_the_name_of_the_first(log: Log) -> None:
    await log.sent(Paid(basket_id=uuid4()))
    await log.register(SAGA)
    order = await log.order(SAGA, EVENTS)
    first = await log.begun(SAGA, order)
    for another in (log.begun(SAGA, order), resumed(first.database, first.id)):
        with pytest.raises(
            ReplayRefused, match=f"{getpass.getuser()} on .* is replaying to it already"
        ) as refused:
            await another
        assert str(first.id) in str(refused.value)
    # Another consumer is nobody's business.
    await log.register(COLOURS)
    await log.replay(COLOURS, EVENTS)


async def test_a_dead_holder_is_followed_and_cannot_commit_when_it_wakes(
    bench: Bench, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_job, "LEASE_S", 0.0)
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(3)])
    await log.register(SAGA)
    dead = await log.begun(SAGA, await log.order(SAGA, EVENTS))
    monkeypatch.undo()
    job = await resumed(dead.database, dead.id)
    with pytest.raises(TakenOver):
        await log.go_on(dead)
    assert await bench.rows("instances", "sagas") == []
    assert counts(await log.go_on(job)) == (3, 0, 0, 0)


async def test_what_a_message_has_led_to_before_is_dropped_before_it_evolves_anything(
    bench: Bench, log: Log
) -> None:
    basket = uuid4()
    put = await bench.of(Put(basket_id=basket, amount=3), topic=COMMANDS)
    await log.send(put)
    await log.live(SHOP)
    await log.published()
    # The mark is lost, what it led to is not.
    await bench.engine.databases["shop"].execute("DELETE FROM inbox")
    before = await log.state(without=(*IGNORED, "inbox", "acts", "outbox"))
    assert counts(await log.replay(SHOP, COMMANDS)) == (1, 0, 0, 0)
    assert await log.state(without=(*IGNORED, "inbox", "acts", "outbox")) == before
    assert await log.published() == []


async def test_a_saga_does_not_answer_once_more_what_it_has_answered(bench: Bench, log: Log) -> None:
    basket, early = uuid4(), uuid4()
    await log.sent(Paid(basket_id=basket), Sent(basket_id=basket), Recalled(basket_id=early))
    await log.live(SAGA)
    await bench.engine.databases["sagas"].execute("DELETE FROM inbox")
    without = (*IGNORED, "inbox", "acts", "outbox")
    before = await log.state(without=without)
    assert counts(await log.replay(SAGA, EVENTS))[0] == 3
    assert await log.state(without=without) == before


async def test_again_makes_new_messages_of_what_was_applied(bench: Bench, log: Log) -> None:
    basket = uuid4()
    await log.sent(Put(basket_id=basket, amount=3))
    await log.live(SHOP)
    (first,) = await log.published()
    order = await log.order(SHOP, COMMANDS, again=True)
    assert counts(await log.rehearse(SHOP, order)) == (1, 0, 0, 0)
    assert counts(await log.replay(SHOP, COMMANDS, again=True)) == (1, 0, 0, 0)
    (second,) = await log.published()
    ids = [dict(it.headers)["ce_id"] for it in (first, second)]
    assert len(set(ids)) == 2
    (row,) = await bench.rows("aggregates")
    assert json.loads(row["state"])["total"] == 6


async def test_a_dry_run_tells_what_again_would_apply_anew_as_the_run_does(log: Log) -> None:
    paid = [Put(basket_id=uuid4(), amount=3) for _ in range(20)]
    await log.sent(*paid[:15])
    assert (await log.live(SHOP)).applied == 15
    await log.sent(*paid[15:])
    await log.register(SHOP)
    order = await log.order(SHOP, COMMANDS, again=True)
    rehearsal = await log.rehearse(SHOP, order)
    assert (rehearsal.total.applied, rehearsal.total.anew) == (20, 15)
    job = await log.begun(SHOP, order)
    assert await log.go_on(job) == rehearsal
    assert (await find([job.database], job.id))[1].tally == rehearsal, "and it is kept"


async def test_what_was_parked_anew_is_redriven_anew(
    bench: Bench, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    basket = uuid4()
    with monkeypatch.context() as repaired:
        repaired.setattr("tests.shop.handlers.broken", frozenset[int]())
        await log.sent(Put(basket_id=basket, amount=BROKEN))
        await log.live(SHOP)
    assert counts(await log.replay(SHOP, COMMANDS, again=True)) == (0, 0, 1, 0)
    monkeypatch.setattr("tests.shop.handlers.broken", frozenset[int]())
    (parked,) = await bench.parked()
    assert await bench.redrive(SHOP, parked.id)
    assert await bench.facts(basket) == [(1, "Filled"), (2, "Filled")]


async def test_a_parked_key_stays_parked(bench: Bench, log: Log) -> None:
    basket = uuid4()
    await log.sent(Put(basket_id=basket, amount=BROKEN), Put(basket_id=basket, amount=1))
    await log.live(SHOP)
    before = await bench.rows("parked")
    await log.sent(Put(basket_id=basket, amount=2), Put(basket_id=uuid4(), amount=3))
    await log.register(SHOP)
    rehearsed = await log.rehearse(SHOP, await log.order(SHOP, COMMANDS))
    run = await log.replay(SHOP, COMMANDS)
    assert rehearsed == run
    assert counts(run) == (1, 0, 1, 0)
    assert run.total.parked_before == 2
    assert (await bench.rows("parked"))[:2] == before
    assert await bench.reasons() == ["fold_failed", "behind", "behind"]


@pytest.mark.parametrize("again", [False, True], ids=["what was never applied", "anew"])
async def test_what_is_parked_is_left_to_a_redrive_though_it_could_be_applied_by_now(
    bench: Bench, log: Log, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    member = uuid4()
    await log.send(
        await bench.of(Join(member_id=member, email="a@example.org"), topic="shop.inbound", tenant="new")
    )
    with monkeypatch.context() as suspended:
        suspended.setattr(bench.engine.tenancy, "admit", refused)
        await log.live(SHOP)
    (parked,) = await bench.parked()
    run = await log.replay(SHOP, "shop.inbound", again=again)
    assert (counts(run), run.total.parked_before) == ((0, 0, 0, 0), 1)
    assert await bench.redrive(SHOP, parked.id)
    assert counts(await log.replay(SHOP, "shop.inbound")) == (0, 1, 0, 0)


async def refused(tenant: str) -> None:
    raise Unacceptable("suspended_tenant", tenant)


async def test_what_an_operator_discarded_is_passed_over(bench: Bench, log: Log) -> None:
    await log.sent(Put(basket_id=uuid4(), amount=BROKEN))
    await log.live(SHOP)
    (parked,) = await bench.parked()
    assert await repair.discard_audited(bench.engine, parked, who="op", why="never")
    assert counts(await log.replay(SHOP, COMMANDS)) == (0, 0, 0, 1)


async def test_only_what_is_meant_is_delivered(bench: Bench, log: Log) -> None:
    baskets = [uuid4() for _ in range(4)]
    await log.sent(*[Paid(basket_id=it) for it in baskets], Sent(basket_id=baskets[0]))
    await log.send(await bench.of(Paid(basket_id=baskets[0]), tenant="other"))
    await log.register(SAGA)
    for only, limit, expected in (
        (Only(key=str(baskets[1])), None, (1, 0, 0, 5)),
        (Only(tenant="other"), None, (1, 0, 0, 5)),
        (Only(type="shop.Sent"), None, (1, 0, 0, 5)),
        (EVERYTHING, None, (3, 3, 0, 0)),
    ):
        rehearsed = await log.rehearse(SAGA, await log.order(SAGA, EVENTS, only=only, limit=limit))
        run = await log.replay(SAGA, EVENTS, only=only, limit=limit)
        assert rehearsed == run
        assert counts(run) == expected
    rehearsed = await log.rehearse(SAGA, await log.order(SAGA, EVENTS, limit=3))
    assert rehearsed == await log.replay(SAGA, EVENTS, limit=3)
    assert rehearsed.total.messages == 3


async def test_outside_effects_are_written_down_once(bench: Bench, log: Log) -> None:
    await log.sent(*[Ship(basket_id=uuid4()) for _ in range(3)])
    await log.register(SHIP)
    assert counts(await log.replay(SHIP, COMMANDS)) == (3, 0, 0, 0)
    assert counts(await log.replay(SHIP, COMMANDS)) == (0, 3, 0, 0)
    assert len(await bench.rows("effects")) == 3


async def shipped_again(bench: Bench, log: Log, *, forgotten: bool) -> tuple[list[int], list[str]]:
    """Replay what ships a basket three times; give how often it was taken after each, and the receipts that came of it."""
    basket, outside = uuid4(), Outside()
    await log.sent(Ship(basket_id=basket))
    await log.register(SHIP)
    taken = []
    async with acting(bench, outside):
        for again in (False, True, True):
            assert counts(await log.replay(SHIP, COMMANDS, again=again)) == (1, 0, 0, 0)
            await until(lambda: all_done(bench))
            taken.append(len(outside.taken[basket]))
            if forgotten:
                outside.taken.clear()
    assert await bench.reasons() == [], "outcomes have ids of their own"
    return taken, [json.loads(row["payload"])["receipt"] for row in await bench.rows("events")]


async def test_what_a_replay_finds_outside_is_not_done_again(bench: Bench, log: Log) -> None:
    assert await shipped_again(bench, log, forgotten=False) == ([1, 1, 1], 3 * ["receipt 1"])


async def test_what_a_replay_does_not_find_outside_is_done_again(bench: Bench, log: Log) -> None:
    assert await shipped_again(bench, log, forgotten=True) == ([1, 1, 1], 3 * ["receipt 1"])


async def test_the_mutant_that_does_not_look_first_does_it_again(
    bench: Bench, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Delivery, "of_replay", False)
    taken, receipts = await shipped_again(bench, log, forgotten=False)
    assert (taken, sorted(receipts)) == ([1, 2, 3], ["receipt 1", "receipt 2", "receipt 3"])


async def test_a_message_that_the_database_refuses_is_found_and_parked(bench: Bench, log: Log) -> None:
    large, others = uuid4(), [uuid4() for _ in range(6)]
    await log.sent(
        *[
            Put(basket_id=it, amount=1, padding=2_000_000 if it == large else 0)
            for it in (*others[:3], large, *others[3:])
        ]
    )
    await log.register(SHOP)
    rehearsed = await log.rehearse(SHOP, await log.order(SHOP, COMMANDS))
    run = await log.replay(SHOP, COMMANDS)
    assert rehearsed == run
    assert counts(run) == (6, 0, 1, 0)
    assert await bench.reasons() == ["too_large"]


async def test_a_rate_is_kept(log: Log) -> None:
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(60)])
    await log.register(SAGA)
    began = time.monotonic()
    await log.replay(SAGA, EVENTS, rate=30)
    assert time.monotonic() - began > 1.5


async def test_one_that_resumes_need_not_say_the_rate_again(log: Log) -> None:
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(60)])
    await log.register(SAGA)
    job = await log.begun(SAGA, await log.order(SAGA, EVENTS, rate=30))
    await log.go_on(job, steps=1)
    assert not job.at_end
    assert (await resumed(job.database, job.id)).order.rate == 30


# -- the range ------------------------------------------------------------------------------------------------------


async def test_a_range_ends_where_the_consumer_stands(log: Log) -> None:
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(20)])
    asked = await log.range(SAGA, EVENTS)
    assert asked.records == 0
    await log.live(SAGA)
    assert (await log.range(SAGA, EVENTS)).records == 20
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(20)])
    asked = await log.range(SAGA, EVENTS)
    assert asked.records == 20, "the last 20 it will get by itself"
    assert all("stands there" in note for note in asked.notes)


async def test_times_are_append_times(log: Log) -> None:
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(5)])
    await asyncio.sleep(0.02)
    between = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(7)])
    await log.live(SAGA)
    now = datetime.now(UTC)
    assert (await log.range(SAGA, EVENTS, between)).records == 7
    assert (await log.range(SAGA, EVENTS, between, now)).records == 7
    assert (await log.range(SAGA, EVENTS, datetime(1900, 1, 1, tzinfo=UTC), between)).records >= 5
    with pytest.raises(ReplayRefused, match="future"):
        await log.range(SAGA, EVENTS, now + timedelta(hours=1))


async def test_an_offset_and_a_time_that_leave_nothing_between_them_are_a_wrong_call(log: Log) -> None:
    long_ago = datetime(1999, 1, 1, tzinfo=UTC)
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(5)])
    await log.live(SAGA)
    now = datetime.now(UTC)
    for start, end in ((10**9, long_ago), (10**9, now), (now, 0)):
        with pytest.raises(WrongCall, match=f"--from {start} is after --until {end}".replace("+", r"\+")):
            await log.range(SAGA, EVENTS, start, end)
    assert (await log.range(SAGA, EVENTS, None, long_ago)).records == 0
    assert (await log.range(SAGA, EVENTS, None, now)).records >= 5
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(2)])
    await log.live(SAGA)
    assert (await log.range(SAGA, EVENTS, now, 10**9)).records == 2, "not every partition has some"


async def test_an_end_beyond_the_log_is_told(log: Log) -> None:
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(5)])
    await log.live(SAGA)
    asked = await log.range(SAGA, EVENTS, None, 10**9)
    ends = {number: until for number, (_, until) in asked.offsets.items()}
    told = [
        f"partition {it}: ends before offset {ends[it]}, not 1000000000: the log ends there" for it in ends
    ]
    assert list(asked.notes) == told
    assert (await log.range(SAGA, EVENTS)).notes == ()


async def test_a_beginning_beyond_the_log_is_refused_with_its_ends(log: Log) -> None:
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(20)])
    await log.live(SAGA)
    admin = log.bench.engine.admin
    ends = await admin.offsets([(await admin.topics([EVENTS]))[EVENTS]], end=True)
    with pytest.raises(
        ReplayRefused, match=f"partition 0 before {ends[EVENTS, 0]}, 1 before {ends[EVENTS, 1]}, "
    ):
        await resolved(admin, EVENTS, 10**9, None)
    number = max(range(12), key=lambda it: ends[EVENTS, it])
    end = ends[EVENTS, number]
    with pytest.raises(ReplayRefused, match=f"partition {number} before {end}$"):
        await resolved(admin, EVENTS, end + 1, None, number)
    assert (await resolved(admin, EVENTS, end, None, number)).records == 0, "where the next one will be"
    assert (await resolved(admin, EVENTS, end - 1, None)).records >= 1, "one partition has it"


async def test_a_log_that_was_cut_and_an_inbox_that_forgot_are_refused(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = log.bench.engine.admin
    await log.sent(*[Ship(basket_id=uuid4()) for _ in range(30)])
    await log.live(SHIP)
    asked = await log.range(SHIP, COMMANDS, 0)
    monkeypatch.setattr(replay_range, "INBOX_DAYS", 1)
    await asyncio.sleep(0.01)
    with pytest.raises(ReplayRefused, match="older than what the inbox keeps"):
        await check_kept(admin, asked, "rebuild")
    monkeypatch.setattr(replay_range, "MOST", asked.records - 1)
    check_size(asked, 5)
    with pytest.raises(ReplayRefused, match="--limit"):
        check_size(asked, None)

    number, (_, until) = next(it for it in asked.offsets.items() if it[1][1] > 0)
    client = AdminClient({"bootstrap.servers": log.kafka})
    cut = client.delete_records([TopicPartition(COMMANDS, number, until)])
    for future in cut.values():
        future.result(10)
    with pytest.raises(ReplayRefused, match=f"offset {until}, the first available"):
        await resolved(admin, COMMANDS, 0, None, number)
    assert (await resolved(admin, COMMANDS, None, until + 1, number)).records <= 1


def test_what_would_change_the_past_needs_a_word(bench: Bench) -> None:
    consumers = bench.engine.catalog.consumers
    for name, again, effects, reason, words in (
        (COLOURS, True, False, "because", "triplane rebuild colours"),
        (SHIP, False, False, "because", "--with-effects"),
        (SHIP, False, True, "", "--reason"),
        (SAGA, True, False, "", "--reason"),
    ):
        with pytest.raises((ReplayRefused, WrongCall), match=words):
            check_allowed(consumers[name], again=again, effects=effects, reason=reason)
    check_allowed(consumers[SHIP], again=True, effects=True, reason="because")


# -- a copy ---------------------------------------------------------------------------------------------------------


async def somewhere(log: Log, partitions: int = 12) -> Target:
    """Make a topic to copy to."""
    name = await asyncio.to_thread(new_topic, log.kafka, partitions)
    admin = log.bench.engine.admin
    there = await target(admin, admin, log.bench.engine.catalog, name)
    assert there is not None
    return Target(log.kafka, there)


async def sent_here(log: Log) -> Range:
    """Give the range of what this test has sent."""
    asked = await resolved(log.bench.engine.admin, EVENTS, None, None)
    mine = {it: (log.begins[EVENTS, it], until) for it, (_, until) in asked.offsets.items()}
    return Range(asked.topic, mine)


async def copies(log: Log, to: Target, only: Only = EVERYTHING, limit: int | None = None) -> Order:
    """Order a copy of what this test has sent."""
    return Order(to.scope, await sent_here(log), only, limit, reason="test", target=to)


async def copied(log: Log, job: Job, *, steps: int = 10**6) -> Tally:
    """Go on with a copy for so many steps."""
    stop = asyncio.Event()

    def told(_: Tally, __: int) -> None:
        nonlocal steps
        steps -= 1
        if steps == 0:
            stop.set()

    await copy(log.bench.engine, job, who="tester", stop=stop, told=told)
    return job.tally


async def there(log: Log, to: Target) -> list[Record]:
    """Read all that a topic has."""
    topic = to.topic
    ends = await log.bench.engine.admin.offsets([topic], end=True)
    return await everything(
        log.kafka, Range(topic, {it: (0, ends[topic.name, it]) for it in range(topic.partitions)})
    )


def ids_of(records: list[Record], basket: UUID) -> list[bytes | None]:
    """Give the ids of the messages of one key, as they lie in the log."""
    return [dict(it.headers)["ce_id"] for it in records if it.key == str(basket).encode()]


@pytest.mark.parametrize("partitions", [12, 5], ids=["as many partitions", "fewer partitions"])
async def test_a_copy_keeps_bytes_and_the_order_of_each_key(log: Log, partitions: int) -> None:
    baskets = [uuid4() for _ in range(10)]
    for _ in range(5):
        await log.sent(*[Paid(basket_id=it) for it in baskets])
    producer = Producer({"bootstrap.servers": log.kafka})
    for key, value in ((b"k", None), (None, b"v"), (None, None)):
        producer.produce(EVENTS, value, key, partition=3, headers=[("a", b"1"), ("a", None), ("b", b"\xff")])
    assert producer.flush(10) == 0
    await log.sent(Paid(basket_id=baskets[0]))
    to = await somewhere(log, partitions)
    order = await copies(log, to)
    job = await begun(log.bench.engine.databases["operations"], order)
    assert counts(await copied(log, job)) == (54, 0, 0, 0)

    before = await everything(log.kafka, order.range)
    after = await there(log, to)
    assert bytes_of(before) == bytes_of(after)
    if partitions == 12:
        assert [it.partition for it in sorted(before, key=place)] == [
            it.partition for it in sorted(after, key=place)
        ]
    for basket in baskets:
        assert ids_of(before, basket) == ids_of(after, basket)


async def test_an_interrupted_copy_goes_on_without_gap_or_repeat(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_steps, "BATCH", 4)
    await log.sent(*[Paid(basket_id=uuid4()) for _ in range(30)])
    to = await somewhere(log)
    database = log.bench.engine.databases["operations"]
    order = await copies(log, to, limit=25)
    job = await begun(database, order)
    await copied(log, job, steps=2)
    while not job.at_end:
        _, found, _ = await find([database], job.id)
        assert found.order == order
        job = await resumed(database, job.id)
        await copied(log, job, steps=1)
    assert counts(job.tally) == (25, 0, 0, 0)
    after = await there(log, to)
    assert (len(after), set(bytes_of(after).values())) == (25, {1})
    acts = [row["type"] for row in await database.fetch("SELECT type FROM acts ORDER BY at")]
    assert acts == ["operations.ReplayStarted", "operations.ReplayEnded"] * 6


async def test_a_copy_that_died_before_it_noted_a_step_repeats_it_in_order(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_steps, "BATCH", 16)
    baskets = [uuid4() for _ in range(5)]
    for _ in range(8):
        await log.sent(*[Paid(basket_id=it) for it in baskets])
    to = await somewhere(log)
    database = log.bench.engine.databases["operations"]
    order = await copies(log, to)
    job = await begun(database, order)
    advance = Job.advance
    done = 0

    async def dies(*arguments: Any) -> None:
        nonlocal done
        done += 1
        if done == 2:
            raise KeyboardInterrupt
        await advance(*arguments)

    monkeypatch.setattr(Job, "advance", dies)
    with pytest.raises(KeyboardInterrupt):
        await copied(log, job)
    assert counts(await copied(log, await resumed(database, job.id))) == (40, 0, 0, 0)
    before, after = await everything(log.kafka, order.range), await there(log, to)
    assert len(after) == 40 + 16, "one step twice"
    for basket in baskets:
        assert list(dict.fromkeys(ids_of(after, basket))) == ids_of(before, basket)


async def test_a_dry_run_of_a_copy_counts_what_the_run_will_and_copies_nothing(log: Log) -> None:
    baskets = await mixed(log)
    bench = log.bench
    to = await somewhere(log)
    for only, limit, due in (
        (EVERYTHING, 25, 25),
        (Only(key=str(baskets[39])), None, 2),
        (Only(type="shop.Paid", tenant=TENANT), 7, 7),
        (Only(tenant="nobody"), None, 0),
    ):
        order = await copies(log, to, only, limit)
        had = len(await there(log, to))
        rehearsal = await rehearsed(bench.engine, order, quiet)
        assert len(await there(log, to)) == had
        run = await copied(log, await begun(bench.engine.databases["operations"], order))
        assert (rehearsal, run.total.applied) == (run, due)
        assert len(await there(log, to)) == had + run.total.applied
    whole = await rehearsed(bench.engine, await copies(log, to), quiet)
    assert {kind for _, kind in whole.lines} == {"shop.Filled", "shop.Paid"}


async def test_the_second_who_copies_to_a_topic_is_refused_by_the_name_of_the_first(log: Log) -> None:
    await log.sent(Paid(basket_id=uuid4()))
    database = log.bench.engine.databases["operations"]
    to = await somewhere(log)
    order = await copies(log, to)
    first = await begun(database, order)
    for another in (begun(database, order), resumed(database, first.id)):
        with pytest.raises(ReplayRefused, match=f"{getpass.getuser()} on .*replay {first.id}"):
            await another
    # Another topic is nobody's business.
    await begun(database, await copies(log, await somewhere(log)))


async def test_a_copy_does_not_go_on_to_another_topic_of_that_name(log: Log) -> None:
    admin = log.bench.engine.admin
    to = await somewhere(log)
    await check_same(admin, to)
    for changed in (replace(to.topic, id=uuid4()), replace(to.topic, partitions=13)):
        with pytest.raises(ReplayRefused, match="copy anew"):
            await check_same(admin, replace(to, topic=changed))


async def everything(bootstrap: str, wanted: Range) -> list[Record]:
    """Read a range."""
    reader = RangeReader(bootstrap, wanted.places)
    await reader.start()
    found = await reader.take(10_000)
    await reader.stop()
    return sorted(found, key=place)


def place(record: Record) -> tuple[int, int]:
    return record.partition, record.offset


def bytes_of(records: list[Record]) -> Counter[str]:
    return Counter(repr((it.key, it.value, list(it.headers))) for it in records)


async def test_a_copy_to_a_topic_in_use_is_refused(bench: Bench) -> None:
    admin = bench.engine.admin
    for name in (EVENTS, "shop.inbound", "__consumer_offsets"):
        with pytest.raises(ReplayRefused, match=name):
            await target(admin, admin, bench.engine.catalog, name)
    assert await target(admin, admin, bench.engine.catalog, "nobody.knows") is None
