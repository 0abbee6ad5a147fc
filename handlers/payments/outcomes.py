"""What the provider's answers mean: judged by how far the payment has come, never by the order they arrive in.

An answer that is no news publishes nothing: every outcome comes in from our own call and again by webhook.
"""

from __future__ import annotations

from datetime import datetime

from events.payments import (
    OutcomeRefused,
    PaymentCompleted,
    PaymentFailed,
    PaymentLeftOpen,
    PaymentMismatchDetected,
    PaymentPending,
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
    RefundRequested,
    SurplusCaptured,
)
from handlers import NewId
from handlers.payments import worker
from handlers.payments.payment import Capture, Payment, Refund

CaptureMeans = PaymentCompleted | PaymentMismatchDetected | SurplusCaptured | RefundRequested | OutcomeRefused


@worker.on
def captured(
    asked: RecordCapture, payment: Payment, new_id: NewId, now: datetime
) -> tuple[CaptureMeans, ...]:
    """Complete the payment; money that is not due any more goes back at once."""
    if payment.customer_id is None or payment.product_id is None or payment.ordered is None:
        return (_unknown(payment),)
    if payment.captured(asked.provider_ref) or asked.amount.minor == 0:
        return ()
    if payment.status not in {"initiated", "failed"}:
        return (
            SurplusCaptured(
                payment_id=payment.payment_id,
                customer_id=payment.customer_id,
                amount=asked.amount,
                provider=asked.provider,
                provider_ref=asked.provider_ref,
                captured_at=asked.captured_at,
            ),
            RefundRequested(
                payment_id=payment.payment_id,
                refund_id=RefundId(new_id()),
                customer_id=payment.customer_id,
                amount=asked.amount,
                provider=asked.provider,
                provider_ref=asked.provider_ref,
                reason=f"captured when the payment was {payment.status} already",
                requested_at=now,
            ),
        )
    if asked.amount != payment.ordered:
        return (
            PaymentMismatchDetected(
                payment_id=payment.payment_id,
                customer_id=payment.customer_id,
                concerns="capture",
                expected=payment.ordered,
                observed=asked.amount,
                provider=asked.provider,
                provider_ref=asked.provider_ref,
                detected_at=now,
            ),
        )
    return (
        PaymentCompleted(
            payment_id=payment.payment_id,
            customer_id=payment.customer_id,
            product_id=payment.product_id,
            amount=asked.amount,
            provider=asked.provider,
            provider_ref=asked.provider_ref,
            captured_at=asked.captured_at,
        ),
    )


@worker.on
def pending(
    asked: RecordPending, payment: Payment
) -> PaymentPending | PaymentLeftOpen | OutcomeRefused | None:
    """Remember what the provider holds open; if the payment is cancelled here, it must not stay open there."""
    if payment.status == "new":
        return _unknown(payment)
    if asked.provider_ref == payment.open_ref:
        return None
    if payment.status == "initiated":
        return PaymentPending(
            payment_id=payment.payment_id,
            provider=asked.provider,
            provider_ref=asked.provider_ref,
            waits_for=asked.waits_for,
        )
    if payment.status == "cancelled" and not payment.captured(asked.provider_ref):
        return PaymentLeftOpen(payment_id=payment.payment_id, provider_ref=asked.provider_ref)
    return None


@worker.on
def declined(asked: RecordDecline, payment: Payment, now: datetime) -> PaymentFailed | OutcomeRefused | None:
    """Fail a payment that waits for its money; a decline outranks nothing else."""
    if payment.customer_id is None:
        return _unknown(payment)
    if payment.status != "initiated":
        return None
    return PaymentFailed(
        payment_id=payment.payment_id,
        customer_id=payment.customer_id,
        code=asked.code,
        message=asked.message,
        retryable=asked.retryable,
        failed_at=now,
    )


@worker.on
def refunded(
    asked: RecordRefund, payment: Payment, now: datetime
) -> RefundCompleted | PaymentMismatchDetected | OutcomeRefused | None:
    """Complete the refund, once."""
    known = _known(payment, asked.refund_id)
    if known is None or payment.customer_id is None:
        return _unknown(payment, asked.refund_id)
    refund, source = known
    if refund.status != "requested":
        return None
    if asked.amount != refund.amount:
        return PaymentMismatchDetected(
            payment_id=payment.payment_id,
            customer_id=payment.customer_id,
            concerns="refund",
            expected=refund.amount,
            observed=asked.amount,
            provider=source.provider,
            provider_ref=asked.provider_refund_ref,
            detected_at=now,
        )
    kept = payment.kept(source)
    return RefundCompleted(
        payment_id=payment.payment_id,
        refund_id=refund.refund_id,
        customer_id=payment.customer_id,
        amount=refund.amount,
        kept=kept.model_copy(update={"minor": kept.minor - refund.amount.minor}),
        activation_id=payment.activation(source.provider_ref),
        refunded_at=asked.refunded_at,
    )


@worker.on
def refund_pending(asked: RecordPendingRefund, payment: Payment) -> RefundPending | OutcomeRefused | None:
    """Say that the refund takes its time."""
    known = _known(payment, asked.refund_id)
    if known is None:
        return _unknown(payment, asked.refund_id)
    refund, _ = known
    if refund.status != "requested":
        return None
    return RefundPending(
        payment_id=payment.payment_id,
        refund_id=refund.refund_id,
        provider_refund_ref=asked.provider_refund_ref,
    )


@worker.on
def refund_declined(
    asked: RecordRefundDecline, payment: Payment, now: datetime
) -> RefundFailed | OutcomeRefused | None:
    """Fail the refund, also one that had completed: a bank may return the money days later."""
    known = _known(payment, asked.refund_id)
    if known is None or payment.customer_id is None:
        return _unknown(payment, asked.refund_id)
    refund, source = known
    if refund.status == "failed":
        return None
    return RefundFailed(
        payment_id=payment.payment_id,
        refund_id=refund.refund_id,
        customer_id=payment.customer_id,
        amount=refund.amount,
        was=refund.status,
        code=asked.code,
        message=asked.message,
        activation_id=payment.activation(source.provider_ref),
        failed_at=now,
    )


def _known(payment: Payment, refund_id: RefundId) -> tuple[Refund, Capture] | None:
    refund = payment.refund(refund_id)
    if refund is None:
        return None
    source = next((it for it in payment.captures if it.provider_ref == refund.provider_ref), None)
    return (refund, source) if source is not None else None


def _unknown(payment: Payment, refund_id: RefundId | None = None) -> OutcomeRefused:
    reason = "payment_id: no such payment was initiated here"
    if refund_id is not None:
        reason = f"refund_id: no refund {refund_id} of this payment was requested here"
    return OutcomeRefused(payment_id=payment.payment_id, reason=reason)
