"""Never more goes back than was captured, however often and concurrently it is asked."""

from __future__ import annotations

from datetime import datetime

from events import Money
from events.payments import RefundRefused, RefundRequested, RequestRefund
from handlers.payments import worker
from handlers.payments.payment import Capture, Payment


@worker.on
def refund(asked: RequestRefund, payment: Payment, now: datetime) -> RefundRequested | RefundRefused:
    """Set the money aside, out of the one capture that has enough of it left."""
    if (known := payment.refund(asked.refund_id)) is not None:
        reason = f"refund_id: was requested before and is {known.status}; use a new id for another refund"
        return _refused(asked, payment, reason)
    if not payment.captures or payment.customer_id is None:
        return _refused(asked, payment, "payment_id: nothing was captured")
    if asked.amount is not None and all(
        asked.amount.currency != it.amount.currency for it in payment.captures
    ):
        return _refused(asked, payment, f"amount.currency: must be {payment.captures[0].amount.currency}")
    source = next((capture for capture in payment.captures if _covers(payment, capture, asked.amount)), None)
    if source is None:
        left = payment.refundable(payment.captures[0])
        return _refused(
            asked, payment, f"amount: only {left.minor} {left.currency} (minor units) can be refunded"
        )
    return RefundRequested(
        payment_id=payment.payment_id,
        refund_id=asked.refund_id,
        customer_id=payment.customer_id,
        amount=asked.amount or payment.refundable(source),
        provider=source.provider,
        provider_ref=source.provider_ref,
        reason=asked.reason,
        requested_at=now,
    )


def _covers(payment: Payment, capture: Capture, amount: Money | None) -> bool:
    left = payment.refundable(capture)
    if amount is None:
        return left.minor > 0
    return amount.currency == left.currency and amount.minor <= left.minor


def _refused(asked: RequestRefund, payment: Payment, reason: str) -> RefundRefused:
    known = payment.refund(asked.refund_id)
    return RefundRefused(
        payment_id=asked.payment_id,
        refund_id=asked.refund_id,
        known=known.status if known is not None else None,
        refundable=payment.refundable(payment.captures[0]) if payment.captures else None,
        activation_id=payment.payment_id if payment.status == "completed" else None,
        reason=reason,
    )
