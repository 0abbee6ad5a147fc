"""The official SDK finds Stripe behind the simulator: its idempotency, its lists, its webhooks; and kills change nothing."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import stripe

from infra.stripe.webhooks import EVENT_TYPES, verify
from tests.stripe.running import KEY, SECRET, Hooks, Simulator, http, until


def charging(**more: Any) -> Any:
    return {"amount": 1250, "currency": "eur", "payment_method": "pm_card_visa", "confirm": True, **more}


def body(intent: stripe.PaymentIntent) -> Any:
    return intent.to_dict()


async def post(simulator: Simulator, path: str, key: str, **fields: str) -> httpx.Response:
    async with http() as client:
        headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": key}
        return await client.post(f"{simulator.base}{path}", data=fields, headers=headers)


FIELDS = {"amount": "100", "currency": "eur", "payment_method": "pm_card_visa", "confirm": "true"}


async def test_the_same_key_means_the_same_request(simulator: Simulator) -> None:
    key = str(uuid4())
    first = await post(simulator, "/v1/payment_intents", key, **FIELDS)
    again = await post(simulator, "/v1/payment_intents", key, **FIELDS)
    assert (first.status_code, "Idempotent-Replayed" in first.headers) == (200, False)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    other = await post(simulator, "/v1/payment_intents", key, **FIELDS | {"amount": "101"})
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    elsewhere = await post(simulator, "/v1/refunds", key, payment_intent=first.json()["id"])
    assert (elsewhere.status_code, elsewhere.json()["error"]["type"]) == (400, "idempotency_error")


async def test_only_one_of_many_with_one_key_is_executed(simulator: Simulator) -> None:
    key, tag = str(uuid4()), str(uuid4())
    fields = FIELDS | {"metadata[tag]": tag}
    answers = await asyncio.gather(*(post(simulator, "/v1/payment_intents", key, **fields) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert all(
        answer.json()["error"]["code"] == "idempotency_key_in_use"
        for answer in answers
        if answer.status_code == 409
    )
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    async with simulator.sdk() as client:
        found = await client.v1.payment_intents.search_async({"query": f"metadata['tag']:'{tag}'"})
        assert len(found.data) == 1


async def test_a_decline_is_remembered_and_a_wrong_field_is_not(simulator: Simulator) -> None:
    key = str(uuid4())
    wrong = await post(simulator, "/v1/payment_intents", key, **FIELDS | {"amount": "none"})
    assert wrong.status_code == 400
    declining = FIELDS | {"payment_method": "pm_card_chargeDeclined"}
    first = await post(simulator, "/v1/payment_intents", key, **declining)
    again = await post(simulator, "/v1/payment_intents", key, **declining)
    assert first.status_code == again.status_code == 402
    assert first.content == again.content


async def test_the_first_answer_is_replayed_even_if_it_was_a_500(simulator: Simulator) -> None:
    await simulator.fault("500_after_charge")
    key = str(uuid4())
    first = await post(simulator, "/v1/payment_intents", key, **FIELDS)
    again = await post(simulator, "/v1/payment_intents", key, **FIELDS)
    assert first.status_code == again.status_code == 500
    assert (again.headers["Idempotent-Replayed"], again.headers["Stripe-Should-Retry"]) == ("true", "false")


async def test_an_unavailable_stripe_remembers_nothing(simulator: Simulator) -> None:
    await simulator.fault("503")
    key = str(uuid4())
    assert (await post(simulator, "/v1/payment_intents", key, **FIELDS)).status_code == 503
    again = await post(simulator, "/v1/payment_intents", key, **FIELDS)
    assert (again.status_code, "Idempotent-Replayed" in again.headers) == (200, False)


async def test_the_sdk_retries_what_stripe_asks_it_to(simulator: Simulator) -> None:
    await simulator.fault("503", count=2)
    async with simulator.sdk(retries=2) as client:
        assert (await client.v1.payment_intents.create_async(charging())).status == "succeeded"


async def test_errors_arrive_as_the_sdk_knows_them(simulator: Simulator) -> None:
    async with simulator.sdk() as client:
        with pytest.raises(stripe.CardError) as declined:
            await client.v1.payment_intents.create_async(
                charging(payment_method="pm_card_visa_chargeDeclinedLostCard")
            )
        assert declined.value.code == "card_declined"
        assert declined.value.error
        assert declined.value.error.decline_code == "lost_card"
        assert declined.value.error.payment_intent
        assert declined.value.error.payment_intent.status == "requires_payment_method"
        assert declined.value.request_id
        with pytest.raises(stripe.InvalidRequestError) as unknown:
            await client.v1.payment_intents.retrieve_async("pi_unknown")
        assert (unknown.value.http_status, unknown.value.code) == (404, "resource_missing")
        with pytest.raises(stripe.InvalidRequestError) as method:
            await client.v1.payment_intents.create_async(charging(payment_method="pm_unknown"))
        assert (method.value.http_status, method.value.param) == (400, "payment_method")
    async with simulator.sdk(key="sk_test_wrong") as client:
        with pytest.raises(stripe.AuthenticationError):
            await client.v1.payment_intents.retrieve_async("pi_unknown")


async def test_lists_and_searches_page_through_everything_once(simulator: Simulator) -> None:
    tag = str(uuid4())
    async with simulator.sdk() as client:
        intents = client.v1.payment_intents
        made = [
            (await intents.create_async(charging(metadata={"tag": tag, "quote": "it's"}))).id
            for _ in range(7)
        ]
        listed = await intents.list_async({"limit": 3, "created": {"gte": int(time.time()) - 60}})
        seen = [intent.id async for intent in listed.auto_paging_iter()]
        assert [id_ for id_ in seen if id_ in made] == made[::-1]
        assert len(seen) == len(set(seen))
        searched = await intents.search_async(
            {
                "query": f"status:'succeeded' AND metadata['tag']:'{tag}'",
                "limit": 3,
                "expand": ["data.latest_charge"],
            }
        )
        found = [intent async for intent in searched.auto_paging_iter()]
        assert [intent.id for intent in found] == made[::-1]
        assert all(isinstance(intent.latest_charge, stripe.Charge) for intent in found)
        with pytest.raises(stripe.InvalidRequestError):
            await intents.search_async({"query": "amount>100"})
        old = await intents.list_async({"created": {"lt": 1000}})
        assert old.data == []


async def test_concurrent_refunds_never_give_back_too_much(simulator: Simulator) -> None:
    async with simulator.sdk() as client:
        intent = await client.v1.payment_intents.create_async(charging())

        async def give_back() -> int:
            try:
                refund = await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 500})
            except stripe.InvalidRequestError:
                return 0
            return refund.amount

        assert sum(await asyncio.gather(*(give_back() for _ in range(6)))) == 1000
        charge = await client.v1.charges.retrieve_async(str(intent.latest_charge))
        assert charge.amount_refunded == 1000
        listed = await client.v1.refunds.list_async({"payment_intent": intent.id})
        assert len(listed.data) == 2


async def test_webhooks_are_signed_repeated_and_out_of_order(simulator: Simulator, hooks: Hooks) -> None:
    await simulator.control("POST", "/manners", duplicates=0.5, delay=0.5, seed=7)
    hooks.status = 500
    async with simulator.sdk() as client:
        intents = [await client.v1.payment_intents.create_async(charging()) for _ in range(12)]

    async def refused_some() -> bool:
        return len(hooks.taken) > 3

    await until(refused_some)
    hooks.status = 200
    hooks.taken.clear()
    ours = {intent.id for intent in intents}

    def order() -> list[str]:
        told = [json.loads(hook.body)["data"]["object"]["id"] for hook in hooks.taken]
        return [id_ for id_ in told if id_ in ours]

    async def all_and_more() -> bool:
        return set(order()) == ours and len(order()) > len(ours)

    await until(all_and_more)
    assert list(dict.fromkeys(order())) != [intent.id for intent in intents]
    for hook in hooks.taken:
        event = verify(hook.body, hook.signature, [SECRET], hook.at, livemode=False)
        assert event.type in EVENT_TYPES
        assert stripe.WebhookSignature.verify_header(hook.body.decode(), hook.signature, SECRET, 300)


async def test_events_say_what_no_webhook_delivered(simulator: Simulator) -> None:
    since = int(time.time())
    await simulator.control("POST", "/manners", paused=True)
    async with simulator.sdk() as client:
        intent = await client.v1.payment_intents.create_async(charging())
        missed = await client.v1.events.list_async(
            {"created": {"gte": since}, "delivery_success": False, "types": sorted(EVENT_TYPES), "limit": 100}
        )
        assert intent.id in [event.data.object["id"] for event in missed.data]
        every = await client.v1.events.list_async({"type": "payment_intent.created", "limit": 1})
        assert every.data[0].data.object["id"] == intent.id
    await simulator.control("POST", "/manners", paused=False, duplicates=0, delay=0)


@pytest.mark.parametrize(
    ("method", "first", "last"),
    [("pm_card_pendingRefund", "pending", "succeeded"), ("pm_card_refundFail", "succeeded", "failed")],
)
async def test_a_refund_may_end_later(simulator: Simulator, method: str, first: str, last: str) -> None:
    async with simulator.sdk() as client:
        intent = await client.v1.payment_intents.create_async(charging(payment_method=method))
        refund = await client.v1.refunds.create_async({"payment_intent": intent.id})
        assert refund.status == first

        async def ended() -> bool:
            return (await client.v1.refunds.retrieve_async(refund.id)).status == last

        await until(ended)


async def test_a_payer_can_be_asked(simulator: Simulator) -> None:
    async with simulator.sdk() as client:
        method = "pm_card_authenticationRequired"
        intent = await client.v1.payment_intents.create_async(charging(payment_method=method))
        assert intent.status == "requires_action"
        await simulator.control("POST", f"/payment_intents/{intent.id}/authenticate", accepted=True)
        assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == "succeeded"


async def test_lost_database_connections_are_made_again(simulator: Simulator) -> None:
    connection = await asyncpg.connect(simulator.database)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()
    key = str(uuid4())

    async def answered() -> bool:
        return (await post(simulator, "/v1/payment_intents", key, **FIELDS)).status_code == 200

    await until(answered, seconds=5)


async def test_kills_lose_nothing_and_repeat_nothing(simulator: Simulator, hooks: Hooks) -> None:
    """Callers repeat their keys across six kills: one charge each, and every webhook comes."""
    await simulator.control("POST", "/manners", duplicates=0, delay=0.1)
    charged: dict[str, str] = {}
    stop = asyncio.Event()

    async def customer(number: int) -> None:
        count = 0
        async with http() as client:
            while not stop.is_set():
                tag = f"{number}-{count}"
                fields = FIELDS | {"metadata[tenant]": "kills", "metadata[payment_id]": tag}
                headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": f"kills-{tag}"}
                try:
                    answer = await client.post(
                        f"{simulator.base}/v1/payment_intents", data=fields, headers=headers
                    )
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                if answer.status_code == 200:
                    charged[tag] = answer.json()["id"]
                    count += 1

    customers = [asyncio.create_task(customer(number)) for number in range(6)]
    for _ in range(6):
        await asyncio.sleep(0.3)
        simulator.kill()
        await asyncio.to_thread(simulator.start)
    await asyncio.sleep(0.3)
    stop.set()
    await asyncio.gather(*customers)
    counts = await simulator.control("GET", "")
    assert counts["charged_again"] == 0
    assert len(charged) == len(set(charged.values())) > 50

    async def delivered() -> bool:
        return not (await simulator.control("GET", ""))["undelivered"]

    await until(delivered, seconds=60)
    told = {json.loads(hook.body)["data"]["object"]["id"] for hook in hooks.taken}
    assert set(charged.values()) <= told


async def test_a_refund_may_name_the_charge(simulator: Simulator) -> None:
    async with simulator.sdk() as client:
        intent = await client.v1.payment_intents.create_async(charging())
        wish: Any = {"charge": str(intent.latest_charge), "expand": ["payment_intent", "charge"]}
        refund = await client.v1.refunds.create_async(wish)
        assert isinstance(refund.payment_intent, stripe.PaymentIntent)
        assert isinstance(refund.charge, stripe.Charge)
        assert (refund.payment_intent.id, refund.charge.refunded) == (intent.id, True)
        with pytest.raises(stripe.InvalidRequestError, match="No such"):
            await client.v1.refunds.create_async({"charge": "ch_unknown"})
