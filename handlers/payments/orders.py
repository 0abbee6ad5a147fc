"""What may be charged, what may be given up, and which payments made elsewhere are taken as ours."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from events import Key, PersonId
from events.accounts import AccountClosed, AccountId, AccountReinstated, AccountSuspended
from events.payments import (
    CancellationRefused,
    CancelPayment,
    CompletionRefused,
    InitiatePayment,
    PaymentCancelled,
    PaymentCompleted,
    PaymentInitiated,
    PaymentRefused,
)
from handlers import By, Local
from handlers.payments import worker
from handlers.payments.payment import Payment


class Payer(Local):
    """What payments knows of a person's accounts: which of them are suspended now."""

    person_id: Key[PersonId]
    suspended: tuple[AccountId, ...] = ()


@worker.keeps
def suspended(payer: Payer, event: AccountSuspended) -> Payer:
    """Note the suspension."""
    return payer.model_copy(update={"suspended": (*_others(payer, event.account_id), event.account_id)})


@worker.keeps
def released(payer: Payer, event: AccountReinstated | AccountClosed) -> Payer:
    """The account is suspended no longer."""
    return payer.model_copy(update={"suspended": _others(payer, event.account_id)})


@worker.on
def initiate(
    asked: InitiatePayment, payment: Payment, payer: Annotated[Payer, By("customer_id")], now: datetime
) -> PaymentInitiated | PaymentRefused:
    """Order the charge, once, unless the person's account is suspended."""
    if payment.status != "new":
        reason = f"payment_id: is {payment.status} already; pay under a new id"
        return PaymentRefused(payment_id=payment.payment_id, customer_id=asked.customer_id, reason=reason)
    if payer.suspended:
        reason = f"customer_id: the account {payer.suspended[0]} is suspended; reinstate it first"
        return PaymentRefused(payment_id=payment.payment_id, customer_id=asked.customer_id, reason=reason)
    return PaymentInitiated(
        payment_id=payment.payment_id,
        customer_id=asked.customer_id,
        product_id=asked.product_id,
        amount=asked.amount,
        payment_method=asked.payment_method,
        initiated_at=now,
    )


@worker.on
def cancel(asked: CancelPayment, payment: Payment, now: datetime) -> PaymentCancelled | CancellationRefused:
    """Give up a payment whose money has not come in."""
    if payment.customer_id is None or payment.status not in {"initiated", "failed"}:
        remedy = "; request a refund" if payment.captures else ""
        return CancellationRefused(
            payment_id=payment.payment_id,
            reason=f"payment_id: is {payment.status}, only an initiated or failed payment can be cancelled{remedy}",
        )
    return PaymentCancelled(
        payment_id=payment.payment_id,
        customer_id=payment.customer_id,
        provider_ref=payment.open_ref,
        reason=asked.reason,
        cancelled_at=now,
    )


@worker.adopts
def adopt(event: PaymentCompleted, payment: Payment) -> PaymentCompleted | CompletionRefused | None:
    """Take a payment that was made elsewhere as ours. The same again is no news; anything else contradicts it."""
    if payment.status == "new":
        return event
    known = payment.completion()
    if known is None:
        reason = f"payment_id: is {payment.status} here, where only the provider completes it; use another id"
        return CompletionRefused(payment_id=payment.payment_id, reason=reason)
    differing = [
        name for name in PaymentCompleted.model_fields if getattr(event, name) != getattr(known, name)
    ]
    if differing:
        reason = f"{', '.join(differing)}: differ from the completion that is known; use another payment_id"
        return CompletionRefused(payment_id=payment.payment_id, reason=reason)
    return None


def _others(payer: Payer, account_id: AccountId) -> tuple[AccountId, ...]:
    return tuple(known for known in payer.suspended if known != account_id)
