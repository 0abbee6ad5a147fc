"""Which tenants there are: whatever comes from outside for an unknown or suspended one is parked.

A development home registers an unknown tenant at first sight, so that a newcomer's first event goes through.
"""

from __future__ import annotations

import time
from typing import Final

from infra.errors import Unacceptable
from infra.postgres.database import Database

CACHE_SECONDS: Final = 5.0


class Tenancy:
    """The tenants, read over a connection and role of their own and cached for `CACHE_SECONDS`."""

    def __init__(self, database: Database, *, development: bool, keep: bool = True) -> None:
        """Read over `database` (role of schema `tenancy`); unless it is to `keep` newcomers, they are admitted only."""
        self._database = database
        self._keep = keep
        self._development = development
        self._known: dict[str, str] = {}
        self._read_at = -CACHE_SECONDS

    async def admit(self, tenant: str) -> None:
        """Return for an active tenant; raise `Unacceptable` for any other."""
        if time.monotonic() - self._read_at > CACHE_SECONDS:
            await self._read()
        if tenant not in self._known and self._development:
            if not self._keep:
                return
            await self._database.execute(
                "INSERT INTO tenants (tenant, origin) VALUES ($1, 'first sight') ON CONFLICT DO NOTHING",
                tenant,
            )
            await self._read()
        standing = self._known.get(tenant)
        if standing is None:
            raise Unacceptable(
                "unknown_tenant", f"ce_tenantid: {tenant!r} is unknown; add it: triplane tenants add {tenant}"
            )
        if standing != "active":
            raise Unacceptable("suspended_tenant", f"ce_tenantid: {tenant!r} is {standing}")

    async def _read(self) -> None:
        rows = await self._database.fetch("SELECT tenant, standing FROM tenants")
        self._known = {row["tenant"]: row["standing"] for row in rows}
        self._read_at = time.monotonic()
