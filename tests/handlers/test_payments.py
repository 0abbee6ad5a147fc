"""Payments: completed once, never more back than came in, and no order of the provider's answers makes a difference."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import Command, Message, Money, PersonId, ProductId
from events.accounts import AccountClosed, AccountId, AccountReinstated, AccountSuspended
from events.payments import (
    CancellationRefused,
    CancelPayment,
    CompletionRefused,
    InitiatePayment,
    OutcomeRefused,
    PaymentCancelled,
    PaymentCompleted,
    PaymentFailed,
    PaymentId,
    PaymentInitiated,
    PaymentLeftOpen,
    PaymentMismatchDetected,
    PaymentPending,
    PaymentRefused,
    RecordCapture,
    RecordDecline,
    RecordPending,
    RecordPendingRefund,
    RecordRefund,
    RecordRefundDecline,
    RefundCompleted,
    RefundFailed,
    RefundId,
    RefundPending,
    RefundRefused,
    RefundRequested,
    RequestRefund,
    SurplusCaptured,
)
from handlers.payments.payment import Payment
from tests.given import NOON, Context, context, minutes, named, nth

PAYMENT, ADA, BOOK = PaymentId(UUID(int=1)), PersonId(UUID(int=2)), ProductId(UUID(int=3))
R1, R2 = RefundId(UUID(int=11)), RefundId(UUID(int=12))
ACCOUNT, OTHER_ACCOUNT = AccountId(UUID(int=21)), AccountId(UUID(int=22))


def euros(minor: int) -> Money:
    return Money(minor=minor, currency="EUR")


ORDER = InitiatePayment(
    payment_id=PAYMENT, customer_id=ADA, product_id=BOOK, amount=euros(1000), payment_method="pm_card_visa"
)
CANCEL = CancelPayment(payment_id=PAYMENT, reason="changed her mind")
DECLINED = RecordDecline(
    payment_id=PAYMENT,
    provider="stripe",
    provider_ref="pi_1",
    code="declined",
    message="No.",
    retryable=False,
)
PENDING = RecordPending(
    payment_id=PAYMENT, provider="stripe", provider_ref="pi_1", waits_for="requires_action"
)
COMPLETED = PaymentCompleted(
    payment_id=PAYMENT,
    customer_id=ADA,
    product_id=BOOK,
    amount=euros(1000),
    provider="stripe",
    provider_ref="pi_1",
    captured_at=minutes(1),
)
FAILED = PaymentFailed(
    payment_id=PAYMENT, customer_id=ADA, code="declined", message="No.", retryable=False, failed_at=NOON
)


def captured(minor: int = 1000, ref: str = "pi_1", currency: str = "EUR") -> RecordCapture:
    return RecordCapture(
        payment_id=PAYMENT,
        provider="stripe",
        provider_ref=ref,
        amount=Money(minor=minor, currency=currency),
        captured_at=minutes(1),
    )


def back(minor: int | None, refund_id: RefundId = R1, currency: str = "EUR") -> RequestRefund:
    amount = None if minor is None else Money(minor=minor, currency=currency)
    return RequestRefund(payment_id=PAYMENT, refund_id=refund_id, amount=amount, reason="asked")


def requested(minor: int, refund_id: RefundId = R1, **changed: Any) -> RefundRequested:
    return RefundRequested.model_validate(
        {
            "payment_id": PAYMENT,
            "refund_id": refund_id,
            "customer_id": ADA,
            "amount": euros(minor),
            "provider": "stripe",
            "provider_ref": "pi_1",
            "reason": "asked",
            "requested_at": NOON,
            **changed,
        }
    )


def gone(minor: int, refund_id: RefundId = R1) -> RecordRefund:
    return RecordRefund(
        payment_id=PAYMENT,
        refund_id=refund_id,
        provider_refund_ref="re_1",
        amount=euros(minor),
        refunded_at=minutes(9),
    )


def not_gone(refund_id: RefundId = R1) -> RecordRefundDecline:
    return RecordRefundDecline(
        payment_id=PAYMENT,
        refund_id=refund_id,
        provider_refund_ref=None,
        code="expired",
        message="Card expired.",
    )


def refund_completed(minor: int, kept: int, refund_id: RefundId = R1) -> RefundCompleted:
    return RefundCompleted(
        payment_id=PAYMENT,
        refund_id=refund_id,
        customer_id=ADA,
        amount=euros(minor),
        kept=euros(kept),
        activation_id=PAYMENT,
        refunded_at=minutes(9),
    )


def initiated() -> Context:
    return context("payments").given(ORDER)


def completed() -> Context:
    return initiated().given(captured())


# -- orders -------------------------------------------------------------------------------------------------------------


def test_a_payment_is_ordered_once() -> None:
    payments = context("payments").when(ORDER)
    payments.then(
        PaymentInitiated(
            payment_id=PAYMENT,
            customer_id=ADA,
            product_id=BOOK,
            amount=euros(1000),
            payment_method="pm_card_visa",
            initiated_at=NOON,
        )
    )
    payments.when(ORDER).refused(PaymentRefused, "payment_id: is initiated already")


def test_a_person_with_a_suspended_account_cannot_pay_until_it_is_lifted() -> None:
    suspended = AccountSuspended(account_id=ACCOUNT, person_id=ADA, reason="fraud", suspended_at=NOON)
    lifted = AccountReinstated(account_id=ACCOUNT, person_id=ADA, reason="cleared", reinstated_at=NOON)
    payments = context("payments").given(suspended).when(ORDER)
    payments.refused(PaymentRefused, f"customer_id: the account {ACCOUNT} is suspended")
    assert named(payments.given(lifted).when(ORDER).answer) == ["PaymentInitiated"]


def test_suspensions_of_two_accounts_of_a_person_are_told_apart() -> None:
    first = AccountSuspended(account_id=ACCOUNT, person_id=ADA, reason="fraud", suspended_at=NOON)
    second = AccountSuspended(account_id=OTHER_ACCOUNT, person_id=ADA, reason="fraud", suspended_at=NOON)
    closed = AccountClosed(
        account_id=ACCOUNT, person_id=ADA, reason="done", onboarding_id=None, closed_at=NOON
    )
    context("payments").given(first, second, second, closed).when(ORDER).refused(
        PaymentRefused, str(OTHER_ACCOUNT)
    )


def test_a_payment_that_waits_can_be_given_up() -> None:
    initiated().given(PENDING).when(CANCEL).then(
        PaymentCancelled(
            payment_id=PAYMENT,
            customer_id=ADA,
            provider_ref="pi_1",
            reason="changed her mind",
            cancelled_at=NOON,
        )
    )


def test_a_payment_whose_money_came_in_is_refunded_not_cancelled() -> None:
    completed().when(CANCEL).refused(
        CancellationRefused, "is completed, only an initiated or failed payment can be"
    )
    assert "request a refund" in completed().when(CANCEL).answer[0].model_dump()["reason"]
    context("payments").when(CANCEL).refused(CancellationRefused, "is new")


# -- adoption -----------------------------------------------------------------------------------------------------------


def test_a_payment_made_elsewhere_is_adopted_once() -> None:
    payments = context("payments").when(COMPLETED).then(COMPLETED)
    payments.when(COMPLETED).then()
    payments.when(captured()).then()


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"amount": euros(999)}, "amount"),
        ({"amount": Money(minor=1000, currency="USD")}, "amount"),
        ({"customer_id": PersonId(UUID(int=9)), "captured_at": NOON}, "customer_id, captured_at"),
        ({"provider_ref": "pi_2"}, "provider_ref"),
    ],
)
def test_another_content_under_a_known_id_is_refused_by_the_field(
    changed: dict[str, Any], fields: str
) -> None:
    payments = context("payments").given(COMPLETED).when(COMPLETED.model_copy(update=changed))
    payments.refused(CompletionRefused, f"{fields}: differ")


def test_a_completion_from_upstream_of_what_is_ordered_here_is_refused() -> None:
    initiated().when(COMPLETED).refused(CompletionRefused, "only the provider completes it")
    completed().when(COMPLETED).then()


def test_an_adopted_payment_can_be_refunded() -> None:
    payments = context("payments").given(COMPLETED).when(back(None)).then(requested(1000))
    payments.when(gone(1000)).then(refund_completed(1000, kept=0))


# -- what the provider says -----------------------------------------------------------------------------------------------


def test_a_capture_completes_the_payment_once() -> None:
    initiated().when(captured()).then(COMPLETED)
    completed().when(captured()).then()


def test_a_decline_fails_the_payment_once_and_never_undoes_a_capture() -> None:
    initiated().when(DECLINED).then(FAILED)
    initiated().given(DECLINED).when(DECLINED).then()
    completed().when(DECLINED).then()


def test_a_capture_after_a_decline_completes_the_payment() -> None:
    initiated().given(DECLINED).when(captured()).then(COMPLETED)


def test_a_payment_pends_once() -> None:
    payments = initiated().when(PENDING)
    payments.then(
        PaymentPending(
            payment_id=PAYMENT, provider="stripe", provider_ref="pi_1", waits_for="requires_action"
        )
    )
    payments.when(PENDING).then()
    initiated().given(DECLINED).when(PENDING).then()
    completed().when(PENDING).then()


def test_a_capture_after_the_cancellation_goes_back_at_once() -> None:
    payments = initiated().given(CANCEL).when(captured())
    payments.then(
        SurplusCaptured(
            payment_id=PAYMENT,
            customer_id=ADA,
            amount=euros(1000),
            provider="stripe",
            provider_ref="pi_1",
            captured_at=minutes(1),
        ),
        requested(1000, RefundId(nth(1)), reason="captured when the payment was cancelled already"),
    )
    payments.when(captured()).then()
    payments.when(gone(1000, RefundId(nth(1))))
    (done,) = payments.answer
    assert isinstance(done, RefundCompleted)
    assert done.activation_id is None, "nobody was ever given access for it"


def test_a_second_capture_goes_back_and_the_first_stays() -> None:
    payments = completed().when(captured(ref="pi_2"))
    assert named(payments.answer) == ["SurplusCaptured", "RefundRequested"]
    payments.when(back(1000)).then(requested(1000))


def test_what_the_provider_still_holds_open_after_a_cancellation_is_dropped_there() -> None:
    payments = initiated().given(CANCEL).when(PENDING)
    payments.then(PaymentLeftOpen(payment_id=PAYMENT, provider_ref="pi_1"))
    payments.when(PENDING).then()


@pytest.mark.parametrize("observed", [captured(999), captured(1001), captured(currency="USD")])
def test_another_amount_than_ordered_delivers_nothing_and_can_go_back(observed: RecordCapture) -> None:
    payments = initiated().when(observed)
    payments.then(
        PaymentMismatchDetected(
            payment_id=PAYMENT,
            customer_id=ADA,
            concerns="capture",
            expected=euros(1000),
            observed=observed.amount,
            provider="stripe",
            provider_ref="pi_1",
            detected_at=NOON,
        )
    )
    payments.when(observed).then()
    payments.when(back(None)).then(requested(1000, amount=observed.amount))


def test_what_nobody_ordered_is_refused() -> None:
    payments = context("payments")
    of_payments: list[Command] = [captured(), PENDING, DECLINED]
    for answer in of_payments:
        payments.when(answer).refused(OutcomeRefused, "payment_id: no such payment")
    taken_in = RecordPendingRefund(payment_id=PAYMENT, refund_id=R1, provider_refund_ref="re_1")
    of_refunds: list[Command] = [gone(1), not_gone(), taken_in]
    for answer in of_refunds:
        completed().when(answer).refused(OutcomeRefused, f"refund_id: no refund {R1}")


# -- refunds --------------------------------------------------------------------------------------------------------------


def test_refunds_never_sum_up_to_more_than_was_captured() -> None:
    payments = completed().when(back(600)).then(requested(600))
    payments.when(back(401, R2)).refused(RefundRefused, "amount: only 400 EUR (minor units) can be refunded")
    payments.when(back(400, R2)).then(requested(400, R2))
    payments.when(back(None, RefundId(UUID(int=13)))).refused(RefundRefused, "only 0 EUR")


def test_a_refund_id_counts_once_whatever_became_of_it() -> None:
    payments = (
        completed().given(back(600)).when(back(600)).refused(RefundRefused, "refund_id: was requested before")
    )
    payments.given(not_gone()).when(back(600)).then(
        RefundRefused(
            payment_id=PAYMENT,
            refund_id=R1,
            known="failed",
            refundable=euros(1000),
            activation_id=PAYMENT,
            reason="refund_id: was requested before and is failed; use a new id for another refund",
        )
    )


def test_a_refund_needs_money_of_its_currency() -> None:
    initiated().when(back(1)).refused(RefundRefused, "payment_id: nothing was captured")
    completed().when(back(1, currency="USD")).refused(RefundRefused, "amount.currency: must be EUR")


def test_a_failed_refund_frees_the_money() -> None:
    payments = completed().given(back(1000)).when(not_gone())
    payments.then(
        RefundFailed(
            payment_id=PAYMENT,
            refund_id=R1,
            customer_id=ADA,
            amount=euros(1000),
            was="requested",
            code="expired",
            message="Card expired.",
            activation_id=PAYMENT,
            failed_at=NOON,
        )
    )
    payments.when(not_gone()).then()
    payments.when(back(None, R2)).then(requested(1000, R2))


def test_a_refund_completes_once_and_says_what_is_kept() -> None:
    payments = completed().given(back(600)).when(gone(600)).then(refund_completed(600, kept=400))
    payments.when(gone(600)).then()
    payments.given(back(None, R2)).when(gone(400, R2)).then(refund_completed(400, kept=0, refund_id=R2))


def test_a_refund_that_the_bank_returns_days_later_has_failed() -> None:
    payments = completed().given(back(1000), gone(1000)).when(not_gone())
    (failed,) = payments.answer
    assert isinstance(failed, RefundFailed)
    assert failed.was == "completed"
    payments.when(gone(1000)).then()
    payments.when(back(None, R2)).then(requested(1000, R2))


def test_a_refund_may_take_days() -> None:
    pending = RecordPendingRefund(payment_id=PAYMENT, refund_id=R1, provider_refund_ref="re_1")
    payments = completed().given(back(1000)).when(pending)
    payments.then(RefundPending(payment_id=PAYMENT, refund_id=R1, provider_refund_ref="re_1"))
    payments.when(back(None, R2)).refused(RefundRefused, "only 0 EUR")
    payments.given(gone(1000)).when(pending).then()


def test_a_refund_of_another_amount_than_asked_is_shown() -> None:
    payments = completed().given(back(600)).when(gone(500))
    assert named(payments.answer) == ["PaymentMismatchDetected"]
    assert payments.state(Payment, PAYMENT).status == "completed"


# -- whatever happens -----------------------------------------------------------------------------------------------------

DEEDS: list[Message] = [
    ORDER,
    COMPLETED,
    CANCEL,
    DECLINED,
    PENDING,
    captured(),
    captured(700),
    captured(ref="pi_2"),
    *(back(minor, id_) for minor in (1, 400, 1000, None) for id_ in (R1, R2)),
    *(
        done
        for id_ in (R1, R2, RefundId(nth(1)))
        for done in (gone(400, id_), gone(1000, id_), not_gone(id_))
    ),
]


@settings(max_examples=500)
@given(deeds=st.lists(st.sampled_from(DEEDS), min_size=4, max_size=30))
def test_money_adds_up_whatever_comes_in_whatever_order(deeds: list[Message]) -> None:
    """What was captured is due, shown as a mismatch, or on its way back; and never more goes back than came in."""
    payments = context("payments")
    facts: list[Message] = []
    for deed in deeds:
        facts += payments.when(deed).answer
        payment = payments.state(Payment, PAYMENT)
        for capture in payment.captures:
            taken = [
                it
                for it in payment.refunds
                if it.provider_ref == capture.provider_ref and it.status != "failed"
            ]
            assert sum(refund.amount.minor for refund in taken) <= capture.amount.minor

    refs = Counter(
        fact.provider_ref for fact in facts if isinstance(fact, PaymentCompleted | SurplusCaptured)
    )
    refs += Counter(
        fact.provider_ref
        for fact in facts
        if isinstance(fact, PaymentMismatchDetected) and fact.concerns == "capture"
    )
    assert all(times == 1 for times in refs.values()), "every capture is accounted for once"
    assert named(facts).count("PaymentCompleted") <= 1
    assert named(facts).count("PaymentInitiated") <= 1
    surplus = [fact.provider_ref for fact in facts if isinstance(fact, SurplusCaptured)]
    assert all(
        any(isinstance(it, RefundRequested) and it.provider_ref == ref for it in facts) for ref in surplus
    )
    for kind in (RefundRequested, RefundCompleted, RefundFailed):
        ids = [fact.refund_id for fact in facts if isinstance(fact, kind)]
        assert len(ids) == len(set(ids)), "each refund is requested, completed and failed at most once"


ANSWERS: list[Command] = [captured(), captured(), DECLINED, DECLINED, PENDING]


@given(st.permutations(ANSWERS))
def test_the_order_of_the_answers_makes_no_difference(answers: list[Command]) -> None:
    payments = initiated().given(*answers)
    assert payments.state(Payment, PAYMENT).status == "completed"
    assert payments.state(Payment, PAYMENT).completion() == COMPLETED
