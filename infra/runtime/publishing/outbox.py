"""State and message in one transaction: what is to be published is a row until a relay has the broker's word for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID
from zlib import crc32

from pydantic_core import to_json

from events import Message
from infra.errors import Unacceptable
from infra.postgres.database import Connection
from infra.postgres.writes import Table, Writes
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.envelope import Envelope

BUCKETS: Final = 64
MAX_RECORD_BYTES: Final = 1_000_000
"""A record larger than this is refused where it is written, never in the relay (the topics take 1 MiB)."""
OUTBOX: Final = Table(
    "outbox",
    (
        ("bucket", "smallint"),
        ("id", "uuid"),
        ("topic", "text"),
        ("key", "text"),
        ("headers", "json"),
        ("value", "bytea"),
    ),
)


@dataclass(slots=True, frozen=True)
class Outgoing:
    """One message on its way to a topic."""

    id: UUID
    topic: str
    key: str
    envelope: Envelope
    value: bytes

    @property
    def bucket(self) -> int:
        """The share of the outbox that one relay publishes in order: same key, same bucket."""
        return crc32(f"{self.envelope.tenant}\0{self.topic}\0{self.key}".encode()) % BUCKETS


def check_size(outgoing: Outgoing) -> None:
    """Refuse what the broker would refuse."""
    if len(outgoing.value) > MAX_RECORD_BYTES:
        size = len(outgoing.value)
        raise Unacceptable(
            "too_large", f"{outgoing.envelope.type}: {size} bytes; at most {MAX_RECORD_BYTES} are published"
        )


def prepared(codec: Codec, message: Message, key: str, message_id: UUID, envelope: Envelope) -> Outgoing:
    """Seal a message for its topic (warm the vault first), and refuse what the broker would refuse. `key` is its own."""
    contract = codec.catalog.of(type(message))
    value = codec.encode(contract, envelope.tenant, message)
    outgoing = Outgoing(message_id, contract.topic, key, envelope, value)
    check_size(outgoing)
    return outgoing


def add(writes: Writes, messages: Sequence[Outgoing]) -> None:
    """Append messages to the schema's outbox, in order, with what else is written; their publishing states are locked."""
    writes.insert(OUTBOX, list(map(columns, messages)))


async def write(tx: Connection, messages: Sequence[Outgoing]) -> None:
    """Append messages to the schema's outbox, in order."""
    writes = Writes()
    add(writes, messages)
    await writes.send(tx)


def columns(message: Outgoing) -> tuple[object, ...]:
    """Give a message as a row of the outbox: bucket, id, topic, key, headers and value."""
    headers = to_json(message.envelope.texts()).decode()
    return message.bucket, message.id, message.topic, message.key, headers, message.value
