"""Several processes at once on one database: nothing lost, nothing twice. Each guard is shown by the mutant without it.

A process is an engine of its own: its own pools, its own claims. Mutants are made here, never by an option.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from infra.kafka.record import Place, Record
from infra.postgres.database import TRANSIENT, Connection, Database
from infra.postgres.database import Row as Stored
from infra.postgres.writes import Writes
from infra.runtime.consuming.batch import Batcher, Outrun, Position
from infra.runtime.folding import projecting
from infra.runtime.folding import streams as streaming
from infra.runtime.folding.read_models import ReadModel
from infra.runtime.messages.codec import Incoming
from infra.runtime.operating.parked import NotFirst
from infra.settings import Settings
from tests.shop.bench import Bench, emptied, opened
from tests.shop.events import Counted, Filled, Join, Put

IN, COMMANDS, EVENTS = "shop.inbound", "shop.commands", "shop.events"
COLOURS = "projections.colours"
PASSING: tuple[type[BaseException], ...] = (*TRANSIENT, Outrun)
NOT_NOW: tuple[type[BaseException], ...] = (*TRANSIENT, NotFirst)


@pytest.fixture
async def benches(shop_settings: Settings) -> AsyncGenerator[list[Bench]]:
    """Two processes that see the same log."""
    await emptied(shop_settings)
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(opened(shop_settings)) for _ in range(2)]
        both[1].space = both[0].space
        both[1]._ends = both[0]._ends
        yield both


async def work(bench: Bench, consumer: str, batches: Sequence[Sequence[Record]]) -> None:
    """Do what a worker's loop does: claim, run; what passes by itself is tried again from what is committed."""
    for batch in batches:
        while True:
            places = sorted({(it.topic, it.partition) for it in batch})
            positions = await bench.claim(consumer, places)
            rest = [it for it in batch if it.offset >= positions[it.topic, it.partition].next]
            if not rest:
                break
            try:
                await bench.run(consumer, positions, rest)
            except PASSING:
                await asyncio.sleep(0.01)


async def together(
    benches: Sequence[Bench], consumer: str, shares: Sequence[Sequence[Sequence[Record]]]
) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(
            *(work(bench, consumer, share) for bench, share in zip(benches, shares, strict=True))
        )


def batches(records: Sequence[Record], size: int) -> list[Sequence[Record]]:
    return [records[at : at + size] for at in range(0, len(records), size)]


# -- one row, many partitions -------------------------------------------------------------------------------------------


class Unlocked(ReadModel):
    """The mutant: reads rows without locking them, and writes over whatever is there by then."""

    async def lock(self, tx: Connection, keys: Sequence[tuple[Any, ...]]) -> list[Stored]:
        return await tx.fetch(
            f'SELECT * FROM "{self.table}" WHERE colour = ANY($1)', [key[-1] for key in keys]
        )


async def one_row_from_four_partitions(benches: list[Bench]) -> dict[str, Any]:
    basket = uuid4()
    shares = []
    for number, bench in enumerate(benches):
        share: list[Sequence[Record]] = []
        for _ in range(15):
            for partition in (2 * number, 2 * number + 1):
                fact = Filled(basket_id=basket, amount=1, total=0, colour="red")
                share.append([await bench.of(fact, partition=partition, id=str(uuid4())) for _ in range(2)])
        shares.append(share)
    await together(benches, COLOURS, shares)
    (row,) = await benches[0].rows("colours_g1", "projections")
    return row


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that lock rows before they fold, and batches that fold and write all else before."""
    if request.param == "large":
        monkeypatch.setattr(projecting, "LARGE", 1)


@pytest.mark.usefixtures("size")
async def test_one_row_is_fed_from_many_partitions_by_two_workers(benches: list[Bench]) -> None:
    row = await one_row_from_four_partitions(benches)
    assert (row["total"], row["fills"]) == (120, 120)


@pytest.mark.usefixtures("size")
async def test_the_mutant_without_the_rows_lock_loses_updates(
    benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = ReadModel.lock

    async def lock(self: ReadModel, tx: Connection, keys: Sequence[tuple[Any, ...]]) -> list[Stored]:
        if self.view != "colours":
            return await locked(self, tx, keys)
        found = await Unlocked.lock(self, tx, keys)  # type: ignore[arg-type]
        await asyncio.sleep(0.005)
        return found

    monkeypatch.setattr(ReadModel, "lock", lock)
    # Each in a basket of its own, or the baskets' locks would stand in for the colour's.
    shares = []
    for number, bench in enumerate(benches):
        facts = [Filled(basket_id=uuid4(), amount=1, total=0, colour="red") for _ in range(40)]
        shares.append(batches([await bench.of(fact, partition=number, id=str(uuid4())) for fact in facts], 2))
    await together(benches, COLOURS, shares)
    (row,) = await benches[0].rows("colours_g1", "projections")
    assert row["total"] < 80


async def test_whoever_is_second_to_make_a_row_does_only_its_last_part_anew(
    benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: another process makes the row between our look and our insert
    monkeypatch.setattr(projecting, "LARGE", 1)
    first, second = benches
    theirs = await second.of(
        Filled(basket_id=uuid4(), amount=3, total=3, colour="red"), partition=1, id="theirs"
    )
    ours = await first.of(Filled(basket_id=uuid4(), amount=4, total=4, colour="red"), partition=0, id="ours")
    lock, looks = ReadModel.lock, 0

    async def outrun(self: ReadModel, tx: Connection, keys: Sequence[tuple[Any, ...]]) -> list[Stored]:
        nonlocal looks
        found = await lock(self, tx, keys)
        looks += 1
        if looks == 1:
            await second.deliver(COLOURS, theirs)
        return found

    monkeypatch.setattr(ReadModel, "lock", outrun)

    # when
    counts = await first.deliver(COLOURS, ours)

    # then: the batch went through at once, and looked again at the shared row alone (theirs looked once)
    assert (counts.applied, looks) == (1, 3)
    (row,) = await first.rows("colours_g1", "projections")
    assert (row["total"], row["fills"]) == (7, 2)
    assert len(await first.rows("colours_basket_g1", "projections")) == 2


async def test_a_row_that_is_gone_when_the_last_part_is_done_anew_is_made_anew(
    benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: of two shared rows another process makes one while we hold the other, and deletes that once we have let go
    monkeypatch.setattr(projecting, "LARGE", 1)
    first, second = benches

    async def fact(bench: Bench, partition: int, colour: str, amount: int) -> Record:
        filled = Filled(basket_id=uuid4(), amount=amount, total=0, colour=colour)
        return await bench.of(filled, partition=partition, id=str(uuid4()))

    await second.deliver(COLOURS, await fact(second, 1, "blue", 2))
    red, gone = [await fact(second, 1, "red", 3), await fact(second, 1, "blue", -2)]
    ours = [await fact(first, 0, "red", 4), await fact(first, 0, "blue", 5)]
    lock, tries = ReadModel.lock, 0

    async def outrun(self: ReadModel, tx: Connection, keys: Sequence[tuple[Any, ...]]) -> list[Stored]:
        nonlocal tries
        if len(keys) == 1:
            return await lock(self, tx, keys)
        tries += 1
        if tries == 2:
            await second.deliver(COLOURS, gone)
        found = await lock(self, tx, keys)
        if tries == 1:
            await second.deliver(COLOURS, red)
        return found

    monkeypatch.setattr(ReadModel, "lock", outrun)

    # when
    counts = await first.deliver(COLOURS, *ours)

    # then
    assert (counts.applied, tries) == (2, 2)
    rows = {row["colour"]: row["total"] for row in await first.rows("colours_g1", "projections")}
    assert rows == {"red": 7, "blue": 5}


# -- one aggregate, commands and facts ----------------------------------------------------------------------------------


async def one_basket_from_both_sides(benches: list[Bench]) -> tuple[UUID, int]:
    basket = uuid4()
    first, second = benches
    puts = [
        await first.of(Put(basket_id=basket, amount=1), topic=COMMANDS, id=str(uuid4())) for _ in range(40)
    ]
    more = [await second.of(Put(basket_id=basket, amount=1), topic=IN, id=str(uuid4())) for _ in range(40)]
    await together(benches, "shop", [batches(puts, 3), batches(more, 3)])
    return basket, 80


async def test_one_aggregate_is_reached_from_two_topics_by_two_workers(benches: list[Bench]) -> None:
    basket, puts = await one_basket_from_both_sides(benches)
    assert [version for version, _ in await benches[0].facts(basket)] == list(range(1, puts + 1))
    (row,) = await benches[0].rows("aggregates")
    assert json.loads(row["state"])["total"] == puts
    # What is published has no gap and no inversion either.
    published = await benches[0].published()
    sequences = [int(dict(it.headers)["ce_sequence"] or b"0") for it in published]
    assert sequences == list(range(1, puts + 1))
    totals = [json.loads(it.value or b"")["total"] for it in published]
    assert totals == list(range(1, puts + 1))


async def test_the_mutant_without_the_aggregates_lock_is_caught_by_the_streams_versions(
    benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = streaming.Streams.lock

    async def lock(self: streaming.Streams, tx: Connection, keys: Collection[streaming.StreamKey]) -> None:
        del tx
        # The lock is taken and let go at once, as if FOR UPDATE were not there.
        async with benches[0].engine.databases["shop"].transaction() as elsewhere:
            await locked(self, elsewhere, keys)
        await asyncio.sleep(0.005)

    monkeypatch.setattr(streaming.Streams, "lock", lock)
    basket, puts = await one_basket_from_both_sides(benches)
    assert len(await benches[0].facts(basket)) < puts
    assert await benches[0].parked()


async def test_a_fact_from_outside_and_commands_meet_in_one_aggregate(benches: list[Bench]) -> None:
    basket = uuid4()
    first, second = benches
    puts = [
        await first.of(Put(basket_id=basket, amount=1), topic=COMMANDS, id=str(uuid4())) for _ in range(30)
    ]
    counts = [
        await second.of(Counted(basket_id=basket, total=1_000 * number), topic=IN, id=str(uuid4()))
        for number in range(1, 11)
    ]
    await together(benches, "shop", [batches(puts, 2), batches(counts, 1)])
    facts = await first.facts(basket)
    assert [version for version, _ in facts] == list(range(1, 41))
    assert sum(kind == "Counted" for _, kind in facts) == 10


# -- claims ---------------------------------------------------------------------------------------------------------------


async def test_never_two_holders_of_one_address(benches: list[Bench]) -> None:
    addresses = [f"m{number}@example.org" for number in range(12)]
    shares = []
    for number, bench in enumerate(benches):
        asked = [Join(member_id=uuid4(), email=address) for address in addresses] * 2
        records = [await bench.of(it, topic=IN, partition=number, id=str(uuid4())) for it in asked]
        shares.append(batches(records, 4))
    await together(benches, "shop", shares)
    members = [json.loads(row["state"]) for row in await benches[0].rows("aggregates") if row["version"]]
    assert sum(it["email"] is not None for it in members) == 12
    assert len(await benches[0].rows("claims")) == 12
    assert await benches[0].parked() == []


# -- checkpoint and inbox ---------------------------------------------------------------------------------------------------


async def test_a_zombie_loses_its_partition_only_and_writes_nothing_for_it(benches: list[Bench]) -> None:
    zombie, heir = benches
    lost, kept = uuid4(), uuid4()
    contested = await zombie.of(Put(basket_id=lost, amount=1), topic=IN, partition=0)
    other = await zombie.of(Put(basket_id=kept, amount=1), topic=IN, partition=1)
    held = await zombie.claim("shop", [(IN, 0), (IN, 1)])
    inherited = await heir.claim("shop", [(IN, 0)])
    counts, gone = await zombie.run("shop", held, [contested, other])
    assert gone == {(IN, 0)}
    assert counts.applied == 1
    assert (await zombie.facts(lost), await zombie.facts(kept)) == ([], [(1, "Filled")])
    counts, gone = await heir.run("shop", inherited, [contested])
    assert (counts.applied, gone) == (1, set())


async def test_a_batch_that_is_halved_leaves_alone_what_another_has(benches: list[Bench]) -> None:
    zombie, heir = benches
    basket = uuid4()
    large = await zombie.of(Put(basket_id=uuid4(), amount=1, padding=1_100_000), topic=COMMANDS, partition=1)
    puts = [
        await zombie.of(Put(basket_id=basket, amount=it), topic=COMMANDS, partition=0, id=str(uuid4()))
        for it in (1, 2)
    ]
    other = await zombie.of(Put(basket_id=uuid4(), amount=1), topic=COMMANDS, partition=2)
    held = await zombie.claim("shop", [(COMMANDS, number) for number in range(3)])
    inherited = await heir.claim("shop", [(COMMANDS, 0)])
    counts, gone = await zombie.run("shop", held, [large, *puts, other])
    assert (counts.applied, counts.parked, gone) == (1, 1, {(COMMANDS, 0)})
    assert await zombie.facts(basket) == []
    counts, _ = await heir.run("shop", inherited, puts)
    assert (counts.applied, counts.duplicates) == (2, 0)
    payloads = await heir.engine.databases["shop"].fetch(
        "SELECT payload FROM events WHERE key = $1 ORDER BY version", str(basket)
    )
    assert [json.loads(row["payload"])["amount"] for row in payloads] == [1, 2]


async def test_a_batch_that_another_has_committed_meanwhile_is_dropped(benches: list[Bench]) -> None:
    first, second = benches
    record = await first.of(Put(basket_id=uuid4(), amount=1), topic=IN)
    held = await first.claim("shop", [(IN, 0)])
    same = {place: Position(it.topic_id, it.next, it.epoch) for place, it in held.items()}
    assert (await first.run("shop", held, [record]))[1] == set()
    assert (await second.run("shop", same, [record]))[1] == {(IN, 0)}


class Unfenced(Batcher):
    """The mutant: moves the checkpoint on, whoever stands there."""

    async def _advance(
        self, tx: Connection, positions: dict[Place, Position], ends: dict[Place, int]
    ) -> set[Place]:
        for place, end in ends.items():
            await tx.execute(
                "UPDATE checkpoints SET next_offset = $1 WHERE consumer = $2 AND topic_id = $3 AND partition = $4",
                end,
                self.wiring.name,
                positions[place].topic_id,
                place[1],
            )
        return set(ends)


class Forgetful(Batcher):
    """The mutant: has no inbox."""

    async def met(
        self, tx: Connection | Database, incoming: Sequence[Incoming]
    ) -> tuple[dict[str, int], bool]:
        del tx, incoming
        return {}, False

    def _mark(self, writes: Writes, applied: Sequence[Incoming]) -> None:
        """Remember nothing."""


async def mutated(bench: Bench, kind: type[Batcher]) -> None:
    sound = await bench.batcher("shop")
    bench.use("shop", kind(sound.wiring, 1, sound.database, sound.codec, sound.tenancy, sound._folding))


async def test_the_mutant_without_the_comparison_applies_what_a_zombie_holds_and_turns_the_checkpoint_back(
    benches: list[Bench],
) -> None:
    zombie, heir = benches
    for bench in benches:
        await mutated(bench, Unfenced)
    basket = uuid4()
    records = [await heir.of(Put(basket_id=basket, amount=1), topic=IN) for _ in range(6)]
    held = await zombie.claim("shop", [(IN, 0)])
    inherited = await heir.claim("shop", [(IN, 0)])
    await heir.run("shop", inherited, records)
    await zombie.run("shop", held, records[:2])
    assert await heir.next_offset("shop", IN) == 2, "six were consumed"


async def test_the_mutant_without_an_inbox_applies_a_duplicate_twice(bench: Bench) -> None:
    await mutated(bench, Forgetful)
    basket = uuid4()
    put = await bench.of(Put(basket_id=basket, amount=1), topic=IN)
    await bench.deliver("shop", put)
    await bench.deliver("shop", bench.again(put, partition=1))
    (row,) = await bench.rows("parked") or await bench.rows("aggregates")
    assert "exists already" in str(row.get("detail")), "the fact's id was the last guard"


async def test_the_same_message_in_two_partitions_at_once_is_applied_once(benches: list[Bench]) -> None:
    baskets = [uuid4() for _ in range(10)]
    for basket in baskets:
        one = await benches[0].of(Put(basket_id=basket, amount=1), topic=IN, partition=0, id=str(uuid4()))
        two = benches[1].again(one, partition=1)
        await together(benches, "shop", [[[one]], [[two]]])
        assert await benches[0].facts(basket) == [(1, "Filled")]


# -- parked keys while traffic goes on --------------------------------------------------------------------------------------


@asynccontextmanager
async def repaired(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None]:
    with monkeypatch.context() as patched:
        patched.setattr("tests.shop.handlers.broken", frozenset[int]())
        yield


async def test_a_parked_key_is_redriven_while_traffic_goes_on_and_keeps_its_order(
    benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.shop.handlers import BROKEN

    live, operator = benches
    basket = uuid4()
    amounts = [1, BROKEN, *range(100, 160)]
    records = [
        await live.of(Put(basket_id=basket, amount=it), topic=COMMANDS, id=str(uuid4())) for it in amounts
    ]
    await work(live, "shop", batches(records[:20], 5))
    assert len(await live.parked()) == 19

    async def redriving() -> None:
        while parked := await operator.parked():
            for it in parked:
                try:
                    await operator.redrive("shop", it.id)
                except NOT_NOW:
                    break

    async with repaired(monkeypatch), asyncio.timeout(60):
        await asyncio.gather(work(live, "shop", batches(records[20:], 2)), redriving())
        await redriving()
    payloads = await live.engine.databases["shop"].fetch("SELECT payload FROM events ORDER BY version")
    assert [json.loads(row["payload"])["amount"] for row in payloads] == amounts
    assert await live.rows("parked_keys") == []
