"""Operators' acts are events: who, what and why, kept for ever and published on `operations.events`."""

from __future__ import annotations

from uuid import UUID, uuid4

from events import Event
from infra.postgres.database import Connection, Database
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import source_of
from infra.runtime.publishing import outbox
from infra.runtime.publishing.outbox import Outgoing

INSTALLATION = "platform"
"""The tenant of acts that concern no single tenant."""


def new_operation() -> UUID:
    """Give an id for an act; an act is made once, by a person, so it is drawn and not derived."""
    return uuid4()


async def record(database: Database, codec: Codec, act: Event, *, tenant: str, who: str, why: str) -> None:
    """Keep an act and publish it; `database` is that of schema `operations`."""
    async with database.transaction() as tx:
        await write(tx, codec, act, tenant=tenant, who=who, why=why)


async def write(tx: Connection, codec: Codec, act: Event, *, tenant: str, who: str, why: str) -> None:
    """Keep an act and publish it, in a transaction of schema `operations`."""
    contract = codec.catalog.of(type(act))
    operation = UUID(str(getattr(act, contract.key)))
    at = await tx.fetchval("SELECT now()")
    body = codec.encode(contract, tenant, act)
    envelope = Envelope(
        id=str(operation),
        type=contract.name,
        source=source_of("operations"),
        tenant=tenant,
        version=contract.current,
        time=at,
        correlation=str(operation),
        sequence=1,
    )
    await tx.execute(
        "INSERT INTO acts (id, type, tenant, who, why, body) VALUES ($1, $2, $3, $4, $5, $6)",
        operation,
        contract.name,
        tenant,
        who,
        why,
        body.decode(),
    )
    await outbox.write(tx, [Outgoing(operation, contract.topic, str(operation), envelope, body)])
