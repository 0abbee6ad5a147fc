"""What became of each payment: how far it came, and how much of it went back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from events import Key, PersonId, ProductId
from events.payments import (
    PaymentCancelled,
    PaymentCompleted,
    PaymentFailed,
    PaymentId,
    PaymentInitiated,
    PaymentMismatchDetected,
    PaymentPending,
    RefundCompleted,
    RefundFailed,
    RefundRequested,
    SurplusCaptured,
)
from projections import Projection, Query, Row, Since, Until

projection = Projection("payment_history")

PaymentStatus = Literal["initiated", "pending", "completed", "failed", "cancelled", "mismatched"]


class Payment(Row):
    """One payment, and what became of it."""

    payment_id: Key[PaymentId]
    """The payment."""
    status: PaymentStatus
    """`initiated`: ordered; `pending`: the provider waits; `completed`: captured as ordered; `failed`: declined;
    `cancelled`: given up; `mismatched`: another amount was captured than was ordered."""
    customer_id: PersonId | None = None
    """The person who pays."""
    product_id: ProductId | None = None
    """What it pays for."""
    amount_minor: int | None = None
    """What was ordered, in minor units of `currency`."""
    currency: str | None = None
    """ISO 4217 code of all amounts of the payment."""
    captured_minor: int = 0
    """What was taken in all, surplus included, in minor units."""
    refund_due_minor: int = 0
    """What is set aside to go back and has not yet, in minor units."""
    refunded_minor: int = 0
    """What has gone back, in minor units."""
    provider: str | None = None
    """Who moved the money."""
    provider_ref: str | None = None
    """The provider's reference of the payment."""
    initiated_at: datetime | None = None
    """When it was ordered; empty: it was made elsewhere."""
    captured_at: datetime | None = None
    """When the money was taken."""
    failure: str | None = None
    """The provider's code for the latest failure, of the payment or of a refund."""


@projection.on
def initiated(event: PaymentInitiated, row: Payment | None) -> Payment:
    """Is ordered."""
    was = row or Payment(payment_id=event.payment_id, status="initiated")
    return was.model_copy(
        update={
            "customer_id": event.customer_id,
            "product_id": event.product_id,
            "amount_minor": event.amount.minor,
            "currency": event.amount.currency,
            "initiated_at": event.initiated_at,
        }
    )


@projection.on
def pending(event: PaymentPending, row: Payment | None) -> Payment:
    """Waits at the provider."""
    was = row or Payment(payment_id=event.payment_id, status="pending")
    return was.model_copy(
        update={"status": "pending", "provider": event.provider, "provider_ref": event.provider_ref}
    )


@projection.on
def completed(event: PaymentCompleted, row: Payment | None) -> Payment:
    """Is captured, as ordered."""
    was = row or Payment(payment_id=event.payment_id, status="completed")
    return was.model_copy(
        update={
            "status": "completed",
            "customer_id": event.customer_id,
            "product_id": event.product_id,
            "amount_minor": event.amount.minor,
            "currency": event.amount.currency,
            "captured_minor": was.captured_minor + event.amount.minor,
            "provider": event.provider,
            "provider_ref": event.provider_ref,
            "captured_at": event.captured_at,
            "failure": None,
        }
    )


@projection.on
def failed(event: PaymentFailed, row: Payment | None) -> Payment:
    """Is declined."""
    was = row or Payment(payment_id=event.payment_id, status="failed")
    return was.model_copy(
        update={"status": "failed", "customer_id": event.customer_id, "failure": event.code}
    )


@projection.on
def cancelled(event: PaymentCancelled, row: Payment | None) -> Payment:
    """Is given up."""
    was = row or Payment(payment_id=event.payment_id, status="cancelled")
    return was.model_copy(update={"status": "cancelled", "customer_id": event.customer_id})


@projection.on
def surplus(event: SurplusCaptured, row: Payment | None) -> Payment:
    """Was captured without being due."""
    was = row or Payment(payment_id=event.payment_id, status="cancelled")
    return was.model_copy(
        update={
            "customer_id": event.customer_id,
            "currency": was.currency or event.amount.currency,
            "captured_minor": was.captured_minor + event.amount.minor,
            "captured_at": was.captured_at or event.captured_at,
        }
    )


@projection.on
def mismatched(event: PaymentMismatchDetected, row: Payment | None) -> Payment:
    """Was captured with another amount than ordered."""
    was = row or Payment(payment_id=event.payment_id, status="mismatched")
    if event.concerns == "refund":
        return was.model_copy(update={"failure": "refund_mismatch"})
    return was.model_copy(
        update={
            "status": "mismatched",
            "customer_id": event.customer_id,
            "currency": event.observed.currency,
            "captured_minor": was.captured_minor + event.observed.minor,
            "provider": event.provider,
            "provider_ref": event.provider_ref,
            "captured_at": event.detected_at,
            "failure": "amount_mismatch",
        }
    )


@projection.on
def refund_requested(event: RefundRequested, row: Payment | None) -> Payment | None:
    """Some of it is set aside to go back."""
    if row is None:
        return None
    return row.model_copy(update={"refund_due_minor": row.refund_due_minor + event.amount.minor})


@projection.on
def refund_completed(event: RefundCompleted, row: Payment | None) -> Payment | None:
    """Some of it has gone back."""
    if row is None:
        return None
    return row.model_copy(
        update={
            "refund_due_minor": row.refund_due_minor - event.amount.minor,
            "refunded_minor": row.refunded_minor + event.amount.minor,
        }
    )


@projection.on
def refund_failed(event: RefundFailed, row: Payment | None) -> Payment | None:
    """Some of it should have gone back, and did not or came back."""
    if row is None:
        return None
    column = "refunded_minor" if event.was == "completed" else "refund_due_minor"
    return row.model_copy(update={column: getattr(row, column) - event.amount.minor, "failure": event.code})


@projection.query
class ById(Query[Payment]):
    """What became of one payment."""

    payment_id: PaymentId
    """The payment."""


@projection.query
class OfCustomer(Query[Payment]):
    """The payments of one person, the latest captured first."""

    order = ("-captured_at",)

    customer_id: PersonId
    """The person who pays."""
    status: PaymentStatus | None = None
    """Only those of this status."""


@projection.query
class ByStatus(Query[Payment]):
    """Payments of a status, a product, a currency, a time; the latest captured first."""

    order = ("-captured_at",)

    status: PaymentStatus | None = None
    """Only those of this status."""
    product_id: ProductId | None = None
    """Only those for this product."""
    currency: str | None = None
    """Only those of this ISO 4217 currency."""
    captured_since: Annotated[datetime | None, Since("captured_at")] = None
    """Only those captured at or after this moment."""
    captured_until: Annotated[datetime | None, Until("captured_at")] = None
    """Only those captured before this moment."""


@projection.query
class ByProviderRef(Query[Payment]):
    """Which payment the provider means."""

    provider_ref: str
    """The provider's reference."""
