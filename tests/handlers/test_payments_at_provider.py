"""What the provider answers becomes a command to the decider: every answer of the port, from the call and from the look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from events import Message, Money, PersonId, ProductId
from events.payments import (
    CheckPayment,
    CheckRefund,
    PaymentCancelled,
    PaymentId,
    PaymentInitiated,
    PaymentLeftOpen,
    RecordCapture,
    RecordDecline,
    RecordPending,
    RecordPendingRefund,
    RecordRefund,
    RecordRefundDecline,
    RefundId,
    RefundRequested,
)
from handlers import OutcomeUnknown
from handlers.payments.provider import (
    Cancelled,
    Captured,
    CaptureOrder,
    Declined,
    Pending,
    RefundDeclined,
    Refunded,
    RefundOrder,
    RefundPendingAtProvider,
)
from tests.given import META_OF_TESTS, NOON, acting

PAYMENT, ADA, BOOK = PaymentId(UUID(int=1)), PersonId(UUID(int=2)), ProductId(UUID(int=3))
REFUND = RefundId(UUID(int=11))
TEN = Money(minor=1000, currency="EUR")

INITIATED = PaymentInitiated(
    payment_id=PAYMENT,
    customer_id=ADA,
    product_id=BOOK,
    amount=TEN,
    payment_method="pm_card_visa",
    initiated_at=NOON,
)
CANCELLED = PaymentCancelled(
    payment_id=PAYMENT, customer_id=ADA, provider_ref="pi_1", reason="asked", cancelled_at=NOON
)
REQUESTED = RefundRequested(
    payment_id=PAYMENT,
    refund_id=REFUND,
    customer_id=ADA,
    amount=TEN,
    provider="stripe",
    provider_ref="pi_1",
    reason="asked",
    requested_at=NOON,
)
CAPTURED = Captured("pi_1", TEN, NOON)
RECORD_CAPTURE = RecordCapture(
    payment_id=PAYMENT, provider="stripe", provider_ref="pi_1", amount=TEN, captured_at=NOON
)

PAYMENT_ANSWERS: list[tuple[Captured | Pending | Declined, Message]] = [
    (CAPTURED, RECORD_CAPTURE),
    (
        Pending("pi_1", "requires_action"),
        RecordPending(
            payment_id=PAYMENT, provider="stripe", provider_ref="pi_1", waits_for="requires_action"
        ),
    ),
    (
        Declined("declined", "N" * 300, retryable=True),
        RecordDecline(
            payment_id=PAYMENT,
            provider="stripe",
            provider_ref=None,
            code="declined",
            message="N" * 255,
            retryable=True,
        ),
    ),
]
REFUND_ANSWERS: list[tuple[Refunded | RefundPendingAtProvider | RefundDeclined, Message]] = [
    (
        Refunded("re_1", TEN, NOON),
        RecordRefund(
            payment_id=PAYMENT, refund_id=REFUND, provider_refund_ref="re_1", amount=TEN, refunded_at=NOON
        ),
    ),
    (
        RefundPendingAtProvider("re_1"),
        RecordPendingRefund(payment_id=PAYMENT, refund_id=REFUND, provider_refund_ref="re_1"),
    ),
    (
        RefundDeclined("expired", "", "re_1"),
        RecordRefundDecline(
            payment_id=PAYMENT,
            refund_id=REFUND,
            provider_refund_ref="re_1",
            code="expired",
            message="not said",
        ),
    ),
]


@dataclass
class Provider:
    """A provider that gives one answer to everything, or fails, and remembers what it was asked."""

    answer: Any
    name: str = "stripe"
    asked: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])

    def _say(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def capture(self, order: CaptureOrder, idempotency_key: str) -> Any:
        return self._say("capture", order, idempotency_key)

    async def find_capture(self, tenant: str, payment_id: UUID) -> Any:
        return self._say("find_capture", tenant, payment_id)

    async def cancel(self, provider_ref: str, idempotency_key: str) -> Any:
        return self._say("cancel", provider_ref, idempotency_key)

    async def refund(self, order: RefundOrder, idempotency_key: str) -> Any:
        return self._say("refund", order, idempotency_key)

    async def find_refund(self, tenant: str, refund_id: UUID, provider_ref: str) -> Any:
        return self._say("find_refund", tenant, refund_id, provider_ref)

    async def retrieve(self, provider_ref: str) -> Any:
        return self._say("retrieve", provider_ref)


@pytest.mark.parametrize(("answer", "outcome"), PAYMENT_ANSWERS)
async def test_a_capture_and_the_look_for_it_tell_the_same(answer: Any, outcome: Message) -> None:
    provider = Provider(answer)
    assert await acting("payments.capture", INITIATED, provider) == outcome
    assert await acting("payments.capture", INITIATED, provider, find=True) == outcome
    check = CheckPayment(payment_id=PAYMENT, provider_ref="pi_1")
    assert await acting("payments.check_payment", check, provider) == outcome
    assert await acting("payments.check_payment", check, provider, find=True) == outcome
    order = CaptureOrder(META_OF_TESTS.tenant, PAYMENT, ADA, BOOK, TEN, "pm_card_visa")
    assert provider.asked[:2] == [
        ("capture", order, "key-1"),
        ("find_capture", META_OF_TESTS.tenant, PAYMENT),
    ]


@pytest.mark.parametrize(("answer", "outcome"), REFUND_ANSWERS)
async def test_a_refund_and_the_look_for_it_tell_the_same(answer: Any, outcome: Message) -> None:
    provider = Provider(answer)
    assert await acting("payments.refund_at_provider", REQUESTED, provider) == outcome
    assert await acting("payments.refund_at_provider", REQUESTED, provider, find=True) == outcome
    check = CheckRefund(payment_id=PAYMENT, refund_id=REFUND, provider_ref="pi_1")
    assert await acting("payments.check_refund", check, provider) == outcome
    order = RefundOrder(META_OF_TESTS.tenant, PAYMENT, REFUND, "pi_1", TEN)
    assert provider.asked[0] == ("refund", order, "key-1")


async def test_what_is_known_not_to_have_happened_is_tried() -> None:
    assert await acting("payments.capture", INITIATED, Provider(None), find=True) is None
    assert await acting("payments.refund_at_provider", REQUESTED, Provider(None), find=True) is None


@pytest.mark.parametrize("name", ["payments.capture", "payments.refund_at_provider"])
async def test_a_lost_answer_stays_unknown(name: str) -> None:
    message = INITIATED if name == "payments.capture" else REQUESTED
    with pytest.raises(OutcomeUnknown):
        await acting(name, message, Provider(OutcomeUnknown("timeout")))


@pytest.mark.parametrize("message", [CANCELLED, PaymentLeftOpen(payment_id=PAYMENT, provider_ref="pi_1")])
async def test_what_is_held_open_is_dropped_unless_the_money_was_taken(message: Message) -> None:
    assert await acting("payments.cancel_at_provider", message, Provider(Cancelled("pi_1"))) is None
    assert await acting("payments.cancel_at_provider", message, Provider(CAPTURED)) == RECORD_CAPTURE
    assert await acting("payments.cancel_at_provider", message, Provider(LookupError("pi_1"))) is None
    assert (
        await acting("payments.cancel_at_provider", message, Provider(CAPTURED), find=True) == RECORD_CAPTURE
    )
    assert (
        await acting("payments.cancel_at_provider", message, Provider(Pending("pi_1", "")), find=True) is None
    )


async def test_nothing_is_dropped_where_nothing_is_held() -> None:
    provider = Provider(None)
    unsent = CANCELLED.model_copy(update={"provider_ref": None})
    assert await acting("payments.cancel_at_provider", unsent, provider) is None
    assert provider.asked == []


async def test_a_payment_of_another_provider_is_refunded_there() -> None:
    provider = Provider(None)
    elsewhere = REQUESTED.model_copy(update={"provider": "paystack"})
    outcome = await acting("payments.refund_at_provider", elsewhere, provider)
    assert isinstance(outcome, RecordRefundDecline)
    assert outcome.code == "other_provider"
    assert await acting("payments.refund_at_provider", elsewhere, provider, find=True) is None
    assert provider.asked == []


async def test_a_hint_at_what_the_provider_does_not_know_leads_nowhere() -> None:
    check = CheckPayment(payment_id=PAYMENT, provider_ref="pi_9")
    assert await acting("payments.check_payment", check, Provider(LookupError("pi_9"))) is None
    refund = CheckRefund(payment_id=PAYMENT, refund_id=REFUND, provider_ref="pi_9")
    assert await acting("payments.check_refund", refund, Provider(None)) is None
