"""A reader's session is of one tenant for one transaction, and like new afterwards."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import asyncpg
import pytest

from infra.postgres.database import Database, open_database
from infra.settings import Settings
from tests.shop.site import opened

LOOK = """SELECT pg_backend_pid() AS session, current_setting('app.tenant', true) AS tenant,
    current_setting('statement_timeout') AS longest, current_setting('transaction_read_only') AS read_only"""


@pytest.fixture
async def reader(platform: Settings) -> AsyncGenerator[Database]:
    """One session of the shop's readers."""
    async with opened(platform) as site:
        reader = await open_database(site.settings, "read", size=1)
        yield reader
        await reader.close()


async def test_a_session_is_of_one_tenant_for_one_transaction_only(reader: Database) -> None:
    async with reader.reading("a'; SET app.tenant = 'b", "1234ms") as tx:
        (inside,) = await tx.fetch(LOOK)
        # Whatever a statement leaves behind, the next one to use the session does not find it.
        await tx.execute("SELECT set_config('app.tenant', 'b', false)")
    (after,) = await reader.fetch(LOOK)
    assert tuple(inside)[1:] == ("a'; SET app.tenant = 'b", "1234ms", "on")
    assert inside["session"] == after["session"]
    assert (after["tenant"] or None, after["longest"], after["read_only"]) == (None, "0", "off")


async def test_after_an_error_the_session_is_like_new_too(reader: Database) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with reader.reading("a", "10s") as tx:
            await tx.fetch("SELECT 1 / 0")
    async with reader.reading("b", "10s") as tx:
        assert (await tx.fetch(LOOK))[0]["tenant"] == "b"
