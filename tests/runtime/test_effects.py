"""Outside effects: started before the call, looked up before any second call, serial for a key, folded back once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from events import Message
from handlers import OutcomeUnknown, Unavailable
from infra.runtime.effects import lanes as effecting
from infra.runtime.effects.lanes import Lanes, Leased
from infra.runtime.folding.injection import flattened
from infra.runtime.operating import unknowns
from infra.runtime.publishing.wakeup import Wakeups
from tests.shop.bench import Bench, fact_types
from tests.shop.events import Ship
from tests.shop.handlers import Carrier

SHIP = "shop.ship"


class Outside:
    """A carrier that takes a basket as often as it is called: it honours no key."""

    def __init__(self) -> None:
        self.taken: dict[UUID, list[str]] = defaultdict(list)
        self.looked_up = 0
        self.at_once: Counter[UUID] = Counter()
        self.most_at_once: Counter[UUID] = Counter()
        self.hangs = False
        self.absent: list[type[Exception]] = []
        """What the next lookups raise."""
        self.refuses: list[type[Exception]] = []
        """What the next calls raise, before anything is taken."""
        self.takes_s = 0.0

    async def ship(self, basket_id: UUID, key: str) -> str:
        if self.refuses:
            raise self.refuses.pop(0)("away")
        self.at_once[basket_id] += 1
        self.most_at_once[basket_id] = max(self.most_at_once[basket_id], self.at_once[basket_id])
        try:
            await asyncio.sleep(self.takes_s)
            self.taken[basket_id].append(key)
            if self.hangs:
                await asyncio.sleep(60)
        finally:
            self.at_once[basket_id] -= 1
        return f"receipt {len(self.taken[basket_id])}"

    async def find(self, basket_id: UUID) -> str | None:
        self.looked_up += 1
        if self.absent:
            raise self.absent.pop(0)("away")
        return f"receipt {len(self.taken[basket_id])}" if self.taken[basket_id] else None


class Careless(Lanes):
    """The mutant: calls again, whatever may have happened before."""

    async def _outcome(self, effect: Leased) -> list[Message]:
        return list(flattened(await self._call(self._wiring.action, effect)))


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effecting, "LEASE_S", 0.5)


@asynccontextmanager
async def acting(
    bench: Bench, outside: Outside, kind: type[Lanes] = Lanes
) -> AsyncGenerator[asyncio.Task[None]]:
    """Run a process's lanes."""
    database = bench.engine.databases["shop"]
    wiring = bench.engine.catalog.effects[SHIP]
    lanes = kind(wiring, database, bench.engine.codec, {Carrier: outside}, Wakeups())
    stop = asyncio.Event()
    task = asyncio.create_task(lanes.run(stop))
    try:
        yield task
    finally:
        stop.set()
        for busy in lanes._busy.values():
            if task.cancelled():
                busy.cancel()
        await asyncio.gather(task, *lanes._busy.values(), return_exceptions=True)


async def killed(bench: Bench, outside: Outside, kind: type[Lanes] = Lanes) -> None:
    """Let a process die after the outside has acted and before it has noted the outcome."""
    outside.hangs = True
    database = bench.engine.databases["shop"]
    wiring = bench.engine.catalog.effects[SHIP]
    lanes = kind(wiring, database, bench.engine.codec, {Carrier: outside}, Wakeups())
    before = sum(map(len, outside.taken.values()))
    task = asyncio.create_task(lanes.run(asyncio.Event()))
    await until(lambda: sum(map(len, outside.taken.values())) > before)
    task.cancel()
    for busy in list(lanes._busy.values()):
        busy.cancel()
    await asyncio.gather(task, *lanes._busy.values(), return_exceptions=True)
    outside.hangs = False


async def until(condition: Any, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.02)


async def standings(bench: Bench) -> list[str]:
    rows = await bench.engine.databases["shop"].fetch("SELECT standing FROM effects ORDER BY position")
    return [row["standing"] for row in rows]


async def all_done(bench: Bench) -> bool:
    return set(await standings(bench)) == {"done"}


async def test_an_effect_is_done_once_and_its_outcome_is_folded_back(bench: Bench) -> None:
    basket, outside = uuid4(), Outside()
    ship = await bench.of(Ship(basket_id=basket), id="cause")
    await bench.deliver(SHIP, ship)
    await bench.deliver(SHIP, bench.again(ship))
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    (effect,) = await bench.rows("effects")
    assert outside.taken == {basket: [str(effect["id"])]}
    (shipped,) = await bench.published()
    assert fact_types([shipped]) == ["Shipped"]
    assert dict(shipped.headers)["ce_causationid"] == b"cause"
    assert json.loads(shipped.value or b"")["receipt"] == "receipt 1"
    assert await bench.facts(basket) == [(1, "Shipped")]


async def test_after_a_crash_the_outcome_is_looked_up_and_nothing_is_done_twice(bench: Bench) -> None:
    baskets, outside = [uuid4() for _ in range(5)], Outside()
    for basket in baskets:
        await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)))
        await killed(bench, outside)
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    assert {len(keys) for keys in outside.taken.values()} == {1}
    assert outside.looked_up >= 5
    assert [await bench.facts(basket) for basket in baskets] == [[(1, "Shipped")]] * 5


async def test_the_mutant_that_does_not_look_up_acts_twice(bench: Bench) -> None:
    basket, outside = uuid4(), Outside()
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)))
    await killed(bench, outside, Careless)
    async with acting(bench, outside, Careless):
        await until(lambda: all_done(bench))
    assert len(outside.taken[basket]) == 2


async def test_while_the_lookup_is_unavailable_nothing_is_tried_again(bench: Bench) -> None:
    basket, outside = uuid4(), Outside()
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)))
    await killed(bench, outside)
    outside.absent = [Unavailable, OutcomeUnknown, Unavailable]
    async with acting(bench, outside):
        await until(lambda: all_done(bench), 30)
    assert len(outside.taken[basket]) == 1


async def test_what_was_not_done_for_certain_is_tried_again_under_the_same_key(bench: Bench) -> None:
    basket, outside = uuid4(), Outside()
    outside.refuses = [Unavailable, ConnectionError]
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)))
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    (effect,) = await bench.rows("effects")
    assert outside.taken[basket] == [str(effect["id"])]
    assert outside.looked_up == 1, "a broken connection leaves the outcome open, Unavailable does not"


async def test_what_cannot_be_found_out_is_left_to_an_operator_and_holds_up_its_key_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effecting, "MAX_LOOKUPS", 2)
    basket, other, outside = uuid4(), uuid4(), Outside()
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)))
    await killed(bench, outside)
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)), await bench.of(Ship(basket_id=other)))
    outside.absent = [OutcomeUnknown] * 3

    async def waits() -> bool:
        return await standings(bench) == ["unknown", "due", "done"]

    async with acting(bench, outside):
        await until(waits)
    database = bench.engine.databases["shop"]
    (effect,) = await unknowns.unknown(database)
    assert (effect.consumer, effect.key) == (SHIP, str(basket))
    outside.absent = []
    assert await unknowns.retry(bench.engine, effect, who="op", why="the carrier is back")
    assert not await unknowns.retry(bench.engine, effect, who="op", why="again")
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    assert (len(outside.taken[basket]), len(outside.taken[other])) == (2, 1), (
        "two effects of the basket, one each"
    )


async def test_effects_of_a_key_are_serial_and_others_concurrent(bench: Bench) -> None:
    basket, others, outside = uuid4(), [uuid4() for _ in range(10)], Outside()
    outside.takes_s = 0.1
    records = [await bench.of(Ship(basket_id=it)) for it in [basket] * 3 + others]
    await bench.deliver(SHIP, *records)
    async with acting(bench, outside), acting(bench, outside):
        await until(lambda: outside.at_once.total() >= 5)
        await until(lambda: all_done(bench))
    assert set(outside.most_at_once.values()) == {1}
    assert len(outside.taken[basket]) == 3
    assert [len(outside.taken[it]) for it in others] == [1] * 10


async def test_stopping_lets_what_is_in_hand_end(bench: Bench) -> None:
    basket, outside = uuid4(), Outside()
    outside.takes_s = 0.3
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)))
    async with acting(bench, outside):
        await until(lambda: outside.at_once[basket])
    assert await standings(bench) == ["done"]
    assert len(outside.taken[basket]) == 1


@pytest.fixture
def _one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call one after the other, with another effect leased meanwhile; and hear soon that it is time to stop."""
    monkeypatch.setattr(effecting, "POLL_S", 0.05)
    monkeypatch.setattr(effecting, "LANES", 1)
    monkeypatch.setattr(effecting, "AHEAD_S", 1.0)


@pytest.mark.usefixtures("_one_lane")
async def test_what_is_leased_ahead_is_given_back_when_lanes_stop(bench: Bench) -> None:
    baskets, outside = [uuid4() for _ in range(3)], Outside()
    outside.takes_s = 0.3
    await bench.deliver(SHIP, *[await bench.of(Ship(basket_id=it)) for it in baskets])

    async def one_in_call_one_ahead() -> bool:
        return outside.at_once.total() == 1 and await standings(bench) == ["started", "started", "due"]

    async with acting(bench, outside) as lanes:
        await until(one_in_call_one_ahead)
        assert not lanes.done()
    rows = sorted(await bench.rows("effects"), key=lambda row: row["position"])
    assert [(row["standing"], row["attempts"]) for row in rows] == [("done", 1), ("due", 0), ("due", 0)]
    outside.takes_s = 0.0
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    assert [len(outside.taken[it]) for it in baskets] == [1, 1, 1]
    assert outside.looked_up == 0, "nobody had begun what was given back"


@pytest.mark.usefixtures("_one_lane")
async def test_what_waits_too_long_for_a_lane_is_not_called_under_its_old_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effecting, "WAITS_S", 0.1)
    baskets, outside = [uuid4() for _ in range(2)], Outside()
    outside.takes_s = 0.4
    await bench.deliver(SHIP, *[await bench.of(Ship(basket_id=it)) for it in baskets])
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    rows = sorted(await bench.rows("effects"), key=lambda row: row["position"])
    assert [row["epoch"] > 1 for row in rows] == [False, True], "the second is leased anew"
    assert [row["attempts"] for row in rows] == [1, 1]
    assert [len(outside.taken[it]) for it in baskets] == [1, 1]
    assert outside.looked_up == 0


async def test_a_process_that_was_held_up_past_its_lease_does_not_fold_a_second_outcome(bench: Bench) -> None:
    basket, outside = uuid4(), Outside()
    outside.takes_s = 1.0
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)))
    async with acting(bench, outside):
        await until(lambda: outside.at_once[basket])
        outside.takes_s = 0.0
        await asyncio.sleep(0.6)  # the lease ends, as for a process that is stopped
        async with acting(bench, outside):
            await until(lambda: all_done(bench))
    assert await bench.facts(basket) == [(1, "Shipped")]


async def test_taking_effects_reads_nothing_of_other_keys(bench: Bench) -> None:
    """Where all that is known has ended, few open rows are expected: any index would do, and one takes thousands of times longer."""
    outside, database = Outside(), bench.engine.databases["shop"]
    await bench.deliver(SHIP, *[await bench.of(Ship(basket_id=uuid4())) for _ in range(50)])
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    await database.execute("ANALYZE effects")
    async with database.connection() as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE take (text, int, uuid, float) AS {effecting.TAKE}")
        rows = await connection.fetch(f"EXPLAIN EXECUTE take ('{SHIP}', 64, '{uuid4()}', 60)")
        await connection.execute("DEALLOCATE take")
        await connection.execute("RESET plan_cache_mode")
    plan = "\n".join(row[0] for row in rows)
    assert "effects_in_order on effects" in plan, plan
    assert "Index Cond: ((consumer = e_1.consumer) AND (tenant = e_1.tenant) AND (key = e_1.key))" in plan, (
        plan
    )
    assert "Sort" not in plan, plan


async def test_an_effect_that_cannot_be_read_any_more_stops_nobody_else(bench: Bench) -> None:
    basket, other, outside = uuid4(), uuid4(), Outside()
    await bench.deliver(SHIP, await bench.of(Ship(basket_id=basket)), await bench.of(Ship(basket_id=other)))
    await bench.engine.databases["shop"].execute(
        "UPDATE effects SET value = '[]' WHERE key = $1", str(basket)
    )

    async def told_apart() -> bool:
        return await standings(bench) == ["unknown", "done"]

    async with acting(bench, outside):
        await until(told_apart)
    assert set(outside.taken) == {other}


async def test_what_was_leased_and_not_called_is_due_again_when_leasing_breaks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = Outside()
    for _ in range(5):
        await bench.deliver(SHIP, await bench.of(Ship(basket_id=uuid4())))
    read, broken = Lanes._open, iter([False, False, True])

    async def breaking(self: Lanes, row: Any, since: float) -> Leased:
        if next(broken, False):
            raise ConnectionResetError("the vault's connection broke")
        return await read(self, row, since)

    monkeypatch.setattr(Lanes, "_open", breaking)
    wiring = replace(bench.engine.catalog.effects[SHIP], finder=None)
    monkeypatch.setitem(bench.engine.catalog.effects, SHIP, wiring)
    async with acting(bench, outside):
        await until(lambda: all_done(bench))
    assert [len(calls) for calls in outside.taken.values()] == [1] * 5
