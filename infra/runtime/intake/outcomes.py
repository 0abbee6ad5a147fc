"""What came of a message: followed from the intake's outbox to the facts that its decider published.

Read by the monitor's role, which sees the engine's own tables of every schema and no bodies.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from pydantic_core import from_json

from infra.postgres.database import Database
from infra.runtime.catalog import Catalog
from infra.runtime.intake.tokens import Token
from infra.runtime.messages.ids import derived_id, inbox_key

MAX_OUTPUTS: Final = 64
"""How many messages one message may lead to, as far as an outcome lists them."""

Standing = Literal["accepted", "queued", "applied", "refused", "parked", "discarded"]
"""`accepted`: durable here; `queued`: on its topic; `applied`: decided, the facts are listed; `refused`: decided against;
`parked`: an operator must look; `discarded`: an operator gave it up."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact that a message led to."""

    id: UUID
    type: str
    key: str
    version: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a message has come."""

    state: Standing
    facts: tuple[Fact, ...] = ()
    reason: str | None = None
    """Of a refusal: why, in words; of what is parked: a stable code."""
    detail: str | None = None
    """Of what is parked: the field and the remedy."""

    @property
    def settled(self) -> bool:
        """Whether waiting changes nothing any more, but for an operator."""
        return self.state not in {"accepted", "queued"}


class Outcomes:
    """Looks outcomes up."""

    def __init__(self, monitor: Database, catalog: Catalog) -> None:
        """Read as the monitor."""
        self._monitor = monitor
        self._catalog = catalog

    async def of(self, token: Token) -> Outcome | None:
        """Tell how far a message has come; `None` when nothing is known of it, or not yet."""
        wiring = self._catalog.workers.get(token.context)
        if wiring is None:
            return None
        schema = wiring.schema
        # One statement, one snapshot: what moves on meanwhile is seen in one place or the next, never in none.
        rows = await self._monitor.fetch(
            f"""SELECT (SELECT payload FROM {schema}.inbox WHERE key = $1) AS applied,
                  (SELECT json_build_object('reason', reason, 'detail', detail) FROM {schema}.parked
                   WHERE message_id = $2 AND consumer = $3 AND tenant = $4 AND source = $5
                   ORDER BY id DESC LIMIT 1) AS parked,
                  EXISTS (SELECT FROM intake.outbox WHERE id = $6) AS waiting,
                  (SELECT json_build_object('offset', p."offset", 'next', (
                     SELECT max(next_offset) FROM {schema}.checkpoints c WHERE c.consumer = $3 AND c.generation = 1
                       AND c.topic = p.topic AND c.partition = p.partition))
                   FROM intake.published p WHERE p.id = $6) AS published""",
            inbox_key(wiring.name, 1, token.tenant, token.source, token.id),
            token.id,
            wiring.name,
            token.tenant,
            token.source,
            UUID(token.intake_id),
        )
        return await self._judge(schema, wiring.name, token, rows[0])

    async def _judge(self, schema: str, consumer: str, token: Token, row: Any) -> Outcome | None:
        parked: dict[str, str] | None = from_json(row["parked"]) if row["parked"] else None
        applied: int | None = row["applied"]
        if applied is not None and (token.digest is None or applied == token.digest):
            return await self._applied(schema, consumer, token)
        if parked is not None:
            return Outcome("parked", reason=parked["reason"], detail=parked["detail"])
        if row["waiting"]:
            return Outcome("accepted")
        if row["published"]:
            place: dict[str, int | None] = from_json(row["published"])
            passed = (place["next"] or 0) > (place["offset"] or 0)
            return Outcome("discarded" if passed and applied is None else "queued")
        return None

    async def _applied(self, schema: str, consumer: str, token: Token) -> Outcome:
        ids = [
            derived_id(consumer, token.tenant, token.source, token.id, str(number))
            for number in range(MAX_OUTPUTS)
        ]
        rows = await self._monitor.fetch(
            f"SELECT id, type, key, version, recorded_at, reason FROM {schema}.outcomes WHERE id = ANY($1::uuid[])",
            ids,
        )
        by_id = {row["id"]: row for row in rows}
        found = [by_id[it] for it in ids if it in by_id]
        facts = tuple(
            Fact(row["id"], row["type"], row["key"], row["version"], row["recorded_at"]) for row in found
        )
        refusal = next((row for row in found if self._catalog.contracts[row["type"]].kind == "refusal"), None)
        if refusal is not None:
            return Outcome("refused", facts, refusal["reason"])
        return Outcome("applied", facts)
