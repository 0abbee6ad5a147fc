"""An analyst's login sees its own tenant's rows, in `read` and nowhere else, whatever it sets or asks."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from infra.runtime.operating.logins import CONNECTIONS, ensure_login, role_of, withdraw_login
from tests.http.running import Running
from tests.http.test_ways_out import send


@pytest.fixture(scope="module")
def uris(api: Running) -> dict[str, str]:
    """Give the logins of two tenants, each with a row of its own."""

    async def fill() -> None:
        for tenant in ("demo-a", "demo-b"):
            person = str(uuid4())
            async with api.client(tenant) as client:
                accepted = await send(client, "/commands/identity/RegisterPerson", {"person_id": person})
                asked: dict[str, Any] = {"person_id": person, "token": accepted["token"], "wait": 20}
                assert (
                    await client.get("/read/verification_status/of_person", params=asked)
                ).status_code == 200

    asyncio.run(fill())
    return {tenant: asyncio.run(ensure_login(api.settings, tenant)) for tenant in ("demo-a", "demo-b")}


async def fetch(uri: str, *statements: str) -> Any:
    """Run statements in one session, and give the first column of the last one's rows."""
    connection = await asyncpg.connect(uri)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return [row[0] for row in await connection.fetch(statements[-1])]
    finally:
        await connection.close()


async def test_each_sees_its_own_tenant_and_the_owner_sees_all(api: Running, uris: dict[str, str]) -> None:
    everybody = await fetch(
        api.settings.postgres, "SELECT DISTINCT tenant FROM read.verification_status ORDER BY 1"
    )
    # As the owner or a superuser this would prove nothing: such a session is above row-level security.
    assert {"demo-a", "demo-b"} <= set(everybody)
    for tenant, uri in uris.items():
        assert await fetch(uri, "SELECT DISTINCT tenant FROM verification_status") == [tenant]


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT set_config('app.tenant', 'demo-b', false)",
        "SET app.tenant = 'demo-b'",
        "SET default_transaction_read_only = off",
        "SET row_security = on",
        "SET search_path = projections, read",
    ],
)
async def test_no_setting_shows_another_tenant(uris: dict[str, str], attempt: str) -> None:
    assert await fetch(uris["demo-a"], attempt, "SELECT DISTINCT tenant FROM read.verification_status") == [
        "demo-a"
    ]


FORBIDDEN = {
    "tables of projections": "SELECT * FROM projections.verification_status_g1",
    "logins of others": "SELECT role FROM projections.logins",
    "events": "SELECT * FROM identity.events",
    "outbox": "SELECT * FROM intake.outbox",
    "keys": "SELECT * FROM vault.subject_keys",
    "heartbeats": "SELECT * FROM payments.heartbeats",
    "monitor's views": "SELECT * FROM payments.outcomes",
    "passwords": "SELECT * FROM pg_authid",
    "write": "INSERT INTO read.verification_status (tenant) VALUES ('demo-a')",
    "delete": "DELETE FROM read.verification_status",
    "lock rows": "SELECT * FROM read.verification_status FOR UPDATE",
    "create": "CREATE TABLE public.mine (x int)",
    "temporary": "CREATE TEMP TABLE mine (x int)",
    "become another": "SET ROLE triplane_projections",
    "become the group": "SET ROLE triplane_analysts",
    "files": "SELECT pg_read_file('/etc/passwd')",
    "programs": "COPY (SELECT 1) TO PROGRAM 'cat'",
    "advisory locks": "SELECT pg_advisory_lock(4711)",
    "sleep": "SELECT pg_sleep(1)",
    "large objects": "SELECT lo_create(0)",
    "notifications": "SELECT pg_notify('outbox', 'payments')",
    "temporary files": "SET temp_file_limit = -1",
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_forbidden(uris: dict[str, str], what: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
        await fetch(uris["demo-a"], "SET default_transaction_read_only = off", FORBIDDEN[what])


async def test_what_it_may_hold_is_bounded(uris: dict[str, str]) -> None:
    settings = await fetch(
        uris["demo-a"],
        """SELECT name || '=' || current_setting(name) FROM unnest(ARRAY['statement_timeout', 'default_transaction_read_only',
           'temp_file_limit', 'idle_in_transaction_session_timeout', 'search_path']) AS name""",
    )
    assert settings == [
        "statement_timeout=30s",
        "default_transaction_read_only=on",
        "temp_file_limit=256MB",
        "idle_in_transaction_session_timeout=30s",
        "search_path=read",
    ]
    opened = [await asyncpg.connect(uris["demo-a"]) for _ in range(CONNECTIONS)]
    try:
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(uris["demo-a"])
    finally:
        for connection in opened:
            await connection.close()


async def test_every_view_and_column_has_a_comment(uris: dict[str, str]) -> None:
    bare = await fetch(
        uris["demo-a"],
        """SELECT c.relname || '.' || coalesce(a.attname, '') FROM pg_class c
           LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
           WHERE c.relnamespace = 'read'::regnamespace AND c.relkind = 'v'
             AND (obj_description(c.oid) IS NULL OR col_description(c.oid, a.attnum) IS NULL)""",
    )
    assert bare == []


async def test_every_table_and_view_of_readers_is_under_forced_policies(api: Running) -> None:
    loose = await fetch(
        api.settings.postgres,
        """SELECT relname FROM pg_class c WHERE relnamespace = 'projections'::regnamespace AND relkind = 'r'
             AND relname ~ '_g[0-9]+$' AND NOT (relrowsecurity AND relforcerowsecurity)
           UNION ALL
           SELECT relname FROM pg_class WHERE relnamespace = 'read'::regnamespace AND relkind = 'v'
             AND NOT ('security_invoker=true' = ANY(reloptions))
           UNION ALL
           SELECT rolname FROM pg_roles WHERE rolbypassrls AND rolname LIKE 'read\\_%' OR rolname = 'triplane_read' AND rolbypassrls
           UNION ALL
           SELECT relname FROM pg_class WHERE relnamespace = 'read'::regnamespace AND relkind = 'm'""",
    )
    assert loose == []


async def test_the_monitor_sees_how_far_things_are_and_no_bodies(api: Running) -> None:
    monitor = api.settings.database("triplane_monitor")
    assert await fetch(monitor, "SELECT count(*) FROM payments.checkpoints")
    for body in (
        "SELECT payload FROM identity.events",
        "SELECT state FROM identity.aggregates",
        "SELECT record FROM payments.parked",
        "SELECT value FROM intake.outbox",
        "SELECT value FROM payments.effects",
        "SELECT body FROM intake.webhooks",
        "SELECT * FROM read.verification_status",
        "SELECT * FROM vault.subject_keys",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await fetch(monitor, body)


def test_names_that_postgres_would_cut_off_are_told_apart() -> None:
    one, two = "a" * 62 + "1", "a" * 62 + "2"
    assert role_of("demo-a") == "read_demo-a"
    assert len(role_of(one)) == 63
    assert role_of(one) != role_of(two)


async def test_the_login_is_made_once_and_can_be_withdrawn(api: Running, tenant: str) -> None:
    uri = await ensure_login(api.settings, tenant)
    assert await ensure_login(api.settings, tenant) == uri
    assert await fetch(uri, "SELECT 1") == [1]
    await withdraw_login(api.settings, tenant)
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await fetch(uri, "SELECT 1")
    assert await ensure_login(api.settings, tenant) == uri
    assert await fetch(uri, "SELECT 1") == [1]
