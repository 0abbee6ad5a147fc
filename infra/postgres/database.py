"""One schema under its own role: a pool whose every connection sees that schema and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from infra.settings import Settings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]
    """A connection inside a transaction."""
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = Pool = Any

Row = asyncpg.Record

TRANSIENT: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InternalClientError,
)
"""What passes by itself: the same work is tried again from what is committed."""

BEHIND: tuple[type[BaseException], ...] = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
"""What a schema older (or newer) than the code is noticed by."""

DATA: tuple[type[BaseException], ...] = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    OverflowError,
)
"""What a message itself has caused: trying again changes nothing."""


RANDOM_PAGE_COST = "1.1"
"""What a batch asks for lies all over its table, on a disk without heads: the default makes the planner read the whole table
instead as soon as it is large, which cost deciders half as much again at 16 times the aggregates."""


class Database:
    """A pool of connections to one schema under its own role."""

    def __init__(self, pool: Pool, schema: str) -> None:
        """Use `open_database`."""
        self._pool = pool
        self.schema = schema
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Give a connection in a READ COMMITTED transaction that commits when the block ends well."""
        async with self._pool.acquire() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def reading(self, tenant: str, longest: str) -> AsyncGenerator[Connection]:
        """Give a connection in a read-only transaction that sees the rows of one tenant, for `longest` a statement.

        One message begins it and says whose it is; one ends it and resets the session, so that nothing of the tenant stays.
        Whoever has the rows does not wait for that.
        """
        # Several statements in one message take no arguments; hexadecimal digits cannot end a literal.
        hexadecimal = tenant.encode().hex()
        connection = await self._pool.acquire()
        try:
            await connection.execute(
                f"""BEGIN READ ONLY;
                    SELECT set_config('app.tenant', convert_from(decode('{hexadecimal}', 'hex'), 'UTF8'), true),
                           set_config('statement_timeout', '{longest}', true)"""
            )
            yield connection
        finally:
            ending = asyncio.create_task(self._end(connection))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, connection: Connection) -> None:
        try:
            await connection.execute(f"COMMIT;\n{connection.get_reset_query()}")
        except TRANSIENT:
            # Nobody else gets a session that is not like new.
            connection.terminate()
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Give a connection outside any transaction."""
        async with self._pool.acquire() as connection:
            yield connection

    async def fetch(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement and give its rows."""
        return await self._pool.fetch(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> str:
        """Run one statement and give its status."""
        return await self._pool.execute(query, *arguments)

    async def close(self) -> None:
        """Close every connection, waiting up to 5 s for those in use."""
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except TimeoutError:
            self._pool.terminate()


async def _keep(_connection: object) -> None:
    """Spare a round trip after each use: readers are reset at their end, others set and keep nothing, what is left open is ended."""


async def open_database(settings: Settings, schema: str, *, size: int = 4, at_once: int = 1) -> Database:
    """Open a pool of at most `size` connections to `schema`, under the schema's own role.

    With `at_once=0` the first use connects, so that a process can start while the database is away.
    """
    pool = await asyncpg.create_pool(
        settings.database(f"triplane_{schema}"),
        min_size=at_once,
        max_size=size,
        command_timeout=60,
        max_inactive_connection_lifetime=300,
        reset=_keep,
        server_settings={
            "search_path": schema,
            "application_name": f"triplane:{schema}",
            "timezone": "UTC",
            "random_page_cost": RANDOM_PAGE_COST,
        },
    )
    return Database(pool, schema)
