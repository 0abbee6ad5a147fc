"""The adapter tells apart what happened, what did not, and what nobody knows; and never charges twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from events import Money
from handlers.payments.provider import (
    Cancelled,
    Captured,
    CaptureOrder,
    Declined,
    OutcomeUnknown,
    PaymentProvider,
    Pending,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefundDeclined,
    Refunded,
    RefundOrder,
    RefundPendingAtProvider,
)
from infra.stripe.provider import StripeProvider
from tests.stripe.running import KEY, Simulator, free_port, until


def order(method: str = "pm_card_visa", tenant: str = "demo-a") -> CaptureOrder:
    return CaptureOrder(tenant, uuid4(), uuid4(), uuid4(), Money(minor=1250, currency="EUR"), method)


def giving_back(of: CaptureOrder, captured: Captured, minor: int = 1250) -> RefundOrder:
    amount = Money(minor=minor, currency="EUR")
    return RefundOrder(of.tenant, of.payment_id, uuid4(), captured.provider_ref, amount)


async def capture(provider: StripeProvider, of: CaptureOrder) -> Captured:
    taken = await provider.capture(of, f"{of.payment_id}:1")
    assert isinstance(taken, Captured)
    return taken


def test_it_is_a_payment_provider() -> None:
    provider: PaymentProvider = StripeProvider(KEY)
    assert provider.name == "stripe"


async def test_a_capture_is_found_again(provider: StripeProvider) -> None:
    asked = order()
    taken = await capture(provider, asked)
    assert taken.amount == asked.amount
    assert datetime.now(UTC) - taken.captured_at < timedelta(minutes=1)
    assert await provider.capture(asked, f"{asked.payment_id}:1") == taken
    assert await provider.find_capture(asked.tenant, asked.payment_id) == taken
    assert await provider.retrieve(taken.provider_ref) == taken


async def test_nobody_finds_another_tenants_payment(provider: StripeProvider) -> None:
    asked = order()
    taken = await capture(provider, asked)
    assert await provider.find_capture("demo-b", asked.payment_id) is None
    theirs = replace(giving_back(asked, taken), tenant="demo-b")
    assert await provider.refund(theirs, "k") == RefundDeclined(
        "payment_of_another", f"{taken.provider_ref} was made for another payment"
    )


@pytest.mark.parametrize(
    ("method", "code", "retryable"),
    [
        ("pm_card_chargeDeclined", "generic_decline", False),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds", True),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", False),
        ("pm_of_nobody", "resource_missing", False),
    ],
)
async def test_declines_are_told(
    provider: StripeProvider, method: str, code: str, *, retryable: bool
) -> None:
    asked = order(method)
    declined = await provider.capture(asked, "k" + str(asked.payment_id))
    assert isinstance(declined, Declined)
    assert (declined.code, declined.retryable) == (code, retryable)
    found = await provider.find_capture(asked.tenant, asked.payment_id)
    assert found == (declined if declined.provider_ref else None)


@pytest.mark.parametrize(("minor", "currency"), [(0, "EUR"), (5124, "KWD"), (1250, "MGA")])
async def test_impossible_amounts_are_declined(provider: StripeProvider, minor: int, currency: str) -> None:
    asked = replace(order(), amount=Money(minor=minor, currency=currency))
    assert isinstance(await provider.capture(asked, str(asked.payment_id)), Declined)


@pytest.mark.parametrize("currency", ["JPY", "ISK", "UGX", "KWD", "MGA"])
async def test_every_currency_comes_back_as_it_went(provider: StripeProvider, currency: str) -> None:
    asked = replace(order(), amount=Money(minor=1200, currency=currency))
    assert (await capture(provider, asked)).amount == asked.amount


async def test_what_waits_for_the_payer_is_pending(provider: StripeProvider, simulator: Simulator) -> None:
    asked = order("pm_card_authenticationRequired")
    waiting = await provider.capture(asked, str(asked.payment_id))
    assert isinstance(waiting, Pending)
    assert waiting.reason == "requires_action"
    assert await provider.find_capture(asked.tenant, asked.payment_id) == waiting
    await simulator.control("POST", f"/payment_intents/{waiting.provider_ref}/authenticate", accepted=True)
    assert isinstance(await provider.find_capture(asked.tenant, asked.payment_id), Captured)


async def test_a_later_attempt_counts_over_a_declined_one(provider: StripeProvider) -> None:
    asked = order("pm_card_chargeDeclined")
    await provider.capture(asked, f"{asked.payment_id}:1")
    taken = await provider.capture(replace(asked, payment_method="pm_card_visa"), f"{asked.payment_id}:2")
    assert isinstance(taken, Captured)
    assert await provider.find_capture(asked.tenant, asked.payment_id) == taken


async def test_cancelling_ends_a_payment_unless_it_is_captured(provider: StripeProvider) -> None:
    waiting = await provider.capture(order("pm_card_authenticationRequired"), str(uuid4()))
    assert isinstance(waiting, Pending)
    for _ in range(2):
        assert await provider.cancel(waiting.provider_ref, "c" + waiting.provider_ref) == Cancelled(
            waiting.provider_ref
        )
    assert isinstance(await provider.retrieve(waiting.provider_ref), Declined)
    taken = await capture(provider, order())
    assert await provider.cancel(taken.provider_ref, "c") == taken
    with pytest.raises(LookupError):
        await provider.cancel("pi_unknown", "c")


async def test_refunds_are_found_again(provider: StripeProvider) -> None:
    asked = order()
    taken = await capture(provider, asked)
    wish = giving_back(asked, taken, 500)
    assert await provider.find_refund(wish.tenant, wish.refund_id, wish.provider_ref) is None
    given = await provider.refund(wish, str(wish.refund_id))
    assert isinstance(given, Refunded)
    assert given.amount == wish.amount
    assert await provider.refund(wish, str(wish.refund_id)) == given
    assert await provider.find_refund(wish.tenant, wish.refund_id, wish.provider_ref) == given
    assert await provider.find_refund("demo-b", wish.refund_id, wish.provider_ref) is None
    too_much = giving_back(asked, taken, 1000)
    assert isinstance(await provider.refund(too_much, str(too_much.refund_id)), RefundDeclined)


async def test_a_refund_of_an_unknown_payment_is_declined(provider: StripeProvider) -> None:
    wish = RefundOrder("demo-a", uuid4(), uuid4(), "pi_of_nobody", Money(minor=1, currency="EUR"))
    declined = await provider.refund(wish, str(wish.refund_id))
    assert isinstance(declined, RefundDeclined)
    assert declined.code == "resource_missing"
    assert await provider.find_refund("demo-a", wish.refund_id, "pi_of_nobody") is None


async def test_a_payment_made_elsewhere_can_be_refunded(
    provider: StripeProvider, simulator: Simulator
) -> None:
    async with simulator.sdk() as client:
        intent = await client.v1.payment_intents.create_async(
            {"amount": 100, "currency": "eur", "payment_method": "pm_card_visa", "confirm": True}
        )
    wish = RefundOrder("demo-a", uuid4(), uuid4(), intent.id, Money(minor=100, currency="EUR"))
    assert isinstance(await provider.refund(wish, str(wish.refund_id)), Refunded)


async def test_a_pending_refund_is_not_a_refund_yet(provider: StripeProvider) -> None:
    asked = order("pm_card_pendingRefund")
    wish = giving_back(asked, await capture(provider, asked))
    assert isinstance(await provider.refund(wish, str(wish.refund_id)), RefundPendingAtProvider)

    async def refunded() -> bool:
        found = await provider.find_refund(wish.tenant, wish.refund_id, wish.provider_ref)
        return isinstance(found, Refunded)

    await until(refunded)


async def test_missed_events_are_told(provider: StripeProvider, simulator: Simulator) -> None:
    await simulator.control("POST", "/manners", paused=True)
    taken = await capture(provider, order())
    since = datetime.now(UTC) - timedelta(minutes=1)
    missed = [event.object["id"] async for event in provider.missed_events(since)]
    await simulator.control("POST", "/manners", paused=False)
    assert taken.provider_ref in missed


async def test_the_outcome_of_a_500_is_unknown_until_found(
    provider: StripeProvider, simulator: Simulator
) -> None:
    for kind, expected in (("500_after_charge", Captured), ("500_before_charge", type(None))):
        asked = order()
        await simulator.fault(kind)
        with pytest.raises(OutcomeUnknown):
            await provider.capture(asked, str(asked.payment_id))
        assert isinstance(await provider.find_capture(asked.tenant, asked.payment_id), expected)


async def test_silence_is_an_unknown_outcome(simulator: Simulator) -> None:
    hasty = StripeProvider(KEY, simulator.base, timeout=0.5)
    asked = order()
    await simulator.fault("timeout_after_charge")
    with pytest.raises(OutcomeUnknown):
        await hasty.capture(asked, str(asked.payment_id))
    assert isinstance(await hasty.find_capture(asked.tenant, asked.payment_id), Captured)
    assert isinstance(await hasty.capture(asked, str(asked.payment_id)), Captured)
    await hasty.aclose()


async def test_a_refund_with_a_lost_answer_is_found(provider: StripeProvider, simulator: Simulator) -> None:
    asked = order()
    wish = giving_back(asked, await capture(provider, asked))
    await simulator.fault("500_after_charge", resource="refunds")
    with pytest.raises(OutcomeUnknown):
        await provider.refund(wish, str(wish.refund_id))
    assert isinstance(await provider.find_refund(wish.tenant, wish.refund_id, wish.provider_ref), Refunded)


async def test_a_charge_that_search_does_not_know_yet_is_found(
    provider: StripeProvider, simulator: Simulator
) -> None:
    await simulator.control("POST", "/manners", search_lag=60)
    asked = order()
    taken = await capture(provider, asked)
    async with simulator.sdk() as client:
        query = f"metadata['payment_id']:'{asked.payment_id}'"
        assert (await client.v1.payment_intents.search_async({"query": query})).data == []
    assert await provider.find_capture(asked.tenant, asked.payment_id) == taken
    await simulator.control("POST", "/manners", search_lag=0)


async def test_where_nothing_was_done_the_call_may_be_repeated(
    provider: StripeProvider, simulator: Simulator
) -> None:
    asked = order()
    nobody = StripeProvider(KEY, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ProviderUnavailable):
        await nobody.capture(asked, str(asked.payment_id))
    await nobody.aclose()
    await simulator.fault("429")
    with pytest.raises(ProviderUnavailable):
        await provider.capture(asked, str(asked.payment_id))
    assert await provider.find_capture(asked.tenant, asked.payment_id) is None


async def test_a_wrong_key_is_no_decline(simulator: Simulator) -> None:
    stranger = StripeProvider("sk_test_wrong", simulator.base)
    with pytest.raises(ProviderMisconfigured, match="check key"):
        await stranger.capture(order(), "k")
    with pytest.raises(ProviderMisconfigured):
        await stranger.find_capture("demo-a", uuid4())
    await stranger.aclose()


async def test_a_key_for_two_orders_is_our_mistake(provider: StripeProvider) -> None:
    key = str(uuid4())
    await provider.capture(order(), key)
    with pytest.raises(ProviderMisconfigured):
        await provider.capture(order(), key)


def once(payment_id: UUID, _: int) -> str:
    return str(payment_id)


def fresh(payment_id: UUID, attempt: int) -> str:
    """Break the rule that one effect has one key."""
    return f"{payment_id}:{attempt}"


async def _charge_all(
    provider: StripeProvider, orders: list[CaptureOrder], key: Callable[[UUID, int], str]
) -> None:
    """Do what a lane does: look before trying again (unless it is the mutant), until there is an outcome."""
    at_once = asyncio.Semaphore(8)

    async def charge(asked: CaptureOrder) -> None:
        for attempt in range(20):
            try:
                await provider.capture(asked, key(asked.payment_id, attempt))
            except OutcomeUnknown:
                if key is fresh or not await provider.find_capture(asked.tenant, asked.payment_id):
                    continue
            return
        raise AssertionError(asked)

    async def bounded(asked: CaptureOrder) -> None:
        async with at_once:
            await charge(asked)

    await asyncio.gather(*(bounded(asked) for asked in orders))


async def test_a_fifth_of_the_answers_lost_is_still_one_charge_each(
    provider: StripeProvider, simulator: Simulator
) -> None:
    before = await simulator.control("GET", "")
    await simulator.fault("500_after_charge", rate=0.2, seed=28)
    await _charge_all(provider, [order() for _ in range(200)], once)
    after = await simulator.control("GET", "")
    assert after["charged"] - before["charged"] == 200
    assert after["charged_again"] == before["charged_again"]


async def test_mutant_a_fresh_key_per_try_charges_twice(
    provider: StripeProvider, simulator: Simulator
) -> None:
    before = await simulator.control("GET", "")
    await simulator.fault("500_after_charge", rate=0.2, seed=28)
    await _charge_all(provider, [order() for _ in range(50)], fresh)
    after = await simulator.control("GET", "")
    assert after["charged_again"] > before["charged_again"]
