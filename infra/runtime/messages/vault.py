"""Personal values leave a process only encrypted with their subject's key; destroying the key erases them everywhere.

Keys live in schema `vault`, wrapped by a key from outside the database, and are read over a connection and role of
their own. They are cached for at most `CACHE_SECONDS`, so an erasure takes effect everywhere within that time.
"""

from __future__ import annotations

import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic_core import from_json, to_json

from infra.errors import Unacceptable
from infra.postgres.database import Database

CACHE_SECONDS: Final = 60.0
_NONCE: Final = 12
_NEVER: Final = (float("-inf"), None)
Subject = tuple[str, str]
"""A tenant and the id of a person in it."""

TENANT_KEY: Final = "#tenant"
"""The subject that stands for a tenant itself: parked bytes whose subject cannot be known."""


class Vault:
    """The subjects' keys, and what is done with them."""

    def __init__(self, database: Database, master_key: bytes, *, keep: bool = True) -> None:
        """Read keys over `database` (role of schema `vault`); unwrap them with a key derived from `master_key`.

        Unless it is to `keep` them, keys that it makes are forgotten with it: for what is rolled back anyway.
        """
        self._database = database
        self._keep = keep
        self._wrapper = AESGCM(_derive(master_key, b"vault"))
        self._pepper = _derive(master_key, b"claims")
        self._cache: dict[Subject, tuple[float, AESGCM | None]] = {}

    async def warm(self, subjects: Collection[Subject], *, create: bool) -> None:
        """Have the keys of `subjects` at hand; with `create`, make those that never existed."""
        horizon = time.monotonic() - CACHE_SECONDS
        wanted = [subject for subject in set(subjects) if self._cache.get(subject, _NEVER)[0] < horizon]
        if not wanted:
            return
        if create and self._keep:
            await self._database.execute(
                """INSERT INTO subject_keys (tenant, subject, wrapped)
                   SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) ON CONFLICT DO NOTHING""",
                [tenant for tenant, _ in wanted],
                [subject for _, subject in wanted],
                [self._wrap(subject, AESGCM.generate_key(256)) for subject in wanted],
            )
        read_at = time.monotonic()
        rows = await self._database.fetch(
            """SELECT tenant, subject, wrapped FROM subject_keys
               JOIN unnest($1::text[], $2::text[]) AS wanted (tenant, subject) USING (tenant, subject)""",
            [tenant for tenant, _ in wanted],
            [subject for _, subject in wanted],
        )
        if len(self._cache) > 100_000:
            # What somebody warmed up a moment ago stays until they have used it.
            self._cache = {
                subject: it for subject, it in self._cache.items() if it[0] >= horizon - CACHE_SECONDS
            }
        for row in rows:
            subject = (row["tenant"], row["subject"])
            wrapped = row["wrapped"]
            self._cache[subject] = (
                read_at,
                AESGCM(self._unwrap(subject, wrapped)) if wrapped is not None else None,
            )
        if create and not self._keep:
            for subject in set(wanted) - {(row["tenant"], row["subject"]) for row in rows}:
                self._cache[subject] = (float("inf"), AESGCM(AESGCM.generate_key(256)))

    def seal(self, subject: Subject, field: str, value: Any) -> dict[str, Any]:
        """Encrypt one value; a subject whose key is destroyed gets the erased mark instead."""
        key = self._cache[subject][1]
        if key is None:
            return {"erased": True}
        nonce = os.urandom(_NONCE)
        sealed = nonce + key.encrypt(nonce, to_json(value), _bound_to(subject, field))
        return {"sealed": urlsafe_b64encode(sealed).decode()}

    def unseal(self, subject: Subject, field: str, value: Any) -> Any:
        """Decrypt one value; what was never sealed is given back as it is."""
        if not (isinstance(value, dict) and "sealed" in value):
            return value
        try:
            # A key that never was is no erased one: its row stays.
            key = self._cache[subject][1]
            if key is None:
                return {"erased": True}
            raw = urlsafe_b64decode(value["sealed"])
            return from_json(key.decrypt(raw[:_NONCE], raw[_NONCE:], _bound_to(subject, field)))
        except (InvalidTag, KeyError, ValueError, TypeError):
            raise Unacceptable(
                "wrong_seal",
                f"{field}: was not sealed for this tenant and subject; a sealed value cannot be copied",
            ) from None

    def seal_bytes(self, tenant: str, value: bytes) -> bytes:
        """Encrypt bytes with the tenant's own key (warm `(tenant, TENANT_KEY)` before)."""
        key = self._cache[tenant, TENANT_KEY][1]
        if key is None:
            return b""
        nonce = os.urandom(_NONCE)
        return nonce + key.encrypt(nonce, value, _bound_to((tenant, TENANT_KEY), "bytes"))

    def unseal_bytes(self, tenant: str, value: bytes) -> bytes:
        """Decrypt what `seal_bytes` gave."""
        key = self._cache[tenant, TENANT_KEY][1]
        if key is None:
            return b""
        return key.decrypt(value[:_NONCE], value[_NONCE:], _bound_to((tenant, TENANT_KEY), "bytes"))

    def claim_digest(self, tenant: str, kind: str, claim: str, value: str) -> bytes:
        """Give the keyed hash under which a claimed value is looked up; without the master key it tells nothing."""
        mac = HMAC(self._pepper, SHA256())
        mac.update(f"{tenant}\0{kind}\0{claim}\0{value}".encode())
        return mac.finalize()[:20]

    async def erase(self, subject: Subject) -> bool:
        """Destroy a subject's key for ever; give whether there was one."""
        done = await self._database.fetch(
            """UPDATE subject_keys SET wrapped = NULL, erased_at = now()
               WHERE tenant = $1 AND subject = $2 AND wrapped IS NOT NULL RETURNING 1""",
            *subject,
        )
        if done:
            self._cache[subject] = (time.monotonic(), None)
        return bool(done)

    def _wrap(self, subject: Subject, key: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._wrapper.encrypt(nonce, key, _bound_to(subject, "key"))

    def _unwrap(self, subject: Subject, wrapped: bytes) -> bytes:
        return self._wrapper.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _bound_to(subject, "key"))


def _derive(master_key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"triplane:" + purpose).derive(master_key)


def _bound_to(subject: Subject, field: str) -> bytes:
    return "\0".join((*subject, field)).encode()
