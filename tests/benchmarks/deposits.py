"""The load of the deciders: deposits into 10,000 accounts of 20 tenants, the same ones every time, and what they come to.

They come from upstream, so each is checked as strictly as anything from outside is, and only for an active tenant.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from pydantic_core import to_json

from tests.benchmarks.load import Outgoing
from tests.benchmarks.payments import NOON, TENANTS

TOPIC: Final = "benchmarks.inbound"
ACCOUNTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One deposit, with its tenant."""

    tenant: str
    account_id: UUID
    amount_minor: int
    reference: str


def deposits(count: int) -> Iterator[Asked]:
    """Give the first `count` deposits."""
    drawn = random.Random(9)
    accounts = [UUID(int=drawn.getrandbits(128), version=4) for _ in range(ACCOUNTS)]
    for number in range(count):
        account = drawn.randrange(ACCOUNTS)
        yield Asked(
            tenant=TENANTS[account % len(TENANTS)],
            account_id=accounts[account],
            amount_minor=drawn.randrange(1, 100_000),
            reference=f"invoice {number}",
        )


def records(asked: Iterable[Asked]) -> Iterator[Outgoing]:
    """Write deposits as upstream does."""
    drawn = random.Random(10)
    for it in asked:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": str(UUID(int=drawn.getrandbits(128), version=4)),
            "ce_type": "benchmarks.Deposit",
            "ce_source": "upstream",
            "ce_time": NOON.isoformat(),
            "ce_tenantid": it.tenant,
            "ce_dataschema": "urn:triplane:benchmarks.Deposit:1",
            "content-type": "application/json",
        }
        body = {
            "account_id": str(it.account_id),
            "amount_minor": it.amount_minor,
            "reference": it.reference,
        }
        yield str(it.account_id), to_json(body), [(name, text.encode()) for name, text in headers.items()]


Fact = tuple[str, str, int, int, int, str]
"""Tenant, account, version, amount, balance and reference of a deposit that was made."""


def facts(asked: Iterable[Asked]) -> Iterator[Fact]:
    """Decide in a plain loop: what every answer is checked against."""
    standing: dict[tuple[str, UUID], tuple[int, int]] = {}
    for it in asked:
        version, balance = standing.get((it.tenant, it.account_id), (0, 0))
        version, balance = version + 1, balance + it.amount_minor
        standing[it.tenant, it.account_id] = version, balance
        yield it.tenant, str(it.account_id), version, it.amount_minor, balance, it.reference
