"""What operators do with parked messages: look, redrive, discard. In order, under the parked key's lock, audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_core import from_json

from events.operations import ParkedDiscarded
from infra.errors import TriplaneError, Unacceptable
from infra.kafka.record import Record
from infra.postgres.database import DATA, Connection, Database
from infra.runtime.consuming.batch import Batcher
from infra.runtime.consuming.parking import thawed
from infra.runtime.engine import Engine
from infra.runtime.messages.codec import Codec, Incoming
from infra.runtime.messages.delivery import Delivery
from infra.runtime.messages.vault import TENANT_KEY
from infra.runtime.operating import acts as operations

_COLUMNS: Final = """id, consumer, generation, topic, partition, "offset", timestamp, tenant, source, message_id, type, keys,
                     reason, detail, parked_at"""


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """One parked message as operators see it; `id` is unique within its schema."""

    schema: str
    id: int
    consumer: str
    generation: int
    topic: str
    partition: int
    offset: int
    tenant: str
    type: str | None
    message_id: str | None
    keys: tuple[str, ...]
    reason: str
    detail: str
    parked_at: datetime

    @property
    def name(self) -> str:
        """How operators name it: `payments-12`."""
        return f"{self.schema}-{self.id}"


class StillFails(TriplaneError):
    """A redriven message was refused again; it stays parked."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the code beside the words."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def _still_fails(refused: BaseException) -> StillFails:
    """Say what of a redriven message could not be written."""
    if isinstance(refused, Unacceptable):
        return StillFails(refused.reason, refused.detail)
    return StillFails("refused_by_database", f"{type(refused).__name__}: {refused}")


REFUSALS: tuple[type[BaseException], ...] = (StillFails, Unacceptable, *DATA)
"""What a redriven message is refused by, in memory or by the database."""


class NotFirst(TriplaneError):
    """An earlier message is parked under the same key: redrive or discard that one first."""


async def parked(
    database: Database,
    *,
    consumer: str | None = None,
    tenant: str | None = None,
    reason: str | None = None,
    limit: int = 1_000,
) -> list[ParkedMessage]:
    """List what is parked in a schema, in the order in which it would be redriven."""
    rows = await database.fetch(
        f"""SELECT {_COLUMNS} FROM parked
            WHERE ($1::text IS NULL OR consumer = $1) AND ($2::text IS NULL OR tenant = $2)
              AND ($3::text IS NULL OR reason = $3) ORDER BY id LIMIT $4""",
        consumer,
        tenant,
        reason,
        limit,
    )
    return [_message(database.schema, row) for row in rows]


def _message(schema: str, row: Any) -> ParkedMessage:
    return ParkedMessage(
        schema,
        row["id"],
        row["consumer"],
        row["generation"],
        row["topic"],
        row["partition"],
        row["offset"],
        row["tenant"],
        row["type"],
        row["message_id"],
        tuple(row["keys"]),
        row["reason"],
        row["detail"],
        row["parked_at"],
    )


async def original(database: Database, codec: Codec, parked_id: int) -> Record | None:
    """Give a parked record byte by byte as it was read; `None` when it is not parked any more."""
    rows = await database.fetch("SELECT * FROM parked WHERE id = $1", parked_id)
    return await _thaw(codec, rows[0]) if rows else None


async def _thaw(codec: Codec, row: Any) -> Record:
    await codec.vault.warm({(row["tenant"], TENANT_KEY)}, create=False)
    text = codec.vault.unseal_bytes(row["tenant"], row["record"])
    return thawed(from_json(text), (row["topic"], row["partition"], row["offset"], row["timestamp"]))


async def redrive(batcher: Batcher, parked_id: int) -> bool:
    """Give one parked message to its consumer again; `False` when it is not parked any more.

    Raises `StillFails` (it stays parked, with the new reason) or `NotFirst`.
    """
    try:
        async with batcher.database.transaction() as tx:
            found = await tx.fetchrow("SELECT topic, partition FROM parked WHERE id = $1", parked_id)
            if found is None:
                return False
            await batcher.hold(tx, {(found["topic"], found["partition"])})
            row = await _held(tx, parked_id)
            if row is None:
                return False
            if row["replay"] is not None:
                batcher = batcher.under(Delivery(batcher.wiring.name, anew=row["replay"]))
            opened = await batcher.open([await _thaw(batcher.codec, row)])
            # What could not be read when it was parked may need states by now that something else waits for.
            await _must_be_first(
                tx, row, [key for it in opened if isinstance(it, Incoming) for key in batcher.watched(it)]
            )
            counts = await batcher.apply(tx, opened, redrive=True)
            if counts.refused is not None:
                raise StillFails(counts.refused.reason, counts.refused.detail)
            await _release(tx, row)
            return True
    except REFUSALS as refused:
        fails = refused if isinstance(refused, StillFails) else _still_fails(refused)
        await batcher.database.execute(
            "UPDATE parked SET reason = $2, detail = $3 WHERE id = $1",
            parked_id,
            fails.reason,
            fails.detail[:2000],
        )
        raise fails from None


async def discard(database: Database, parked_id: int) -> ParkedMessage | None:
    """Give up one parked message; `None` when it is not parked any more. Its order among its keys does not matter."""
    async with database.transaction() as tx:
        row = await _held(tx, parked_id, first=False)
        if row is None:
            return None
        await _release(tx, row)
        return _message(database.schema, row)


async def discard_audited(engine: Engine, message: ParkedMessage, *, who: str, why: str) -> bool:
    """Discard a parked message and keep the record of it, with its bytes: every rebuild and replay leaves it out.

    The record is written first: a crash between the two leaves a message that is parked and overlaid, never one that is
    gone without a trace. Discarding again completes it.
    """
    database = engine.databases[message.schema]
    rows = await database.fetch("SELECT tenant, record FROM parked WHERE id = $1", message.id)
    if not rows:
        return False
    topics = await engine.admin.topics([message.topic])
    operation = operations.new_operation()
    act = ParkedDiscarded(
        operation_id=operation,
        consumer=message.consumer,
        topic_id=topics[message.topic].id,
        partition=message.partition,
        offset=message.offset,
        who=who,
        why=why,
        at=datetime.now(UTC),
    )
    async with engine.databases["operations"].transaction() as tx:
        await operations.write(tx, engine.codec, act, tenant=message.tenant, who=who, why=why)
        await tx.execute(
            """INSERT INTO overlays (consumer, topic_id, partition, "offset", tenant, record, act)
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING""",
            message.consumer,
            topics[message.topic].id,
            message.partition,
            message.offset,
            rows[0]["tenant"],
            rows[0]["record"],
            operation,
        )
    return await discard(database, message.id) is not None


async def _held(tx: Connection, parked_id: int, *, first: bool = True) -> Any:
    """Lock the parked keys of a message, then the message itself."""
    keys = await tx.fetchrow("SELECT consumer, generation, keys FROM parked WHERE id = $1", parked_id)
    if keys is None:
        return None
    await tx.fetch(
        """SELECT FROM parked_keys WHERE consumer = $1 AND generation = $2 AND key = ANY($3)
           ORDER BY key COLLATE "C" FOR UPDATE""",
        keys["consumer"],
        keys["generation"],
        keys["keys"],
    )
    row = await tx.fetchrow("SELECT * FROM parked WHERE id = $1 FOR UPDATE", parked_id)
    if row is not None and first:
        await _must_be_first(tx, row, row["keys"])
    return row


async def _must_be_first(tx: Connection, row: Any, keys: Sequence[str]) -> None:
    before = await tx.fetchval(
        "SELECT min(id) FROM parked WHERE consumer = $1 AND generation = $2 AND id < $3 AND keys && $4",
        row["consumer"],
        row["generation"],
        row["id"],
        keys,
    )
    if before is not None:
        raise NotFirst(
            f"an earlier message of the same key is parked (number {before}): redrive or discard it first"
        )


async def _release(tx: Connection, row: Any) -> None:
    await tx.execute("DELETE FROM parked WHERE id = $1", row["id"])
    await tx.execute(
        """DELETE FROM parked_keys k WHERE k.consumer = $1 AND k.generation = $2 AND k.key = ANY($3)
             AND NOT EXISTS (SELECT FROM parked p WHERE p.consumer = $1 AND p.generation = $2 AND p.keys @> ARRAY[k.key])""",
        row["consumer"],
        row["generation"],
        row["keys"],
    )
