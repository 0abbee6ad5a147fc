"""A seeded stream from upstream, and what must come of it, worked out by one plain loop."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.installation import Sent

TENANTS = ("north", "south", "west")
LIVES = ("Activate", "Suspend", "Reinstate", "Suspend", "Reinstate", "Suspend", "Reinstate", "Suspend")
FACTS = {
    "Open": "AccountOpened",
    "Activate": "AccountActivated",
    "Suspend": "AccountSuspended",
    "Reinstate": "AccountReinstated",
}


@dataclass
class Stream:
    """What is sent, and what is expected."""

    tenants: tuple[str, ...] = TENANTS
    messages: list[Sent] = field(default_factory=list)
    histories: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Tenant and account -> its facts, in order."""
    spent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tenant and person -> minor units."""
    payments: Counter[tuple[str, str]] = field(default_factory=Counter)
    duplicates: int = 0


def stream(seed: int, *, accounts: int, payments: int, tenants: tuple[str, ...] = TENANTS) -> Stream:
    """Make a stream: accounts that live through commands in order, payments of few people, and every tenth twice."""
    dice = random.Random(seed)

    def draw() -> str:
        return str(UUID(int=dice.getrandbits(128), version=4))

    made = Stream(tenants)
    lives: list[list[Sent]] = []
    for _ in range(accounts):
        tenant, account = dice.choice(tenants), draw()
        life = []
        for step in ("Open", *LIVES):
            body: dict[str, Any] = {"account_id": account}
            if step == "Open":
                body["person_id"] = draw()
            if step in {"Suspend", "Reinstate"}:
                body["reason"] = "test"
            life.append(Sent("accounts.inbound", tenant, account, f"accounts.{step}Account", body, draw()))
            made.histories[tenant, account].append(FACTS[step])
        lives.append(life)
    people = [draw() for _ in range(12)]
    for _ in range(payments):
        tenant, person, payment, minor = (
            dice.choice(tenants),
            dice.choice(people),
            draw(),
            dice.randrange(1, 500),
        )
        paid: dict[str, Any] = {
            "payment_id": payment,
            "customer_id": person,
            "product_id": draw(),
            "amount": {"minor": minor, "currency": "EUR"},
            "provider": "bank",
            "provider_ref": payment,
            "captured_at": "2026-05-04T12:00:00Z",
        }
        lives.append([Sent("payments.inbound", tenant, payment, "payments.PaymentCompleted", paid, draw())])
        made.spent[tenant, person] += minor
        made.payments[tenant, person] += 1
    while lives:
        number = dice.randrange(len(lives))
        made.messages.append(lives[number].pop(0))
        if not lives[number]:
            lives[number] = lives[-1]
            lives.pop()
        if dice.random() < 0.1:
            made.messages.append(
                made.messages[dice.randrange(max(0, len(made.messages) - 200), len(made.messages))]
            )
            made.duplicates += 1
    return made
