"""Failures on demand: each strikes a number of times, or at a rate that a seed repeats."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from infra.embedded.stripe.forms import Object, Refused

__all__ = ["AT_EXECUTION", "ON_ARRIVAL", "Fault", "Faults"]

ON_ARRIVAL: Final = frozenset({"503", "429"})
"""Nothing is done and nothing is remembered under the idempotency key."""

AT_EXECUTION: Final = frozenset({"500_before_charge", "500_after_charge", "timeout_after_charge"})
"""The first answer is remembered: a 500 is replayed to every retry with the same key."""


@dataclass(slots=True)
class Fault:
    """One kind of failure of one resource."""

    kind: str
    resource: str
    method: str
    count: int | None
    rate: float
    seconds: float
    dice: random.Random = field(repr=False)

    @classmethod
    def read(cls, asked: Object) -> Fault:
        """Read `{"kind", "resource"?, "method"?, "count"?, "rate"?, "seed"?, "seconds"?}`; `count` defaults to 1."""
        try:
            fault = cls(
                kind=asked["kind"],
                resource=asked.get("resource", "payment_intents"),
                method=asked.get("method", "POST"),
                count=None if "rate" in asked else int(asked.get("count", 1)),
                rate=float(asked.get("rate", 1)),
                seconds=float(asked.get("seconds", 60)),
                dice=random.Random(asked.get("seed", 0)),  # noqa: S311 - a repeatable fault, no secret
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise Refused(400, f"Give kind, and count or rate: {wrong!r}") from None
        if fault.kind not in ON_ARRIVAL | AT_EXECUTION:
            raise Refused(400, f"Unknown kind: choose from {sorted(ON_ARRIVAL | AT_EXECUTION)}", param="kind")
        return fault


class Faults:
    """The failures that are asked for now. They live in memory: a restart heals."""

    def __init__(self) -> None:
        """Start without any."""
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let `fault` strike from now on."""
        self._waiting.append(fault)

    def clear(self) -> None:
        """Heal."""
        self._waiting.clear()

    def strike(self, kinds: frozenset[str], method: str, resource: str) -> Fault | None:
        """Give the failure that hits this request, if one does."""
        for fault in self._waiting:
            if fault.kind not in kinds or (fault.method, fault.resource) != (method, resource):
                continue
            if fault.count is None and fault.dice.random() < fault.rate:
                return fault
            if fault.count:
                fault.count -= 1
                return fault
        return None
