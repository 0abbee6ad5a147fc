"""Reading behind a write: waits until a read model has folded what a message led to, and else says what is in the way.

Followed are the facts that the message's own decider published. What a saga makes of them later is no longer the
message's doing; its facts have tokens of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from infra.errors import Unacceptable
from infra.postgres.database import Database
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.folding.generations import READABLE, asked_for, readable
from infra.runtime.folding.read_models import ReadModel
from infra.runtime.intake.outcomes import Fact, Outcome, Outcomes
from infra.runtime.intake.tokens import Token

MAX_WAIT_S: Final = 30.0
FIRST_PAUSE_S: Final = 0.004
LONGEST_PAUSE_S: Final = 0.1
KEPT_HOURS: Final = 23
"""How long the places of published messages are surely known; an older one has been read or its model is far behind, unless it
came when rows that no longer serve may have stood still."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Whether a read model shows what was asked for."""

    state: Literal["reached", "unknown", "accepted", "queued", "applied", "refused", "parked", "discarded"]
    """`applied`: decided, and not yet in this read model. The rest as of an outcome."""
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class At:
    """A place in a topic, up to and with which a read model shall have read."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> At:
        """Read `topic/partition/offset`; raise `Unacceptable` otherwise."""
        match text.split("/"):
            case [topic, partition, offset] if _number(partition) and _number(offset):
                return cls(topic, int(partition), int(offset))
            case _:
                raise Unacceptable(
                    "at", "at: write it topic/partition/offset, such as payments.events/3/1042"
                )


class Following:
    """Waits for read models."""

    def __init__(self, monitor: Database, outcomes: Outcomes) -> None:
        """Read as the monitor."""
        self._monitor = monitor
        self._outcomes = outcomes

    async def token(self, model: ProjectionWiring, rows: ReadModel, token: Token, wait_s: float) -> Reached:
        """Wait up to `wait_s` seconds until the `rows` that this code reads show what came of a message.

        Raises `Behind` when it can read none.
        """
        settled: Outcome | None = None

        async def look() -> Reached:
            nonlocal settled
            if settled is None:
                outcome = await self._outcomes.of(token)
                if outcome is None:
                    return Reached("unknown")
                if outcome.state != "applied":
                    return Reached(outcome.state, outcome.reason, outcome.detail)
                settled = outcome
            return await self._shown(model, rows, token.context, settled.facts)

        return await _patiently(look, wait_s)

    async def place(self, model: ProjectionWiring, rows: ReadModel, at: At, wait_s: float) -> Reached:
        """Wait up to `wait_s` seconds until the `rows` that this code reads have come to a place.

        Raises `Unacceptable` when they never will, `Behind` when it can read none.
        """
        if at.topic not in model.topics:
            raise Unacceptable(
                "at",
                f"at: {model.projection.name} does not read {at.topic!r}; it reads {', '.join(model.topics)}",
            )

        async def look() -> Reached:
            found = await self._monitor.fetch(
                f"""SELECT max(next_offset) AS next FROM projections.checkpoints
                    WHERE consumer = $3 AND topic = $4 AND partition = $5 AND generation = ({READABLE.format("$1", "$2")})""",
                model.projection.name,
                asked_for(rows),
                model.name,
                at.topic,
                at.partition,
            )
            following: int | None = found[0]["next"]
            if following is None:
                await readable(self._monitor, model, rows)
                raise Unacceptable("at", f"at: {at.topic} has no partition {at.partition}")
            return Reached("reached" if following > at.offset else "queued")

        return await _patiently(look, wait_s)

    async def _shown(
        self, model: ProjectionWiring, rows: ReadModel, context: str, facts: tuple[Fact, ...]
    ) -> Reached:
        wanted = [fact.id for fact in facts if fact.type in model.listens]
        if not wanted:
            return Reached("reached")
        found = await self._monitor.fetch(
            f"""SELECT p.id IS NULL AND o.recorded_at > now() - make_interval(hours => $4) AS unsent,
                       coalesce(c.next_offset > p."offset",
                                p.id IS NULL AND (g.standing = 'active' OR o.recorded_at < g.switched_at)) AS read,
                       parked.reason, parked.detail
                FROM {context}.outcomes o
                JOIN projections.generations g ON g.projection = $2 AND g.generation = ({READABLE.format("$2", "$5")})
                LEFT JOIN {context}.published p ON p.id = o.id
                LEFT JOIN projections.checkpoints c ON c.consumer = $3 AND c.generation = g.generation
                     AND c.topic = p.topic AND c.partition = p.partition
                LEFT JOIN projections.parked parked ON parked.consumer = $3 AND parked.generation = g.generation
                     AND parked.message_id = o.id::text AND parked.tenant = o.tenant
                WHERE o.id = ANY($1::uuid[])""",
            wanted,
            model.projection.name,
            model.name,
            KEPT_HOURS,
            asked_for(rows),
        )
        if not found:
            await readable(self._monitor, model, rows)
        for row in found:
            if row["reason"] is not None:
                return Reached("parked", row["reason"], row["detail"])
        return Reached(
            "reached" if found and all(row["read"] and not row["unsent"] for row in found) else "applied"
        )


async def _patiently(look: Callable[[], Awaitable[Reached]], wait_s: float) -> Reached:
    """Look again and again, less and less often, until something is settled or the time is up."""
    give_up = time.monotonic() + min(wait_s, MAX_WAIT_S)
    pause = FIRST_PAUSE_S
    while True:
        found = await look()
        left = give_up - time.monotonic()
        if found.state in {"reached", "refused", "parked", "discarded"} or left <= 0:
            return found
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE_S)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
