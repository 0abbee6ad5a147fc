"""What payments does outside: charge, cancel and refund at the provider, and look there when a webhook hints at news.

What the provider answers is never a fact yet: it goes to the decider as a `Record...` command.
"""

from __future__ import annotations

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
from handlers import IdempotencyKey, Metadata
from handlers.payments import worker
from handlers.payments.provider import (
    Captured,
    CaptureOrder,
    Declined,
    PaymentProvider,
    Pending,
    RefundDeclined,
    Refunded,
    RefundOrder,
    RefundPendingAtProvider,
)

PaymentOutcome = RecordCapture | RecordPending | RecordDecline
RefundOutcome = RecordRefund | RecordPendingRefund | RecordRefundDecline


@worker.on
async def capture(
    event: PaymentInitiated, provider: PaymentProvider, key: IdempotencyKey, meta: Metadata
) -> PaymentOutcome:
    """Charge what was ordered."""
    order = CaptureOrder(
        tenant=meta.tenant,
        payment_id=event.payment_id,
        customer_id=event.customer_id,
        product_id=event.product_id,
        amount=event.amount,
        payment_method=event.payment_method,
    )
    return _payment_outcome(event.payment_id, provider, await provider.capture(order, key))


@worker.finds(capture)
async def find_capture(
    event: PaymentInitiated, provider: PaymentProvider, meta: Metadata
) -> PaymentOutcome | None:
    """Look whether it was charged."""
    found = await provider.find_capture(meta.tenant, event.payment_id)
    return _payment_outcome(event.payment_id, provider, found) if found is not None else None


@worker.on
async def cancel_at_provider(
    event: PaymentCancelled | PaymentLeftOpen, provider: PaymentProvider, key: IdempotencyKey
) -> RecordCapture | None:
    """Make sure that what the provider holds open is never captured; if it already is, that is the outcome."""
    if event.provider_ref is None:
        return None
    try:
        answer = await provider.cancel(event.provider_ref, key)
    except LookupError:
        return None
    return _captured(event.payment_id, provider, answer) if isinstance(answer, Captured) else None


@worker.finds(cancel_at_provider)
async def find_cancellation(
    event: PaymentCancelled | PaymentLeftOpen, provider: PaymentProvider, meta: Metadata
) -> RecordCapture | None:
    """Look whether the money was taken; if not, cancelling again harms nothing."""
    found = await provider.find_capture(meta.tenant, event.payment_id)
    return _captured(event.payment_id, provider, found) if isinstance(found, Captured) else None


@worker.on
async def refund_at_provider(
    event: RefundRequested, provider: PaymentProvider, key: IdempotencyKey, meta: Metadata
) -> RefundOutcome:
    """Give back what was set aside."""
    if event.provider != provider.name:
        return RecordRefundDecline(
            payment_id=event.payment_id,
            refund_id=event.refund_id,
            provider_refund_ref=None,
            code="other_provider",
            message=f"captured by {event.provider}, which is not connected; refund it there",
        )
    order = RefundOrder(
        tenant=meta.tenant,
        payment_id=event.payment_id,
        refund_id=event.refund_id,
        provider_ref=event.provider_ref,
        amount=event.amount,
    )
    return _refund_outcome(event.payment_id, event.refund_id, await provider.refund(order, key))


@worker.finds(refund_at_provider)
async def find_refund(
    event: RefundRequested, provider: PaymentProvider, meta: Metadata
) -> RefundOutcome | None:
    """Look whether it was given back."""
    if event.provider != provider.name:
        return None
    found = await provider.find_refund(meta.tenant, event.refund_id, event.provider_ref)
    return _refund_outcome(event.payment_id, event.refund_id, found) if found is not None else None


@worker.on
async def check_payment(asked: CheckPayment, provider: PaymentProvider) -> PaymentOutcome | None:
    """Look how the payment stands, whatever the webhook said."""
    try:
        found = await provider.retrieve(asked.provider_ref)
    except LookupError:
        return None
    return _payment_outcome(asked.payment_id, provider, found)


@worker.on
async def check_refund(asked: CheckRefund, provider: PaymentProvider, meta: Metadata) -> RefundOutcome | None:
    """Look how the refund stands, whatever the webhook said."""
    found = await provider.find_refund(meta.tenant, asked.refund_id, asked.provider_ref)
    return _refund_outcome(asked.payment_id, asked.refund_id, found) if found is not None else None


# A look changes nothing outside, so it is its own way to find out.
worker.finds(check_payment)(check_payment)
worker.finds(check_refund)(check_refund)


def _payment_outcome(
    payment_id: PaymentId, provider: PaymentProvider, answer: Captured | Pending | Declined
) -> PaymentOutcome:
    match answer:
        case Captured():
            return _captured(payment_id, provider, answer)
        case Pending():
            return RecordPending(
                payment_id=payment_id,
                provider=provider.name,
                provider_ref=answer.provider_ref,
                waits_for=_line(answer.reason),
            )
        case Declined():
            return RecordDecline(
                payment_id=payment_id,
                provider=provider.name,
                provider_ref=answer.provider_ref,
                code=_line(answer.code),
                message=_line(answer.message),
                retryable=answer.retryable,
            )


def _captured(payment_id: PaymentId, provider: PaymentProvider, answer: Captured) -> RecordCapture:
    return RecordCapture(
        payment_id=payment_id,
        provider=provider.name,
        provider_ref=answer.provider_ref,
        amount=answer.amount,
        captured_at=answer.captured_at,
    )


def _refund_outcome(
    payment_id: PaymentId, refund_id: RefundId, answer: Refunded | RefundPendingAtProvider | RefundDeclined
) -> RefundOutcome:
    match answer:
        case Refunded():
            return RecordRefund(
                payment_id=payment_id,
                refund_id=refund_id,
                provider_refund_ref=answer.provider_refund_ref,
                amount=answer.amount,
                refunded_at=answer.refunded_at,
            )
        case RefundPendingAtProvider():
            return RecordPendingRefund(
                payment_id=payment_id, refund_id=refund_id, provider_refund_ref=answer.provider_refund_ref
            )
        case RefundDeclined():
            return RecordRefundDecline(
                payment_id=payment_id,
                refund_id=refund_id,
                provider_refund_ref=answer.provider_refund_ref,
                code=_line(answer.code),
                message=_line(answer.message),
            )


def _line(said: str) -> str:
    """Fit what the provider said into a line: its messages have no bound."""
    return said[:255] or "not said"
