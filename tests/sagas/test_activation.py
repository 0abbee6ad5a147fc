"""Activation: access within fifteen minutes, or the money back; never both, never neither."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from events import Money, PersonId, ProductId
from events.entitlements import AccessGranted, AccessRefused, GrantAccess, RevokeAccess
from events.payments import (
    PaymentCompleted,
    PaymentId,
    RefundCompleted,
    RefundFailed,
    RefundId,
    RefundRefused,
    RequestRefund,
)
from sagas.activation import Activated, Granting, Refunded, Refunding, RefundStuck
from tests.given import NOON, Flow, flow, minutes, nth

PAYMENT, ADA, BOOK = PaymentId(UUID(int=1)), PersonId(UUID(int=2)), ProductId(UUID(int=3))
OURS, THEIRS = RefundId(nth(1)), RefundId(UUID(int=9))
TEN = Money(minor=1000, currency="EUR")

PAID = PaymentCompleted(
    payment_id=PAYMENT,
    customer_id=ADA,
    product_id=BOOK,
    amount=TEN,
    provider="stripe",
    provider_ref="pi_1",
    captured_at=NOON,
)
GRANTED = AccessGranted(
    person_id=ADA, product_id=BOOK, payment_id=PAYMENT, onboarding_id=None, granted_at=minutes(1)
)
REFUSED = AccessRefused(
    person_id=ADA, product_id=BOOK, payment_id=PAYMENT, onboarding_id=None, already_held=True, reason="has it"
)
REFUNDING = Refunding(payment_id=PAYMENT, refund_ids=(OURS,))
ACTIVATED = Activated(person_id=ADA, product_id=BOOK)


def refunded(refund_id: RefundId = OURS, minor: int = 1000, kept: int = 0) -> RefundCompleted:
    return RefundCompleted(
        payment_id=PAYMENT,
        refund_id=refund_id,
        customer_id=ADA,
        amount=Money(minor=minor, currency="EUR"),
        kept=Money(minor=kept, currency="EUR"),
        activation_id=PAYMENT,
        refunded_at=minutes(20),
    )


def failed(refund_id: RefundId = OURS, **changed: Any) -> RefundFailed:
    return RefundFailed.model_validate(
        {
            "payment_id": PAYMENT,
            "refund_id": refund_id,
            "customer_id": ADA,
            "amount": TEN,
            "was": "requested",
            "code": "expired",
            "message": "Card expired.",
            "activation_id": PAYMENT,
            "failed_at": minutes(20),
            **changed,
        }
    )


def not_refunded(refund_id: RefundId = OURS, **changed: Any) -> RefundRefused:
    return RefundRefused.model_validate(
        {
            "payment_id": PAYMENT,
            "refund_id": refund_id,
            "known": None,
            "refundable": TEN,
            "activation_id": PAYMENT,
            "reason": "no",
            **changed,
        }
    )


def take_back(reason: str) -> RevokeAccess:
    return RevokeAccess(person_id=ADA, product_id=BOOK, payment_id=PAYMENT, reason=reason)


def refunding() -> Flow:
    return flow("activation").given(PAID).late()


def test_a_payment_asks_for_access_and_the_grant_ends_it() -> None:
    activation = flow("activation").when(PAID)
    activation.then(
        Granting(payment_id=PAYMENT), GrantAccess(person_id=ADA, product_id=BOOK, payment_id=PAYMENT)
    )
    activation.when(GRANTED).then(ACTIVATED)


def test_no_access_in_time_gives_the_money_back() -> None:
    activation = refunding()
    activation.then(
        REFUNDING,
        RequestRefund(payment_id=PAYMENT, refund_id=OURS, reason="no access within fifteen minutes"),
    )
    activation.when(refunded()).then(Refunded())


def test_a_refused_access_gives_the_money_back() -> None:
    flow("activation").given(PAID).when(REFUSED).then(
        REFUNDING, RequestRefund(payment_id=PAYMENT, refund_id=OURS, reason="no access: has it")
    )


def test_a_grant_after_the_deadline_is_taken_back() -> None:
    reason = "granted after its refund was begun"
    refunding().when(GRANTED).then(REFUNDING, take_back(reason))
    refunding().given(refunded()).when(GRANTED).then(Refunded(), take_back(reason))
    refunding().given(failed()).when(GRANTED).then(
        RefundStuck(why="the refund failed: Card expired."), take_back(reason)
    )


def test_a_full_refund_after_the_grant_takes_the_access() -> None:
    activation = flow("activation").given(PAID, GRANTED)
    activation.when(refunded(THEIRS, 400, kept=600)).then(ACTIVATED)
    activation.when(refunded(THEIRS, 600)).then(Refunded(), take_back("the payment was refunded"))


def test_a_full_refund_before_the_grant_ends_it() -> None:
    activation = (
        flow("activation")
        .given(PAID)
        .when(refunded(THEIRS, 400, kept=600))
        .then(Granting(payment_id=PAYMENT))
    )
    activation.when(refunded(THEIRS, 600)).then(Refunded())


def test_a_refund_that_fails_is_stuck_and_heals_when_the_money_is_back() -> None:
    activation = refunding().when(failed()).then(RefundStuck(why="the refund failed: Card expired."))
    activation.when(refunded(THEIRS)).then(Refunded())


def test_a_refund_that_the_bank_returns_is_stuck() -> None:
    activation = refunding().given(refunded())
    activation.when(failed(THEIRS)).then(Refunded())
    activation.when(failed(was="completed")).then(RefundStuck(why="the refund came back: Card expired."))


def test_a_refused_refund_is_stuck_unless_the_money_is_on_its_way() -> None:
    refunding().when(not_refunded()).then(RefundStuck(why="the refund was refused: no"))
    refunding().when(not_refunded(known="requested")).then(REFUNDING)
    refunding().when(not_refunded(refundable=Money(minor=0, currency="EUR"))).then(REFUNDING)
    refunding().when(not_refunded(THEIRS)).then(REFUNDING)


def test_a_refund_that_never_settles_is_stuck() -> None:
    refunding().late().then(RefundStuck(why="the refund did not settle within ten days"))


def test_money_that_another_refund_held_and_did_not_move_is_asked_back() -> None:
    held = not_refunded(refundable=Money(minor=0, currency="EUR"))
    again = RefundId(nth(2))
    activation = refunding().given(held).when(failed(THEIRS))
    activation.then(
        Refunding(payment_id=PAYMENT, refund_ids=(OURS, again)),
        RequestRefund(payment_id=PAYMENT, refund_id=again, reason="the rest: another refund failed"),
    )
    activation.when(refunded(again)).then(Refunded())


@pytest.mark.parametrize("event", [failed(THEIRS), not_refunded(THEIRS), PAID])
def test_what_others_ask_for_changes_nothing_else(event: Any) -> None:
    flow("activation").given(PAID).when(event).then(Granting(payment_id=PAYMENT))
    flow("activation").given(PAID, GRANTED).when(event).then(ACTIVATED)


def test_an_answer_that_comes_twice_counts_once() -> None:
    flow("activation").given(PAID, GRANTED).when(GRANTED).then(ACTIVATED)
    flow("activation").given(PAID, GRANTED).when(REFUSED).then(ACTIVATED)
    refunding().given(refunded()).when(refunded()).then(Refunded())
