"""`lanes`: calls to the outside that take 10 ms each, of 1,000 keys in one partition, by 64 lanes.

Ours records each call, commits that it is started, makes it, and folds its outcome into an aggregate and onto a topic.
The baselines only call: one after the other, and 64 at a time with every key in order. The outside itself says in which
order it was called.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import asyncpg

from infra.migrations.migrate import migrate
from infra.runtime.effects.lanes import LANES
from tests.benchmarks.baseline import Baseline, Job, Marks
from tests.benchmarks.calls import CONSUMER, CONTEXT, KEYS, TOPIC, calls, catalogue, records
from tests.benchmarks.harness import Case, Contestant, Goal, Run, agree
from tests.benchmarks.load import Load
from tests.benchmarks.outside import SOCKET, Called, Client
from tests.benchmarks.product import Product, Watch
from tests.benchmarks.site import Site

SERIAL: Final = 400
"""How many calls are made one after the other."""


class Outside:
    """The outside at work, and what it says that it was asked."""

    def __init__(self, site: Site) -> None:
        """Run it in the site's home."""
        self._site = site
        self.called: list[Called] = []

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Run it as long as the block runs; its log is read at the end."""
        async with self._site.process("tests.benchmarks.outside", spoken=True) as process:
            assert process.stdout is not None
            agree("the outside is", await process.stdout.readline(), b"ready\n")
            yield
            async with Client(self._site.settings.home / SOCKET) as client:
                self.called = await client.log()

    def check(self, who: str, count: int) -> None:
        """Raise `WrongAnswer` unless every call was made once, and each key's one after the other, in order."""
        expected: dict[str, list[int]] = {}
        for caller, number in calls(count):
            expected.setdefault(str(caller), []).append(number)
        found: dict[str, list[int]] = {}
        ends: dict[str, float] = {}
        overlaps = 0
        for key, number, began, ended in sorted(self.called, key=lambda it: it[2]):
            found.setdefault(key, []).append(number)
            overlaps += began < ends.get(key, 0.0)
            ends[key] = ended
        agree(f"{who}: calls", len(self.called), count)
        agree(f"{who}: keys called otherwise", sum(found.get(it) != expected[it] for it in expected), 0)
        agree(f"{who}: calls that began before the last of their key had ended", overlaps, 0)


class Called64(Product):
    """Our lanes."""

    def __init__(self, site: Site, load: Load, outside: Outside) -> None:
        """Call for everything in `load`."""
        wiring = catalogue().effects[CONSUMER]
        super().__init__(replace(site, worker_module="tests.benchmarks.calling"), wiring, load)
        self._outside = outside

    async def empty(self, connection: asyncpg.Connection[Any]) -> None:
        """Forget every call."""
        tables = ("effects", "events", "aggregates", "claims", "outbox", "published")
        await connection.execute(
            f"TRUNCATE {', '.join(f'{CONTEXT}.{table}' for table in tables)} RESTART IDENTITY"
        )

    async def run(self) -> Run:
        """Work until the last outcome is committed."""
        async with self._outside.working():
            return await super().run()

    async def started(self, connection: asyncpg.Connection[Any], before: int, watch: Watch) -> float:
        """Wait for the clock to start; whoever asks plans anew each time, as a table that is empty now fills."""
        await connection.execute("SET plan_cache_mode = force_custom_plan")
        return await super().started(connection, before, watch)

    async def _standing(self, connection: asyncpg.Connection[Any]) -> tuple[int, int]:
        """Say how far everything is done, not how far it is read.

        Only the first effect that is open is looked for: counting them all fifty times a second took a third of the
        database's time.
        """
        epochs, read = await super()._standing(connection)
        first = await connection.fetchval(
            f"""SELECT position FROM {CONTEXT}.effects
                WHERE consumer = $1 AND coalesce(ended_at, 'infinity') = 'infinity' ORDER BY position LIMIT 1""",
            self.wiring.name,
        )
        return epochs, read if first is None else min(first, read) - 1

    async def check(self) -> None:
        """The outside was called in order, and every outcome is a fact and in its aggregate."""
        self._outside.check(self.name, self.load.size)
        found = await self.site.row(
            f"""SELECT (SELECT count(*) FROM {CONTEXT}.events WHERE type = '{CONTEXT}.CallMade'),
                       (SELECT sum((state->>'made')::int)::bigint FROM {CONTEXT}.aggregates)"""
        )
        agree(f"{self.name}: outcomes, in aggregates", found, (self.load.size, self.load.size))


class Calls(Baseline):
    """A process that only calls."""

    def __init__(self, site: Site, name: str, load: Load, events: int, outside: Outside) -> None:
        """Make the first `events` calls."""

        async def nothing() -> None:
            """Nothing is kept."""

        async def check(_: Mapping[int, int]) -> None:
            outside.check(name, min(events, load.size))

        super().__init__(site, "lanes", name, load, events=events, reset=nothing, check=check)
        self._outside = outside

    async def run(self) -> Run:
        """Run the process to its end."""
        async with self._outside.working():
            return await super().run()


async def serial(job: Job) -> Marks:
    """Call one after the other."""
    async with Client() as client:
        job.begin()
        for caller, number in islice(calls(job.total), job.events):
            await client.call(caller, number)
        return job.end(job.events)


async def bare_lanes(job: Job) -> Marks:
    """Call 64 at a time, each key's in order: what a process can do that keeps and promises nothing."""
    async with Client() as client:

        async def lane(mine: Iterable[tuple[Any, int]]) -> None:
            for caller, number in mine:
                await client.call(caller, number)

        shares: list[list[tuple[Any, int]]] = [[] for _ in range(LANES)]
        for place, it in enumerate(islice(calls(job.total), job.events)):
            shares[place % KEYS % LANES].append(it)
        job.begin()
        await asyncio.gather(*map(lane, shares))
        return job.end(job.events)


class Lanes(Case):
    """Outside effects."""

    name = "lanes"
    events = 20_000
    goals = (Goal("serial", must=40),)
    baselines = {it.__name__: it for it in (serial, bare_lanes)}  # noqa: RUF012

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Put the facts on their topic."""
        await migrate(site.settings, catalogue())
        load = await site.fill(TOPIC, records(events))
        (only,) = (place for place, numbers in load.order.items() if numbers)
        agree("the only partition", only, 0)
        outside = Outside(site)
        return [
            Called64(site, load, outside),
            Calls(site, "serial", load, SERIAL, outside),
            Calls(site, "bare_lanes", load, events, outside),
        ]


case = Lanes()
