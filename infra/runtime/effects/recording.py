"""The batch of an outside effect only writes down what is to be done."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import to_json

from infra.postgres.database import Connection
from infra.postgres.writes import Writes
from infra.runtime.catalog import EffectWiring
from infra.runtime.messages.codec import Incoming
from infra.runtime.messages.delivery import Delivery
from infra.runtime.messages.ids import derived_id


class Recording:
    """One batch of an `async def` handler's consumer: it only writes down what is to be done."""

    def __init__(self, wiring: EffectWiring, delivery: Delivery) -> None:
        """Write down effects for `wiring`; `delivery` is how the messages come."""
        self._wiring = wiring
        self._scope = delivery.scope
        self._due: list[Incoming] = []

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """An effect waits for nothing but earlier effects of its key."""
        return (f"effect:{incoming.envelope.tenant}:{incoming.key}",)

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Nothing to load: the effect's id is derived, so it is written once."""

    def fold(self, incoming: Incoming) -> None:
        """Take the effect down."""
        self._due.append(incoming)

    async def save(self, tx: Connection, writes: Writes) -> None:  # noqa: ARG002 - nothing is asked any more
        """Write the effects, in order."""
        if not self._due:
            return
        name = self._wiring.name
        writes.add(
            """INSERT INTO effects (id, consumer, tenant, key, type, headers, value, appended_at)
               SELECT id, consumer, tenant, key, type, headers::json, value, appended_at
               FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::timestamptz[])
                 AS e (id, consumer, tenant, key, type, headers, value, appended_at)
               ON CONFLICT (id) DO NOTHING""",
            [
                derived_id(self._scope, it.envelope.tenant, it.envelope.source, it.envelope.id, "effect")
                for it in self._due
            ],
            [name] * len(self._due),
            [it.envelope.tenant for it in self._due],
            [it.key for it in self._due],
            [it.contract.name for it in self._due],
            [to_json(dict(it.envelope.texts())).decode() for it in self._due],
            [it.record.value for it in self._due],
            [it.record.at for it in self._due],
        )
