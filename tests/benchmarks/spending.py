"""The benchmark's read model: a row for each payment, and one for each customer, who is reached from every partition."""

from __future__ import annotations

from datetime import datetime

from events import Key, PersonId, ProductId
from events.payments import PaymentCompleted, PaymentId
from projections import Projection, Row

projection = Projection("benchmark")


class Payment(Row):
    """One completed payment."""

    payment_id: Key[PaymentId]
    """The payment."""
    customer_id: PersonId
    """The person who paid."""
    product_id: ProductId
    """What it pays for."""
    amount_minor: int
    """What was taken, in minor units."""
    currency: str
    """ISO 4217 code of the amount."""
    provider: str
    """Who moved the money."""
    provider_ref: str
    """The provider's reference."""
    captured_at: datetime
    """When the money was taken."""


class Spend(Row):
    """What one person has paid in all."""

    customer_id: Key[PersonId]
    """The person who paid."""
    payments: int = 0
    """How many payments were completed."""
    spent_minor: int = 0
    """What was taken, in minor units."""
    last_paid_at: datetime | None = None
    """When the latest payment was captured."""


@projection.on
def completed(event: PaymentCompleted, _row: Payment | None) -> Payment:
    """Is captured."""
    return Payment(
        payment_id=event.payment_id,
        customer_id=event.customer_id,
        product_id=event.product_id,
        amount_minor=event.amount.minor,
        currency=event.amount.currency,
        provider=event.provider,
        provider_ref=event.provider_ref,
        captured_at=event.captured_at,
    )


@projection.on
def paid(event: PaymentCompleted, row: Spend | None) -> Spend:
    """Spent more, in one more payment."""
    was = row or Spend(customer_id=event.customer_id)
    at = event.captured_at
    return was.model_copy(
        update={
            "payments": was.payments + 1,
            "spent_minor": was.spent_minor + event.amount.minor,
            "last_paid_at": at if was.last_paid_at is None else max(at, was.last_paid_at),
        }
    )
