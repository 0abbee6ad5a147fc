"""A tenant's read-only SQL login: it sees the views of `read`, of them its own rows, and can hold nothing up for long.

The tenant is a property of the login, by row-level security on `current_user`, so nothing that a session sets can change
it. What a session could set back to its default is bounded on the server as well: connections, and temporary files.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from infra.runtime.catalog.schemas import ANALYSTS
from infra.settings import Settings

MAX_ROLE: Final = 63
CONNECTIONS: Final = 5
LIMITS: Final = {
    "default_transaction_read_only": "on",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    "idle_session_timeout": "30min",
    "lock_timeout": "2s",
    "work_mem": "16MB",
    "search_path": "read",
}
SUPERUSER_LIMITS: Final = {"temp_file_limit": "256MB"}
"""Settings that only a superuser may set, and a session cannot set back."""


def role_of(tenant: str) -> str:
    """Name the login of a tenant: `read_<tenant>`, with a digest in place of what PostgreSQL would cut off."""
    name = f"read_{tenant}"
    if len(name) <= MAX_ROLE:
        return name
    return f"{name[: MAX_ROLE - 9]}_{blake2b(tenant.encode(), digest_size=4).hexdigest()}"


def uri_of(settings: Settings, tenant: str) -> str:
    """Give the URI with which a tenant's analysts log in."""
    role = role_of(tenant)
    parts = urlsplit(settings.postgres)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(role)}:{quote(settings.password(role))}@{host}"))


async def ensure_login(settings: Settings, tenant: str) -> str:
    """Make the login of a tenant, or bring it up to date, and give its URI."""
    role = role_of(tenant)
    quoted = '"' + role.replace('"', '""') + '"'
    admin = await asyncpg.connect(settings.postgres)
    try:
        async with admin.transaction():
            await admin.execute("SELECT pg_advisory_xact_lock(4711)")
            exists = await admin.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
            await admin.execute(
                f"""{"ALTER" if exists else "CREATE"} ROLE {quoted} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS
                    CONNECTION LIMIT {CONNECTIONS} PASSWORD '{settings.password(role)}'"""
            )
            await admin.execute(f"GRANT {ANALYSTS} TO {quoted} WITH INHERIT TRUE, SET FALSE")
            superuser = await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            for name, value in (LIMITS | (SUPERUSER_LIMITS if superuser else {})).items():
                await admin.execute(f"ALTER ROLE {quoted} SET {name} = '{value}'")
            await admin.execute(
                """INSERT INTO projections.logins (role, tenant) VALUES ($1, $2)
                   ON CONFLICT (role) DO UPDATE SET tenant = excluded.tenant""",
                role,
                tenant,
            )
    finally:
        await admin.close()
    return uri_of(settings, tenant)


async def withdraw_login(settings: Settings, tenant: str) -> None:
    """Let a tenant's login not log in any more, and end its sessions; there may be none."""
    role = role_of(tenant)
    admin = await asyncpg.connect(settings.postgres)
    try:
        if await admin.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
            await admin.execute('ALTER ROLE "' + role.replace('"', '""') + '" NOLOGIN')
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role
            )
    finally:
        await admin.close()
