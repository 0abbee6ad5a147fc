"""One batch on a real database: what is applied, what is parked, and in which order."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from infra.runtime.messages.ids import source_of
from tests.shop.bench import NOON, TENANT, Bench, fact_types
from tests.shop.events import (
    Close,
    Closed,
    Counted,
    Filled,
    Grab,
    Join,
    Move,
    Pay,
    Put,
    PutV1,
    Smuggle,
    Split,
)
from tests.shop.handlers import BROKEN

IN = "shop.inbound"
COMMANDS = "shop.commands"
EVENTS = "shop.events"


async def test_a_command_makes_a_fact_an_aggregate_and_a_message_in_one_go(bench: Bench) -> None:
    basket = uuid4()
    counts = await bench.deliver("shop", await bench.of(Put(basket_id=basket, amount=2), topic=IN))
    assert (counts.applied, counts.parked) == (1, 0)
    assert await bench.facts(basket) == [(1, "Filled")]
    (stored,) = await bench.rows("aggregates")
    assert (stored["version"], json.loads(stored["state"])["total"]) == (1, 2)
    (record,) = await bench.published()
    headers = {name: (value or b"").decode() for name, value in record.headers}
    assert record.topic == EVENTS
    assert (headers["ce_sequence"], headers["ce_causationid"], headers["ce_correlationid"]) == (
        "1",
        "m1",
        "flow-1",
    )
    assert headers["ce_source"] == source_of("shop")


async def test_a_duplicate_at_another_offset_or_partition_changes_nothing(bench: Bench) -> None:
    basket = uuid4()
    first = await bench.of(Put(basket_id=basket, amount=2), topic=IN)
    await bench.deliver("shop", first)
    counts = await bench.deliver("shop", bench.again(first), bench.again(first, partition=3))
    assert (counts.applied, counts.duplicates) == (0, 2)
    assert await bench.facts(basket) == [(1, "Filled")]


async def test_a_duplicate_within_the_batch_is_dropped(bench: Bench) -> None:
    basket = uuid4()
    first = await bench.of(Put(basket_id=basket, amount=2), topic=IN)
    counts = await bench.deliver("shop", first, bench.again(first), bench.again(first, partition=1))
    assert (counts.applied, counts.duplicates) == (1, 2)
    assert await bench.facts(basket) == [(1, "Filled")]


async def test_the_same_id_from_another_tenant_or_source_is_another_message(bench: Bench) -> None:
    basket = uuid4()
    same = Put(basket_id=basket, amount=1)
    counts = await bench.deliver(
        "shop",
        await bench.of(same, topic=IN, id="1"),
        await bench.of(same, topic=IN, id="1", tenant="other"),
        await bench.of(same, topic=IN, id="1", source="elsewhere"),
    )
    assert counts.applied == 3
    assert await bench.facts(basket) == [(1, "Filled"), (2, "Filled")]
    assert await bench.facts(basket, "other") == [(1, "Filled")]


@pytest.mark.parametrize("apart", [False, True], ids=["in one batch", "in two"])
async def test_the_same_id_with_another_payload_is_parked_alone(bench: Bench, apart: bool) -> None:  # noqa: FBT001
    basket = uuid4()
    records = [
        await bench.of(Put(basket_id=basket, amount=1), topic=COMMANDS, id="1"),
        await bench.of(Put(basket_id=basket, amount=2), topic=COMMANDS, id="1"),
        await bench.of(Put(basket_id=basket, amount=3), topic=COMMANDS, id="2"),
    ]
    for batch in [[record] for record in records] if apart else [records]:
        await bench.deliver("shop", *batch)
    (parked,) = await bench.parked()
    assert (parked.reason, parked.offset) == ("id_reuse", 1)
    assert "ce_id" in parked.detail
    assert len(await bench.facts(basket)) == 2


async def test_of_500_keys_2_are_bad_and_498_are_applied(bench: Bench) -> None:
    baskets = [uuid4() for _ in range(500)]
    amounts = {baskets[100]: BROKEN, baskets[400]: BROKEN}
    records = [await bench.of(Put(basket_id=it, amount=amounts.get(it, 1)), topic=IN) for it in baskets]
    counts = await bench.deliver("shop", *records)
    assert (counts.applied, counts.parked) == (498, 2)
    assert {it.reason for it in await bench.parked()} == {"fold_failed"}
    assert len(await bench.rows("aggregates")) == 498
    assert len(await bench.rows("inbox")) == 498


async def test_later_messages_of_a_parked_key_queue_behind_it_and_others_flow(bench: Bench) -> None:
    bad, good = uuid4(), uuid4()
    await bench.deliver(
        "shop",
        await bench.of(Put(basket_id=bad, amount=1), topic=IN),
        await bench.of(Put(basket_id=bad, amount=BROKEN), topic=IN),
        await bench.of(Put(basket_id=bad, amount=2), topic=IN),
        await bench.of(Put(basket_id=good, amount=1), topic=IN),
    )
    await bench.deliver(
        "shop",
        await bench.of(Move(basket_id=good, other_id=bad, amount=1), topic=COMMANDS),
        await bench.of(Put(basket_id=good, amount=1), topic=COMMANDS),
    )
    parked = await bench.parked()
    assert [it.reason for it in parked] == ["fold_failed", "behind", "behind", "behind"]
    assert await bench.facts(bad) == [(1, "Filled")]
    assert await bench.facts(good) == [(1, "Filled")]


async def test_redrive_goes_in_order_and_frees_the_key_at_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.runtime.operating.parked import NotFirst, StillFails

    basket = uuid4()
    for amount in (BROKEN, 2, 3):
        await bench.deliver("shop", await bench.of(Put(basket_id=basket, amount=amount), topic=COMMANDS))
    first, second, third = await bench.parked()
    with pytest.raises(NotFirst):
        await bench.redrive("shop", second.id)
    with pytest.raises(StillFails, match="thirteen"):
        await bench.redrive("shop", first.id)
    assert len(await bench.parked()) == 3

    monkeypatch.setattr("tests.shop.handlers.broken", frozenset[int]())
    assert await bench.redrive("shop", first.id)
    assert not await bench.redrive("shop", first.id)
    with pytest.raises(NotFirst):
        await bench.redrive("shop", third.id)
    assert await bench.redrive("shop", second.id)
    assert await bench.rows("parked_keys")
    assert await bench.redrive("shop", third.id)
    assert await bench.rows("parked_keys") == []

    (aggregate,) = await bench.rows("aggregates")
    assert json.loads(aggregate["state"])["total"] == BROKEN + 5
    await bench.deliver("shop", await bench.of(Put(basket_id=basket, amount=1), topic=COMMANDS))
    assert len(await bench.facts(basket)) == 4
    assert await bench.parked() == []


async def test_a_discarded_message_lets_those_behind_it_go(bench: Bench) -> None:
    from infra.runtime.operating import parked as repair

    basket = uuid4()
    for amount in (BROKEN, 2):
        await bench.deliver("shop", await bench.of(Put(basket_id=basket, amount=amount), topic=COMMANDS))
    first, second = await bench.parked()
    gone = await repair.discard(bench.engine.databases["shop"], first.id)
    assert gone is not None
    assert gone.offset == 0
    assert await bench.redrive("shop", second.id)
    assert await bench.facts(basket) == [(1, "Filled")]
    assert await bench.rows("parked_keys") == []


async def test_an_unreadable_record_of_an_ordered_topic_blocks_its_key_from_there_on(bench: Bench) -> None:
    basket = uuid4()
    before = await bench.of(Put(basket_id=basket, amount=1), topic=COMMANDS)
    unreadable = replace(await bench.of(Put(basket_id=basket, amount=2), topic=COMMANDS), value=b"{")
    after = await bench.of(Put(basket_id=basket, amount=3), topic=COMMANDS)
    counts = await bench.deliver("shop", before, unreadable, after)
    assert (counts.applied, counts.parked) == (1, 2)
    parked = await bench.parked()
    assert [(it.offset, it.reason) for it in parked] == [(1, "invalid_field"), (2, "behind")]
    assert await bench.facts(basket) == [(1, "Filled")]


async def test_what_fails_the_contract_on_inbound_is_parked_alone_and_blocks_nothing(bench: Bench) -> None:
    basket = uuid4()
    unreadable = replace(await bench.of(Put(basket_id=basket, amount=2), topic=IN), value=b"{")
    counts = await bench.deliver(
        "shop", unreadable, await bench.of(Put(basket_id=basket, amount=3), topic=IN)
    )
    assert (counts.applied, counts.parked) == (1, 1)
    assert await bench.rows("parked_keys") == []


async def test_a_repaired_record_does_not_overtake_what_its_key_waits_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.runtime.operating.parked import NotFirst

    basket = uuid4()
    await bench.deliver("shop", await bench.of(Put(basket_id=basket, amount=BROKEN), topic=COMMANDS))
    unknown = await bench.of(Put(basket_id=basket, amount=1), topic=COMMANDS)
    headers = [(name, (value or b"").replace(b":2", b":9")) for name, value in unknown.headers]
    await bench.deliver("shop", replace(unknown, headers=headers))
    first, second = await bench.parked()
    assert [first.reason, second.reason] == ["fold_failed", "unknown_version"]

    # The version becomes known, but the earlier message of the basket is still parked.
    contract = bench.engine.catalog.contracts["shop.Put"]
    monkeypatch.setitem(contract.versions, 9, Put)
    monkeypatch.setitem(bench.engine.codec._message_seals, ("shop.Put", 9), None)
    with pytest.raises(NotFirst):
        await bench.redrive("shop", second.id)
    monkeypatch.setattr("tests.shop.handlers.broken", frozenset[int]())
    assert await bench.redrive("shop", first.id)
    assert await bench.redrive("shop", second.id)
    assert len(await bench.facts(basket)) == 2


@pytest.mark.parametrize(
    "key",
    [b"\0", b"\xff\xfe", random.Random(1).randbytes(20_000), b""],
    ids=["nul", "not utf-8", "long", "empty"],
)
async def test_any_key_can_be_parked(bench: Bench, key: bytes) -> None:
    odd = replace(await bench.of(Put(basket_id=uuid4(), amount=1), topic=COMMANDS), key=key)
    counts = await bench.deliver("shop", odd, replace(bench.again(odd), value=b"{"))
    assert counts.parked == 2
    assert (await bench.reasons())[0] == "wrong_key"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "empty"),
        (b"\xff", "not_utf8"),
        (b"[1]", "not_an_object"),
        (b'{"a":1,"a":2}', "duplicate_field"),
    ],
)
@pytest.mark.parametrize("topic", [IN, COMMANDS])
async def test_odd_records_are_parked_byte_by_byte(
    bench: Bench, topic: str, value: bytes | None, reason: str
) -> None:
    from infra.runtime.operating import parked as repair

    odd = replace(await bench.of(Put(basket_id=uuid4(), amount=1), topic=topic), value=value)
    odd = replace(odd, headers=[*odd.headers, ("null", None), ("raw", b"\xff\0")])
    counts = await bench.deliver("shop", odd)
    assert counts.parked == 1
    (parked,) = await bench.parked()
    assert parked.reason == reason or topic == COMMANDS
    assert parked.tenant == TENANT
    again = await repair.original(bench.engine.databases["shop"], bench.engine.codec, parked.id)
    assert again is not None
    assert (again.key, again.value, list(again.headers)) == (odd.key, odd.value, list(odd.headers))
    (stored,) = await bench.rows("parked")
    assert str(odd.key) not in str(stored["record"]), "parked bytes are sealed"


# -- what the database refuses ------------------------------------------------------------------------------------------


async def test_what_the_database_refuses_is_found_by_halving_and_parked_under_its_keys(bench: Bench) -> None:
    baskets = [uuid4() for _ in range(9)]
    facts = [
        Filled(basket_id=it, amount=1, total=1, colour=f"c{number}") for number, it in enumerate(baskets)
    ]
    facts[5] = facts[5].model_copy(update={"amount": 2**63})  # more than a bigint holds
    records = [await bench.of(fact, partition=number % 2) for number, fact in enumerate(facts)]
    records.sort(key=lambda it: (it.partition, it.offset))
    counts = await bench.deliver("projections.colours", *records)
    assert (counts.applied, counts.parked) == (8, 1)
    (parked,) = await bench.parked("projections")
    assert parked.reason == "refused_by_database"
    # The row that could not be written waits; nothing overtakes what is parked for it.
    later = await bench.of(Filled(basket_id=uuid4(), amount=1, total=1, colour="c5"))
    assert (await bench.deliver("projections.colours", later)).parked == 1
    assert await bench.reasons("projections") == ["refused_by_database", "behind"]
    assert await bench.next_offset("projections.colours", EVENTS, 0) == 6
    assert await bench.next_offset("projections.colours", EVENTS, 1) == 4


async def test_an_output_that_is_too_large_is_refused_where_it_is_made(bench: Bench) -> None:
    basket, other = uuid4(), uuid4()
    counts = await bench.deliver(
        "shop",
        await bench.of(Put(basket_id=basket, amount=1, padding=1_100_000), topic=IN),
        await bench.of(Put(basket_id=other, amount=1), topic=IN),
        await bench.of(Put(basket_id=basket, amount=2), topic=IN),
    )
    assert (counts.applied, counts.parked) == (1, 2)
    parked = await bench.parked()
    assert [it.reason for it in parked] == ["too_large", "behind"]
    assert "shop.Filled" in parked[0].detail
    assert await bench.facts(other) == [(1, "Filled")]
    assert fact_types(await bench.published()) == ["Filled"]


async def test_what_the_database_refuses_on_redrive_stays_parked_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.runtime.operating.parked import StillFails

    await bench.deliver(
        "shop", await bench.of(Put(basket_id=uuid4(), amount=BROKEN, padding=1_100_000), topic=IN)
    )
    monkeypatch.setattr("tests.shop.handlers.broken", frozenset[int]())
    (parked,) = await bench.parked()
    with pytest.raises(StillFails, match="too_large"):
        await bench.redrive("shop", parked.id)
    assert await bench.reasons() == ["too_large"]


# -- more than one aggregate ---------------------------------------------------------------------------------------------


async def test_several_aggregates_are_locked_and_changed_together(bench: Bench) -> None:
    here, there = uuid4(), uuid4()
    await bench.deliver(
        "shop",
        await bench.of(Put(basket_id=here, amount=5), topic=IN),
        await bench.of(Move(basket_id=here, other_id=there, amount=3), topic=IN),
        await bench.of(Move(basket_id=there, other_id=here, amount=1), topic=IN),
        await bench.of(Move(basket_id=here, other_id=here, amount=1), topic=IN),
    )
    totals = {row["key"]: json.loads(row["state"])["total"] for row in await bench.rows("aggregates")}
    assert totals == {str(here): 3, str(there): 2}
    assert [version for version, _ in await bench.facts(here)] == [1, 2, 3, 4, 5]


async def test_an_aggregate_that_exists_and_was_not_asked_for_is_not_written(bench: Bench) -> None:
    here, there = uuid4(), uuid4()
    await bench.deliver("shop", await bench.of(Put(basket_id=there, amount=5), topic=IN))
    counts = await bench.deliver("shop", await bench.of(Smuggle(basket_id=here, other_id=there), topic=IN))
    assert counts.parked == 1
    (parked,) = await bench.parked()
    assert "ask for it in the handler's signature" in parked.detail
    assert await bench.facts(there) == [(1, "Filled")]


async def test_a_conflict_of_claims_is_an_input_to_the_decider(bench: Bench) -> None:
    ada, bob = uuid4(), uuid4()
    await bench.deliver("shop", await bench.of(Join(member_id=ada, email="a@example.org"), topic=IN))
    await bench.deliver("shop", await bench.of(Join(member_id=bob, email="A@example.org"), topic=IN))
    assert await bench.facts(ada) == [(1, "Joined")]
    assert await bench.facts(bob) == [(1, "JoinRefused")]


async def test_a_claim_made_earlier_in_the_batch_is_seen_later_in_it(bench: Bench) -> None:
    ada, bob = uuid4(), uuid4()
    counts = await bench.deliver(
        "shop",
        await bench.of(Join(member_id=ada, email="a@example.org"), topic=IN),
        await bench.of(Join(member_id=bob, email="a@example.org"), topic=IN),
    )
    assert counts.applied == 2
    assert await bench.facts(bob) == [(1, "JoinRefused")]
    assert len(await bench.rows("claims")) == 1


@pytest.mark.parametrize("apart", [False, True], ids=["in one batch", "in two"])
async def test_a_released_claim_can_be_taken_by_another(bench: Bench, apart: bool) -> None:  # noqa: FBT001
    ada, bob = uuid4(), uuid4()
    records = [
        await bench.of(Join(member_id=ada, email="a@example.org"), topic=IN),
        await bench.of(Join(member_id=ada, email="new@example.org"), topic=IN),
        await bench.of(Join(member_id=bob, email="a@example.org"), topic=IN),
    ]
    for batch in [[record] for record in records] if apart else [records]:
        await bench.deliver("shop", *batch)
    assert await bench.facts(bob) == [(1, "Joined")]
    claims = await bench.rows("claims")
    assert sorted(row["holder"] for row in claims) == sorted([str(ada), str(bob)])


async def test_a_claim_taken_unseen_is_refused(bench: Bench) -> None:
    counts = await bench.deliver(
        "shop", await bench.of(Grab(member_id=uuid4(), email="a@example.org"), topic=IN)
    )
    assert counts.parked == 1
    (parked,) = await bench.parked()
    assert "ask for its Holder" in parked.detail
    assert await bench.rows("claims") == []
    assert await bench.rows("aggregates") == []


async def test_the_same_address_in_another_tenant_is_another_claim(bench: Bench) -> None:
    for tenant in ("acme", "other"):
        member = Join(member_id=uuid4(), email="a@example.org")
        assert (await bench.deliver("shop", await bench.of(member, topic=IN, tenant=tenant))).applied == 1
    assert len(await bench.rows("claims")) == 2


@pytest.mark.parametrize("apart", [False, True], ids=["in one batch", "in two"])
async def test_a_local_view_is_kept_and_read(bench: Bench, apart: bool) -> None:  # noqa: FBT001
    basket, till = uuid4(), uuid4()
    records = [
        await bench.of(Closed(till_id=till)),
        await bench.of(Pay(basket_id=basket, till_id=till), topic=COMMANDS),
        await bench.of(Pay(basket_id=basket, till_id=uuid4()), topic=COMMANDS),
    ]
    for batch in [[record] for record in records] if apart else [records]:
        await bench.deliver("shop", *batch)
    assert await bench.facts(basket) == [(1, "PutRefused"), (2, "Paid")]
    assert [row["key"] for row in await bench.rows("locals")] == [str(till)]


# -- what stays behind --------------------------------------------------------------------------------------------------


async def test_no_skeleton_is_left_where_nothing_came_of_it(bench: Bench) -> None:
    basket, till = uuid4(), uuid4()
    await bench.deliver(
        "shop",
        await bench.of(Move(basket_id=basket, other_id=uuid4(), amount=1), topic=IN),
        await bench.of(Put(basket_id=uuid4(), amount=BROKEN), topic=IN),
        await bench.of(Close(till_id=till), topic=IN),
    )
    assert [row["key"] for row in await bench.rows("aggregates")] == [str(till)]
    await bench.deliver(
        "projections.colours",
        await bench.of(Filled(basket_id=basket, amount=1, total=1, colour="grey")),
        await bench.of(Filled(basket_id=basket, amount=0, total=1, colour="blue")),
    )
    assert await bench.rows("colours_g1", "projections") == []


async def test_a_row_that_a_fold_gives_up_is_deleted(bench: Bench) -> None:
    basket = uuid4()
    for amount in (2, 3, -5):
        await bench.deliver(
            "projections.colours",
            await bench.of(Filled(basket_id=basket, amount=amount, total=0, colour="red")),
        )
    assert await bench.rows("colours_g1", "projections") == []
    ((row),) = await bench.rows("colours_basket_g1", "projections")
    assert json.loads(row["amounts"]) == [2, 3, -5]


async def test_in_a_large_batch_what_a_shared_row_does_not_take_leaves_nothing_in_the_others(
    bench: Bench,
) -> None:
    # given: of 1,200 baskets two are grey, which only the row of all greys refuses, and that is folded last
    baskets = [uuid4() for _ in range(1_200)]
    colours = {baskets[100]: "grey", baskets[900]: "grey"}
    facts = [Filled(basket_id=it, amount=1, total=1, colour=colours.get(it, "red")) for it in baskets]
    later = [Filled(basket_id=baskets[100], amount=2, total=3, colour="red")]

    # when
    counts = await bench.deliver("projections.colours", *[await bench.of(it) for it in (*facts, *later)])

    # then
    assert (counts.applied, counts.parked) == (1_198, 3)
    assert await bench.reasons("projections") == ["fold_failed", "behind", "behind"]
    (row,) = await bench.rows("colours_g1", "projections")
    assert (row["colour"], row["total"], row["fills"]) == ("red", 1_198, 1_198)
    kept = {row["basket_id"] for row in await bench.rows("colours_basket_g1", "projections")}
    assert kept == set(baskets) - colours.keys()


async def test_a_snapshot_of_another_shape_is_folded_anew_from_its_events(bench: Bench) -> None:
    basket = uuid4()
    for amount in (2, 3):
        await bench.deliver("shop", await bench.of(Put(basket_id=basket, amount=amount), topic=IN))
    await bench.engine.databases["shop"].execute(
        """UPDATE aggregates SET shape = 1, state = '{"an": "older shape"}'"""
    )
    await bench.deliver("shop", await bench.of(Put(basket_id=basket, amount=4), topic=IN))
    (row,) = await bench.rows("aggregates")
    assert (row["version"], json.loads(row["state"])["total"]) == (3, 9)


async def test_the_same_cause_makes_the_same_messages(bench: Bench) -> None:
    basket = uuid4()
    split = await bench.of(Split(basket_id=basket), topic=IN)
    await bench.deliver("shop", split)
    before = [(row["id"], row["key"], row["payload"]) for row in await bench.rows("events")]
    assert before
    from tests.shop.bench import emptied

    await emptied(bench.engine.settings)
    bench.positions.clear()
    await bench.deliver("shop", split)
    assert [(row["id"], row["key"], row["payload"]) for row in await bench.rows("events")] == before


# -- adoption and tenants -----------------------------------------------------------------------------------------------


async def test_an_upstream_fact_is_adopted_under_a_derived_id(bench: Bench) -> None:
    basket = uuid4()
    counted = await bench.of(Counted(basket_id=basket, total=7), topic=IN, id="upstream-1", partition=5)
    await bench.deliver("shop", counted, bench.again(counted, partition=2))
    (record,) = await bench.published()
    headers = {name: (value or b"").decode() for name, value in record.headers}
    assert headers["ce_causationid"] == "upstream-1"
    assert headers["ce_source"] == "triplane/shop"
    assert UUID(headers["ce_id"]).version == 8
    assert json.loads(record.value or b"")["note"] == "upstream"
    # What is known makes nothing new; what contradicts it is refused.
    await bench.deliver("shop", await bench.of(Counted(basket_id=basket, total=7), topic=IN))
    await bench.deliver("shop", await bench.of(Counted(basket_id=basket, total=3), topic=IN))
    assert await bench.facts(basket) == [(1, "Counted"), (2, "PutRefused")]


async def test_our_own_adopted_fact_is_not_adopted_again(bench: Bench) -> None:
    await bench.deliver("shop", await bench.of(Counted(basket_id=uuid4(), total=7), topic=IN))
    (record,) = await bench.published()
    counts = await bench.deliver("shop", record)
    assert (counts.parked, await bench.published()) == (0, [])


async def test_reserved_attributes_are_refused_from_outside(bench: Bench) -> None:
    body = Put(basket_id=uuid4(), amount=1)
    forged = await bench.of(body, topic=IN, source="triplane/sagas")
    sequenced = await bench.of(body, topic=IN)
    sequenced = replace(sequenced, headers=[*sequenced.headers, ("ce_sequence", b"1")])
    counts = await bench.deliver("shop", forged, sequenced)
    assert (counts.parked, await bench.reasons()) == (2, ["reserved", "reserved"])


async def test_a_suspended_tenant_is_parked_and_redriven_once_it_is_active(bench: Bench) -> None:
    tenancy = bench.engine.databases["tenancy"]
    await tenancy.execute(
        "INSERT INTO tenants (tenant, standing, origin) VALUES ('late-payer', 'suspended', 'test')"
    )
    put = await bench.of(Put(basket_id=uuid4(), amount=1), topic=IN, tenant="late-payer")
    assert (await bench.deliver("shop", put)).parked == 1
    (parked,) = await bench.parked()
    assert (parked.reason, parked.tenant) == ("suspended_tenant", "late-payer")
    await tenancy.execute("UPDATE tenants SET standing = 'active'")
    bench.engine.tenancy._read_at = float("-inf")
    assert await bench.redrive("shop", parked.id)


async def test_an_unknown_tenant_is_registered_in_a_development_home_only(bench: Bench) -> None:
    assert (
        await bench.deliver("shop", await bench.of(Put(basket_id=uuid4(), amount=1), topic=IN, tenant="new"))
    ).applied
    bench.engine.tenancy._development = False
    counts = await bench.deliver(
        "shop", await bench.of(Put(basket_id=uuid4(), amount=1), topic=IN, tenant="newer")
    )
    assert (counts.parked, await bench.reasons()) == (1, ["unknown_tenant"])


async def test_types_that_do_not_belong_are_parked(bench: Bench) -> None:
    put = Put(basket_id=uuid4(), amount=1)
    not_public = await bench.of(Closed(till_id=uuid4()), topic=IN)
    unknown = await bench.of(put, topic=IN)
    unknown = replace(
        unknown,
        headers=[
            (n, b"shop.Nonsense" if n == "ce_type" else v) for n, v in unknown.headers if n != "ce_dataschema"
        ],
    )
    astray = await bench.of(put, topic=EVENTS)
    await bench.deliver("shop", not_public, unknown, astray)
    assert await bench.reasons() == ["not_public", "unknown_type", "wrong_topic"]
    assert (await bench.parked())[1].type == "shop.Nonsense"


async def test_an_upcaster_that_raises_holds_up_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: PutV1) -> Put:
        raise TypeError("never seen one of these")

    monkeypatch.setattr(PutV1, "upcast", broken)
    old = replace(await bench.of(Put(basket_id=uuid4(), amount=1), topic=IN))
    headers = [(n, b"urn:triplane:shop.Put:1" if n == "ce_dataschema" else v) for n, v in old.headers]
    body = json.dumps({"basket_id": str(uuid4()), "dozens": 1}).encode()
    counts = await bench.deliver(
        "shop",
        replace(old, headers=headers, value=body),
        await bench.of(Put(basket_id=uuid4(), amount=2), topic=IN),
    )
    assert (counts.applied, await bench.reasons()) == (1, ["contract_raised"])


async def test_an_old_version_is_upcast_and_an_unknown_one_is_parked(bench: Bench) -> None:
    basket = uuid4()
    put = await bench.of(Put(basket_id=basket, amount=1), topic=IN)

    def version(number: bytes, body: bytes) -> list[tuple[str, bytes | None]]:
        del body
        return [
            (n, b"urn:triplane:shop.Put:" + number if n == "ce_dataschema" else v) for n, v in put.headers
        ]

    old = replace(put, value=f'{{"basket_id": "{basket}", "dozens": 2}}'.encode(), headers=version(b"1", b""))
    unknown = replace(
        bench.again(put), headers=[(n, b"m9" if n == "ce_id" else v) for n, v in version(b"3", b"")]
    )
    counts = await bench.deliver("shop", old, unknown)
    assert (counts.applied, counts.parked) == (1, 1)
    (aggregate,) = await bench.rows("aggregates")
    assert json.loads(aggregate["state"])["total"] == 24
    assert await bench.reasons() == ["unknown_version"]


async def test_personal_values_are_sealed_wherever_they_rest(bench: Bench) -> None:
    member = uuid4()
    join = await bench.of(Join(member_id=member, email="ada@example.org"), topic=IN)
    await bench.deliver("shop", join)
    (joined,) = await bench.published()
    await bench.deliver("projections.members", joined)
    everything = [str(joined.value)]
    for schema, tables in {
        "shop": ["aggregates", "events", "claims", "inbox"],
        "projections": ["members_g1"],
    }.items():
        everything += [str(await bench.rows(table, schema)) for table in tables]
    assert "ada@" not in "".join(everything)
    assert "sealed" in everything[0]
    assert NOON.year == 2026
