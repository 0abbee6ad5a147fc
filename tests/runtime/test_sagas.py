"""Sagas batch by batch: early events, numbered deadlines, late moves, and deadlines that wait for the backlog."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import cast
from uuid import UUID, uuid4

from infra.kafka.admin import Admin, Topic
from infra.kafka.record import Place
from infra.runtime.catalog import SagaWiring
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.running.deadlines import Deadlines
from tests.shop.bench import TENANT, Bench, fact_types
from tests.shop.events import Paid, Recalled, Sent

SAGA = "sagas.delivery"
TOPIC = "shop.events"


class EndOfLog:
    """What the broker says of the bench's log."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def offsets(self, topics: Collection[Topic], *, end: bool) -> dict[Place, int]:
        assert end
        return {
            (topic.name, number): self._bench.end(topic.name, number) for topic in topics for number in (0, 1)
        }


class Impatient(Deadlines):
    """The mutant: fires what is due, whatever lies unread in the log."""

    async def _consumed(self, ends: dict[Place, int]) -> bool:
        del ends
        return True


async def deadlines(bench: Bench, kind: type[Deadlines] = Deadlines) -> Deadlines:
    batcher = await bench.batcher(SAGA)
    admin = cast("Admin", EndOfLog(bench))
    wiring = cast("SagaWiring", batcher.wiring)
    return kind(wiring, batcher, admin, {TOPIC: Topic(TOPIC, uuid4(), 2)}, Wakeups())


async def turns(bench: Bench, kind: type[Deadlines] = Deadlines) -> int:
    """Let a process look after the deadlines for a while; how many fired."""
    runner = await deadlines(bench, kind)
    return sum([await runner._one_turn() for _ in range(3)])


async def fall_due(bench: Bench) -> None:
    """Let a quarter of an hour pass."""
    await bench.engine.databases["sagas"].execute("UPDATE deadlines SET due = now() - interval '1 second'")


async def state(bench: Bench, basket: UUID) -> str | None:
    rows = await bench.engine.databases["sagas"].fetch(
        "SELECT state_name FROM instances WHERE key = $1", str(basket)
    )
    return rows[0]["state_name"] if rows else None


async def commands(bench: Bench) -> list[str]:
    return fact_types([it for it in await bench.published("sagas") if it.topic.endswith(".commands")])


async def test_a_step_writes_state_history_command_deadline_and_news_together(bench: Bench) -> None:
    basket = uuid4()
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    (instance,) = await bench.rows("instances", "sagas")
    assert (instance["state_name"], instance["version"], instance["correlation"]) == ("Sending", 1, "flow-1")
    (step,) = await bench.rows("history", "sagas")
    assert (step["because"], step["was"], step["entered"], step["commands"]) == (
        "shop.Paid",
        None,
        "Sending",
        ["shop.Send"],
    )
    (deadline,) = await bench.rows("deadlines", "sagas")
    assert deadline["number"] == 1
    published = await bench.published("sagas")
    assert fact_types(published) == ["Send", "sagas.SagaAdvanced"]
    assert [it.topic for it in published] == ["shop.commands", "sagas.events"]


async def test_events_that_come_early_wait_for_their_saga_and_are_answered_in_order(bench: Bench) -> None:
    basket = uuid4()
    counts = await bench.deliver(
        SAGA, await bench.of(Sent(basket_id=basket)), await bench.of(Recalled(basket_id=basket))
    )
    assert counts.applied == 2
    assert await bench.rows("instances", "sagas") == []
    assert len(await bench.rows("early", "sagas")) == 2
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    assert [row["because"] for row in await bench.rows("history", "sagas")] == ["shop.Paid", "shop.Sent"]
    assert await state(bench, basket) == "Done"
    assert await bench.rows("early", "sagas") == []
    assert await bench.rows("deadlines", "sagas") == []


async def test_an_early_event_in_the_same_batch_waits_no_longer_than_that(bench: Bench) -> None:
    basket = uuid4()
    await bench.deliver(SAGA, await bench.of(Sent(basket_id=basket)), await bench.of(Paid(basket_id=basket)))
    assert await state(bench, basket) == "Done"
    assert await bench.rows("early", "sagas") == []


async def test_an_early_event_is_sealed_where_it_waits(bench: Bench) -> None:
    basket = uuid4()
    await bench.deliver(SAGA, await bench.of(Sent(basket_id=basket)))
    (early,) = await bench.rows("early", "sagas")
    assert str(basket).encode() not in bytes(early["record"])


async def test_entering_a_state_anew_restarts_its_deadline_and_the_old_one_never_fires(bench: Bench) -> None:
    basket = uuid4()
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    (deadline,) = await bench.rows("deadlines", "sagas")
    assert deadline["number"] == 2
    await bench.engine.databases["sagas"].execute(
        "UPDATE deadlines SET number = 1, due = now() - interval '1 second'"
    )
    assert await turns(bench) == 0
    assert await state(bench, basket) == "Sending"


async def test_a_late_move_is_taken_once(bench: Bench) -> None:
    basket = uuid4()
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    assert await turns(bench) == 0
    await fall_due(bench)
    assert await turns(bench) == 1
    assert await turns(bench) == 0
    assert await state(bench, basket) == "Recalling"
    assert await commands(bench) == ["Send", "Recall"]
    assert await bench.rows("deadlines", "sagas") == []
    # A reply that comes after that is answered by undoing what it did.
    await bench.deliver(SAGA, await bench.of(Sent(basket_id=basket)))
    assert await commands(bench) == ["Recall"]
    await bench.deliver(
        SAGA, await bench.of(Recalled(basket_id=basket)), await bench.of(Sent(basket_id=basket))
    )
    assert await state(bench, basket) == "Compensated"


async def test_after_an_outage_the_reply_in_the_log_wins_over_the_deadline(bench: Bench) -> None:
    basket, silent = uuid4(), uuid4()
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)), await bench.of(Paid(basket_id=silent)))
    reply = await bench.of(Sent(basket_id=basket), partition=1)  # lies in the log, unread
    await bench.claim(SAGA, [(TOPIC, 1)])
    await fall_due(bench)
    runner = await deadlines(bench)
    assert [await runner._one_turn() for _ in range(3)] == [0, 0, 0]
    await bench.deliver(SAGA, reply)
    assert await runner._one_turn() == 1
    assert (await state(bench, basket), await state(bench, silent)) == ("Done", "Recalling")


async def test_the_mutant_that_ignores_the_backlog_calls_back_what_was_sent(bench: Bench) -> None:
    basket = uuid4()
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    await bench.of(Sent(basket_id=basket), partition=1)
    await fall_due(bench)
    assert await turns(bench, Impatient) == 1
    assert await state(bench, basket) == "Recalling"


async def test_the_deadline_of_a_parked_instance_waits(bench: Bench) -> None:
    basket, other = uuid4(), uuid4()
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)), await bench.of(Paid(basket_id=other)))
    for _ in range(3):
        await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    (parked,) = await bench.parked("sagas")
    assert (parked.reason, parked.keys[0]) == ("fold_failed", f"delivery:{TENANT}:{basket}")
    await fall_due(bench)
    assert await turns(bench) == 1
    assert (await state(bench, basket), await state(bench, other)) == ("Sending", "Recalling")


async def test_two_processes_fire_a_deadline_once(bench: Bench) -> None:
    import asyncio

    baskets = [uuid4() for _ in range(20)]
    await bench.deliver(SAGA, *[await bench.of(Paid(basket_id=basket)) for basket in baskets])
    await bench.published("sagas")
    await fall_due(bench)
    runners = [await deadlines(bench) for _ in range(3)]
    fired = await asyncio.gather(*(runner._one_turn() for runner in runners for _ in range(2)))
    assert sum(fired) == 20
    assert sorted(set(await commands(bench))) == ["Recall"]
    assert len(await bench.rows("history", "sagas")) == 40


async def test_a_state_that_the_code_no_longer_knows_parks_its_events_and_stops_nobody(bench: Bench) -> None:
    basket, other = uuid4(), uuid4()
    await bench.deliver(SAGA, await bench.of(Paid(basket_id=basket)))
    await bench.engine.databases["sagas"].execute("UPDATE instances SET state_name = 'Removed'")
    counts = await bench.deliver(
        SAGA, await bench.of(Sent(basket_id=basket)), await bench.of(Paid(basket_id=other))
    )
    assert (counts.applied, counts.parked) == (1, 1)
    (parked,) = await bench.parked("sagas")
    assert "Removed" in parked.detail
    assert await state(bench, other) == "Sending"


async def test_a_duplicate_makes_no_second_step(bench: Bench) -> None:
    paid = await bench.of(Paid(basket_id=uuid4()))
    await bench.deliver(SAGA, paid)
    counts = await bench.deliver(SAGA, bench.again(paid))
    assert counts.duplicates == 1
    assert json.loads((await bench.rows("instances", "sagas"))[0]["state"])["times"] == 0
