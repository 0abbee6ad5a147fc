"""The load of the read models: completed payments of 20 tenants, the same ones every time, and what they add up to.

A payment belongs to one of 5,000 customers and a customer to one tenant, whose events lie in all partitions.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from events import Money, PersonId, ProductId
from events.payments import PaymentCompleted, PaymentId
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import source_of
from tests.benchmarks.load import Outgoing

TOPIC: Final = "payments.events"
TENANTS: Final = tuple(f"bench-{number:02}" for number in range(20))
CUSTOMERS: Final = 5_000
NOON: Final = datetime(2026, 5, 4, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Paid:
    """One completed payment, with its tenant."""

    tenant: str
    payment_id: UUID
    customer_id: UUID
    product_id: UUID
    amount_minor: int
    provider_ref: str
    captured_at: datetime

    currency = "EUR"
    provider = "stripe"


def payments(count: int) -> Iterator[Paid]:
    """Give the first `count` payments."""
    drawn = random.Random(7)

    def fresh() -> UUID:
        return UUID(int=drawn.getrandbits(128), version=4)

    customers = [fresh() for _ in range(CUSTOMERS)]
    products = [fresh() for _ in range(100)]
    for number in range(count):
        customer = drawn.randrange(CUSTOMERS)
        yield Paid(
            tenant=TENANTS[customer % len(TENANTS)],
            payment_id=fresh(),
            customer_id=customers[customer],
            product_id=products[drawn.randrange(len(products))],
            amount_minor=drawn.randrange(1, 100_000),
            provider_ref=f"pi_{drawn.getrandbits(192):048x}",
            # Not in order: the latest is found, not the last.
            captured_at=NOON
            + timedelta(milliseconds=drawn.randrange(86_400_000), microseconds=number % 1000),
        )


def records(paid: Iterable[Paid]) -> Iterator[Outgoing]:
    """Write payments as the relay of their context does."""
    drawn = random.Random(8)

    def fresh() -> str:
        return str(UUID(int=drawn.getrandbits(128), version=4))

    for it in paid:
        event = PaymentCompleted(
            payment_id=PaymentId(it.payment_id),
            customer_id=PersonId(it.customer_id),
            product_id=ProductId(it.product_id),
            amount=Money(minor=it.amount_minor, currency=it.currency),
            provider=it.provider,
            provider_ref=it.provider_ref,
            captured_at=it.captured_at,
        )
        envelope = Envelope(
            id=fresh(),
            type="payments.PaymentCompleted",
            source=source_of("payments"),
            tenant=it.tenant,
            version=1,
            time=it.captured_at,
            correlation=fresh(),
            causation=fresh(),
            sequence=2,
        )
        yield str(it.payment_id), event.model_dump_json().encode(), envelope.headers()


@dataclass(slots=True)
class Spent:
    """What a customer has paid."""

    payments: int
    spent_minor: int
    last_paid_at: datetime


def spent(paid: Iterable[Paid]) -> dict[tuple[str, UUID], Spent]:
    """Add up each customer's payments: the plain fold that every answer is checked against."""
    found: dict[tuple[str, UUID], Spent] = {}
    for it in paid:
        was = found.get((it.tenant, it.customer_id))
        if was is None:
            found[it.tenant, it.customer_id] = Spent(1, it.amount_minor, it.captured_at)
        else:
            was.payments += 1
            was.spent_minor += it.amount_minor
            was.last_paid_at = max(was.last_paid_at, it.captured_at)
    return found
