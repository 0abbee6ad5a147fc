"""Our own contestant: real worker processes, from the claim of their partitions to the commit of the last record.

The checkpoints say how far a consumer has come, and a claim counts their epoch up. The clock starts when the first claim
is seen: by then the process has started, has imported everything and is a member of its group, and has folded nothing.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg

from infra.runtime.catalog import Wiring
from tests.benchmarks.harness import Contestant, Run, agree
from tests.benchmarks.load import Load
from tests.benchmarks.meter import Marks
from tests.benchmarks.site import Site

LOOK_S: Final = 0.02
PATIENCE_S: Final = 120.0
"""How long nothing may be committed before a run is given up."""


class Watch:
    """Looks after worker processes that are waited for."""

    def __init__(self, consumer: str, processes: Sequence[Process]) -> None:
        """Watch the `processes` of a consumer."""
        self._consumer = consumer
        self._processes = processes
        self._done = -1
        self._moved_at = time.monotonic()

    async def look(self, done: int) -> None:
        """Wait a moment; raise `WrongAnswer` where a process has ended, or has done nothing more for too long."""
        if done != self._done:
            self._done, self._moved_at = done, time.monotonic()
        ended = [it.returncode for it in self._processes if it.returncode is not None]
        agree(f"{self._consumer}: exit codes of processes that ended (see the log)", ended, [])
        idle = time.monotonic() - self._moved_at
        agree(f"{self._consumer}: stands still after {done} events", idle > PATIENCE_S, expected=False)
        await asyncio.sleep(LOOK_S)


class Product(Contestant):
    """A consumer of ours, at work on a load."""

    def __init__(
        self,
        site: Site,
        wiring: Wiring,
        load: Load,
        *,
        name: str = "ours",
        processes: int = 1,
        already: int = 0,
        options: Sequence[str] = (),
    ) -> None:
        """Run `processes` worker processes of the consumer of `wiring`, each with `options`.

        So many messages of others are `already` in the inbox, and what came of them in the tables.
        """
        self.name = name
        self.site = site
        self.wiring = wiring
        self.load = load
        self._processes = processes
        self._already = already
        self._arguments = (*options, wiring.name)

    @abstractmethod
    async def empty(self, connection: asyncpg.Connection[Any]) -> None:
        """Take away what an earlier run has left behind, but for the checkpoints and the inbox."""

    async def fill(self, connection: asyncpg.Connection[Any], already: int) -> None:
        """Put in what came of so many messages of others; nothing where that is not measured."""

    @abstractmethod
    async def check(self) -> None:
        """Raise `WrongAnswer` unless the tables hold what they should."""

    async def reset(self) -> None:
        """Make the consumer new: it stands before the load, and knows none of it."""
        schema = self.wiring.schema
        async with self.site.connection() as connection:
            await self.empty(connection)
            await connection.execute(
                f"TRUNCATE {schema}.inbox, {schema}.parked, {schema}.parked_keys, {schema}.heartbeats"
            )
            await connection.execute(
                f"""UPDATE {schema}.checkpoints c SET next_offset = b.begin
                    FROM unnest($3::int[], $4::bigint[]) AS b (partition, begin)
                    WHERE consumer = $1 AND topic = $2 AND c.partition = b.partition""",
                self.wiring.name,
                self.load.topic,
                list(self.load.begin),
                list(self.load.begin.values()),
            )
            await connection.execute("CHECKPOINT")
            if self._already:
                await self.fill(connection, self._already)
                await connection.execute(
                    f"INSERT INTO {schema}.inbox SELECT md5('i' || n)::uuid, n FROM generate_series(1, {self._already}) n"
                )
                await connection.execute(f"VACUUM ANALYZE {schema}.inbox")

    async def run(self) -> Run:
        """Work until the last record of the load is committed."""
        async with self.site.connection() as connection:
            before, _ = await self._standing(connection)
            async with AsyncExitStack() as stack:
                processes = [
                    await stack.enter_async_context(
                        self.site.process(self.site.worker_module, *self._arguments)
                    )
                    for _ in range(self._processes)
                ]
                async with self.site.metered(*(it.pid for it in processes)) as meter:
                    watch = Watch(self.wiring.name, processes)
                    began = await self.started(connection, before, watch)
                    while (done := (await self._standing(connection))[1]) < self.load.size:
                        await watch.look(done)
                    marks = Marks(began, time.monotonic(), self.load.size)
                return meter.run(marks)

    async def started(self, connection: asyncpg.Connection[Any], before: int, watch: Watch) -> float:
        """Wait until the clock starts, which is when a partition is claimed: the epochs came to `before`; give the moment."""
        while (await self._standing(connection))[0] == before:
            await watch.look(0)
        return time.monotonic()

    async def _standing(self, connection: asyncpg.Connection[Any]) -> tuple[int, int]:
        """Give the sum of the epochs, and how many records of the load are committed."""
        row: Any = await connection.fetchrow(
            f"""SELECT coalesce(sum(epoch), 0)::bigint AS epochs, coalesce(sum(next_offset), 0)::bigint AS stands
                FROM {self.wiring.schema}.checkpoints WHERE consumer = $1 AND topic = $2""",
            self.wiring.name,
            self.load.topic,
        )
        return row["epochs"], row["stands"] - sum(self.load.begin.values())

    async def verify(self) -> None:
        """Every record has had its effect, once; nothing is parked."""
        schema = self.wiring.schema
        found = await self.site.row(
            f"SELECT (SELECT count(*) FROM {schema}.inbox), (SELECT count(*) FROM {schema}.parked)"
        )
        agree(f"{self.name}: rows in the inbox, parked", found, (self._already + self.load.size, 0))
        await self.check()
