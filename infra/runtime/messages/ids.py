"""The same cause always makes the same message: ids are derived, never drawn."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as QuickUUID  # noqa: N811 - a UUID like any other, made and written in C

INTERNAL_SOURCE = "triplane/"
"""Sources that start so are the platform's own; upstream may not use them."""
INBOX_DAYS = 35
"""How long it is known what was applied."""


def source_of(context: str) -> str:
    """Name the CloudEvents source of what `context` publishes."""
    return f"{INTERNAL_SOURCE}{context}"


def derived_id(*parts: str) -> UUID:
    """Derive an id from what caused it: consumer, then the cause's tenant, source and id, then a counter.

    A version 8 UUID (RFC 9562) of a 128-bit BLAKE2b digest.
    """
    digest = bytearray(blake2b("\0".join(parts).encode(), digest_size=16, person=b"triplane-id").digest())
    digest[6] = (digest[6] & 0x0F) | 0x80
    digest[8] = (digest[8] & 0x3F) | 0x80
    return QuickUUID(bytes(digest))


def inbox_key(consumer: str, generation: int, tenant: str, source: str, message_id: str) -> str:
    """Give the inbox's key of a message for a consumer: a digest of what makes the message itself, in 32 hex digits.

    The database keeps it as a uuid; as text it is made, hashed and sorted several times faster.
    """
    digest = _inbox_scope(consumer, generation, tenant, source).copy()
    digest.update(message_id.encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _inbox_scope(consumer: str, generation: int, tenant: str, source: str) -> blake2b:
    """Begin the digests of what many messages share: to go on from there takes a third of the time."""
    scope = f"{consumer}\0{generation}\0{tenant}\0{source}\0"
    return blake2b(scope.encode(), digest_size=16, person=b"triplane-inbox")


def content_hash(kind: str, body: bytes) -> int:
    """Give a signed 64-bit digest of a message's type and body, to tell a duplicate from another under the same id."""
    digest = _of_kind(kind).copy()
    digest.update(body)
    return int.from_bytes(digest.digest(), "big", signed=True)


@lru_cache(maxsize=1024)
def _of_kind(kind: str) -> blake2b:
    return blake2b(b"%b\0" % kind.encode(), digest_size=8)


def payload_hash(value: bytes) -> int:
    """Give a signed 64-bit digest."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big", signed=True)
