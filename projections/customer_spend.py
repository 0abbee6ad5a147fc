"""How much each customer has spent: a sum over all their payments, in whatever order they come."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from events import Key, Money, PersonId
from events.payments import (
    PaymentCompleted,
    PaymentMismatchDetected,
    RefundCompleted,
    RefundFailed,
    SurplusCaptured,
)
from projections import Projection, Query, Row, Since, Until

projection = Projection("customer_spend")


class Spend(Row):
    """What one person has spent in one currency. Sums of different currencies are never added."""

    customer_id: Key[PersonId]
    """The person who paid."""
    currency: Key[str]
    """ISO 4217 code of the amounts."""
    spent_minor: int = 0
    """Captured less refunded, in minor units."""
    captured_minor: int = 0
    """All that was taken, in minor units."""
    refunded_minor: int = 0
    """All that has gone back, in minor units."""
    payments: int = 0
    """How many payments were completed."""
    first_paid_at: datetime | None = None
    """When the first completed payment was captured."""
    last_paid_at: datetime | None = None
    """When the latest completed payment was captured."""


@projection.on(currency="amount.currency")
def paid(event: PaymentCompleted, row: Spend | None) -> Spend:
    """Spent more, in one more payment."""
    was = _moved(row, event.customer_id, event.amount, captured=event.amount.minor)
    at = event.captured_at
    return was.model_copy(
        update={
            "payments": was.payments + 1,
            "first_paid_at": at if was.first_paid_at is None else min(at, was.first_paid_at),
            "last_paid_at": at if was.last_paid_at is None else max(at, was.last_paid_at),
        }
    )


@projection.on(currency="amount.currency")
def surplus(event: SurplusCaptured, row: Spend | None) -> Spend:
    """Spent more, until it has gone back."""
    return _moved(row, event.customer_id, event.amount, captured=event.amount.minor)


@projection.on(currency="observed.currency")
def mismatched(event: PaymentMismatchDetected, row: Spend | None) -> Spend | None:
    """Spent what was taken, whatever had been ordered."""
    if event.concerns == "refund":
        return row
    return _moved(row, event.customer_id, event.observed, captured=event.observed.minor)


@projection.on(currency="amount.currency")
def refunded(event: RefundCompleted, row: Spend | None) -> Spend:
    """Spent less."""
    return _moved(row, event.customer_id, event.amount, refunded=event.amount.minor)


@projection.on(currency="amount.currency")
def refund_failed(event: RefundFailed, row: Spend | None) -> Spend | None:
    """Spent it after all, if it had counted as refunded."""
    if event.was != "completed":
        return row
    return _moved(row, event.customer_id, event.amount, refunded=-event.amount.minor)


@projection.query
class OfCustomer(Query[Spend]):
    """What one person has spent, a row for each currency."""

    customer_id: PersonId
    """The person who paid."""


@projection.query
class Top(Query[Spend]):
    """Who has spent most in one currency, the highest first."""

    order = ("-spent_minor",)

    currency: str
    """ISO 4217 code."""
    spent_minor_from: Annotated[int | None, Since("spent_minor")] = None
    """Only those who spent at least this much, in minor units."""
    last_paid_since: Annotated[datetime | None, Since("last_paid_at")] = None
    """Only those who paid at or after this moment."""
    last_paid_until: Annotated[datetime | None, Until("last_paid_at")] = None
    """Only those who last paid before this moment."""


def _moved(
    row: Spend | None, customer_id: PersonId, amount: Money, captured: int = 0, refunded: int = 0
) -> Spend:
    was = row or Spend(customer_id=customer_id, currency=amount.currency)
    return was.model_copy(
        update={
            "spent_minor": was.spent_minor + captured - refunded,
            "captured_minor": was.captured_minor + captured,
            "refunded_minor": was.refunded_minor + refunded,
        }
    )
