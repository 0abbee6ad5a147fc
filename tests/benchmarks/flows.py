"""The load of the sagas: people of 20 tenants prove who they are, as upstream sends it, and some of them buy by card."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from tests.benchmarks.load import Outgoing
from tests.benchmarks.payments import TENANTS

PROVEN_AT: Final = datetime(2026, 5, 4, 12, tzinfo=UTC).isoformat()
ADOPTED: Final = 25
"""One in so many is vouched for by an identity provider; of the others upstream sends contacts and proofs."""
BUYS: Final = 20
"""One in so many buys something by card."""
APART: Final = 200
"""How many people later the next message of a person comes."""
PRODUCT: Final = UUID("0feed000-0000-4000-8000-000000000001")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who comes."""

    number: int
    tenant: str
    person_id: UUID
    email_id: UUID
    mobile_id: UUID
    payment_id: UUID

    @property
    def buys(self) -> bool:
        """Whether they buy."""
        return self.number % BUYS == 0

    @property
    def minor(self) -> int:
        """What they pay, in cents."""
        return 100 + self.number * 7919 % 20_000


def people(count: int) -> list[Person]:
    """Give the first `count`; always the same ones."""
    drawn = random.Random(13)
    return [
        Person(
            number,
            TENANTS[number % len(TENANTS)],
            *(UUID(int=drawn.getrandbits(128), version=4) for _ in range(4)),
        )
        for number in range(count)
    ]


def proofs(known: list[Person]) -> Iterator[Outgoing]:
    """Write what they send to identity: each person's messages in order, those of others between them."""
    placed = [
        (it.number + step * APART, it.number, step, it, kind, body)
        for it in known
        for step, (kind, body) in enumerate(_steps(it))
    ]
    placed.sort(key=lambda entry: entry[:3])
    for _, _, _, it, kind, body in placed:
        whole = {"person_id": str(it.person_id), **body}
        yield _message(it, kind, str(it.person_id), whole)


def purchases(known: list[Person]) -> Iterator[Outgoing]:
    """Write what they send to payments."""
    for it in known:
        if it.buys:
            body = {
                "payment_id": str(it.payment_id),
                "customer_id": str(it.person_id),
                "product_id": str(PRODUCT),
                "amount": {"minor": it.minor, "currency": "EUR"},
                "payment_method": "pm_card_visa",
            }
            yield _message(it, "payments.InitiatePayment", str(it.payment_id), body)


def _steps(it: Person) -> list[tuple[str, dict[str, Any]]]:
    if it.number % ADOPTED == 0:
        return [("identity.UserVerified", {"verification_version": 1, "verified_at": PROVEN_AT})]
    email, mobile = {"email_id": str(it.email_id)}, {"mobile_id": str(it.mobile_id)}
    return [
        ("identity.RegisterPerson", {"name": f"Person {it.number}"}),
        ("identity.RegisterEmail", {**email, "email": f"person{it.number}@example.org"}),
        ("identity.RegisterMobile", {**mobile, "mobile": f"+4915{it.number:09}"}),
        ("identity.VerifyEmail", {**email, "verified_at": PROVEN_AT}),
        ("identity.VerifyPhone", {**mobile, "verified_at": PROVEN_AT}),
    ]


def _message(it: Person, kind: str, key: str, body: dict[str, Any]) -> Outgoing:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": f"{kind}/{it.number}",
        "ce_type": kind,
        "ce_source": "upstream.example",
        "ce_tenantid": it.tenant,
    }
    return key, json.dumps(body).encode(), [(name, text.encode()) for name, text in headers.items()]
