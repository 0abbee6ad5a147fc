"""The batch of an outside effect only writes down what is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pydantic_core import to_json

from infra.postgres.database import Connection
from infra.postgres.writes import Writes, arrays
from infra.runtime.catalog import EffectWiring
from infra.runtime.messages.codec import Incoming
from infra.runtime.messages.delivery import Delivery
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import derived_id


def effect_id(scope: str, envelope: Envelope) -> UUID:
    """Give the id of the effect that a message asks for, in the scope of its delivery."""
    return derived_id(scope, envelope.tenant, envelope.source, envelope.id, "effect")


class Recording:
    """One batch of an `async def` handler's consumer: it only writes down what is to be done.

    What a replay asks for may have been done before, under another id: it is looked up first, where it can be.
    """

    def __init__(self, wiring: EffectWiring, delivery: Delivery) -> None:
        """Write down effects for `wiring`; `delivery` is how the messages come."""
        self._wiring = wiring
        self._scope = delivery.scope
        self._standing = "started" if delivery.of_replay and wiring.finder is not None else "due"
        self._due: list[tuple[UUID, str, str, str, str, bytes | None, datetime]] = []

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """An effect waits for nothing but earlier effects of its key."""
        return (f"effect:{incoming.envelope.tenant}:{incoming.key}",)

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Nothing to load: the effect's id is derived, so it is written once."""

    def fold(self, incoming: Incoming) -> None:
        """Take the effect down, as its row: lanes get their turn between messages, and none while rows are saved."""
        envelope = incoming.envelope
        self._due.append(
            (
                effect_id(self._scope, envelope),
                envelope.tenant,
                incoming.key,
                incoming.contract.name,
                to_json(dict(envelope.texts())).decode(),
                incoming.record.value,
                incoming.record.at,
            )
        )

    async def save(self, tx: Connection, writes: Writes) -> None:  # noqa: ARG002 - nothing is asked any more
        """Write the effects, in order."""
        if not self._due:
            return
        writes.add(
            """INSERT INTO effects (id, consumer, standing, tenant, key, type, headers, value, appended_at)
               SELECT id, $1, $2, tenant, key, type, headers::json, value, appended_at
               FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::timestamptz[])
                 AS e (id, tenant, key, type, headers, value, appended_at)
               ON CONFLICT (id) DO NOTHING""",
            self._wiring.name,
            self._standing,
            *arrays(self._due),
        )
