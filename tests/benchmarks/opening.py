"""The load of the latencies: accounts that people open, one command for each, of 20 tenants."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tests.benchmarks.payments import TENANTS


@dataclass(frozen=True, slots=True)
class Opening:
    """One account to be opened."""

    tenant: str
    person_id: UUID
    account_id: UUID

    def body(self) -> bytes:
        """Write the command."""
        return json.dumps({"account_id": str(self.account_id), "person_id": str(self.person_id)}).encode()


def openings(count: int) -> Iterator[Opening]:
    """Give the first `count`; always the same ones."""
    drawn = random.Random(11)
    for number in range(count):
        person, account = (UUID(int=drawn.getrandbits(128), version=4) for _ in range(2))
        yield Opening(TENANTS[number % len(TENANTS)], person, account)
