"""What cannot be folded is parked byte-exact under its state keys; what needs those keys queues behind it.

Other keys flow. An operator redrives or discards: in order, under the parked key's lock, audited.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from pydantic_core import to_json

from infra.kafka.record import Record, Spot
from infra.postgres.database import Connection, Database
from infra.runtime.messages.codec import Incoming, Rejected
from infra.runtime.messages.envelope import TENANT
from infra.runtime.messages.vault import TENANT_KEY, Vault

MAX_KEY: Final = 500
"""How many characters of a key are kept; an index entry holds little more than 2,700 bytes."""
Scope = tuple[str, int]
"""Whose parking it is: a consumer and its generation."""

NO_TENANT = "-"
"""Whose key encrypts the parked bytes of a message whose tenant cannot be known."""


@dataclass(slots=True)
class Parked:
    """One record to be parked, with the keys that wait for it."""

    rejected: Rejected
    keys: tuple[str, ...]

    @classmethod
    def of(cls, rejected: Rejected, keys: tuple[str, ...]) -> Parked:
        """Park `rejected` under `keys`, or alone when it has none."""
        return cls(rejected, keys or (alone(rejected.record),))

    @property
    def tenant(self) -> str:
        """The tenant of the message, as far as it can be known."""
        if self.rejected.envelope is not None:
            return self.rejected.envelope.tenant
        for name, value in self.rejected.record.headers:
            text = (value or b"").decode("ascii", "replace")
            if name == "ce_tenantid" and TENANT.match(text):
                return text
        return NO_TENANT


def bounded(key: str) -> str:
    """Fit a key into the index: one that is long, or holds what PostgreSQL cannot, goes by its digest."""
    if len(key) <= MAX_KEY and "\0" not in key:
        return key
    digest = blake2b(key.encode(), digest_size=16).hexdigest()
    return f"{key[:64]}#{digest}".replace("\0", "")


def alone(record: Record) -> str:
    """Name the place of a record that blocks nothing but itself."""
    return f"at:{record.topic}:{record.partition}:{record.offset}"


def wire_key(record: Record) -> str:
    """Name a record's key on the wire: an undecodable record of an ordered topic blocks it."""
    return bounded(f"wire:{record.topic}:{(record.key or b'').decode('utf-8', 'backslashreplace')}")


def keys_of_rejected(rejected: Rejected) -> tuple[str, ...]:
    """Say what a refused record blocks: its states, if known; else its wire key where order is promised."""
    if rejected.keys:
        return rejected.keys
    if rejected.record.inbound or rejected.record.key is None:
        return (alone(rejected.record),)
    return (wire_key(rejected.record),)


def watched(incoming: Incoming, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Name everything behind which a message must wait."""
    return keys if incoming.record.inbound else (*keys, wire_key(incoming.record))


async def blocked(tx: Connection, scope: Scope, keys: Collection[str]) -> set[str]:
    """Find which of `keys` something is parked under; a key being released is waited for."""
    rows = await tx.fetch(
        """SELECT key FROM parked_keys WHERE consumer = $1 AND generation = $2 AND key = ANY($3::text[])
           ORDER BY key COLLATE "C" FOR UPDATE""",
        *scope,
        sorted(keys),
    )
    return {row["key"] for row in rows}


async def parked_of(database: Database, scope: Scope, records: Sequence[Record]) -> set[Spot]:
    """Find which of these records are parked, by where they lie."""
    rows = await database.fetch(
        """SELECT topic, partition, "offset" FROM parked
           JOIN unnest($3::text[], $4::int[], $5::bigint[]) AS r (topic, partition, "offset") USING (topic, partition, "offset")
           WHERE consumer = $1 AND generation = $2""",
        *scope,
        [it.topic for it in records],
        [it.partition for it in records],
        [it.offset for it in records],
    )
    return {(row["topic"], row["partition"], row["offset"]) for row in rows}


async def park(
    tx: Connection, scope: Scope, vault: Vault, parked: Sequence[Parked], replay: UUID | None = None
) -> None:
    """Keep records with their reasons until an operator redrives or discards them.

    `replay` is the one that applied them anew: when they are redriven, they go on counting as new.
    """
    if not parked:
        return
    await vault.warm({(it.tenant, TENANT_KEY) for it in parked}, create=True)
    keys = sorted({key for it in parked for key in it.keys if key != alone(it.rejected.record)})
    await tx.execute(
        """INSERT INTO parked_keys (consumer, generation, key) SELECT $1, $2, key FROM unnest($3::text[]) AS key
           ON CONFLICT (consumer, generation, key) DO UPDATE SET parked_at = parked_keys.parked_at""",
        *scope,
        keys,
    )
    await tx.executemany(
        """INSERT INTO parked (consumer, generation, topic, partition, "offset", timestamp, tenant, source, message_id, type,
                               keys, record, reason, detail, replay)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING""",
        [(*scope, *_columns(vault, it), replay) for it in parked],
    )


def _columns(vault: Vault, parked: Parked) -> tuple[Any, ...]:
    rejected, record = parked.rejected, parked.rejected.record
    envelope = rejected.envelope
    return (
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        parked.tenant,
        envelope.source if envelope else None,
        envelope.id if envelope else None,
        envelope.type if envelope else None,
        list(parked.keys),
        vault.seal_bytes(parked.tenant, frozen(record)),
        rejected.reason,
        rejected.detail.replace("\0", "\\0")[:2000],
    )


def frozen(record: Record) -> bytes:
    """Write a record's bytes down exactly: key, value and headers."""
    return to_json(
        {
            "key": None if record.key is None else record.key.hex(),
            "value": None if record.value is None else record.value.hex(),
            "headers": [(name, None if value is None else value.hex()) for name, value in record.headers],
        }
    )


def thawed(text: dict[str, Any], place: tuple[str, int, int, int]) -> Record:
    """Give back a record as it was read."""
    topic, partition, offset, timestamp = place
    return Record(
        topic,
        partition,
        offset,
        timestamp,
        None if text["key"] is None else bytes.fromhex(text["key"]),
        None if text["value"] is None else bytes.fromhex(text["value"]),
        [(name, None if value is None else bytes.fromhex(value)) for name, value in text["headers"]],
    )
