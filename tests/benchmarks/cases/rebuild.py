"""`rebuild`: a read model built anew beside the one that serves, by one process and by two, and the same events folded live.

The model is `customer_spend`, as its users rebuild it: `triplane rebuild customer_spend --yes`. Before each rebuild the serving
generation has folded everything, live and not counted. The clock of both starts with the first claim of a partition and stops
when the last event is committed; comparing and switching come after it, and must go well.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg

from tests.benchmarks.catalogue import catalogue
from tests.benchmarks.harness import Case, Contestant, Goal, Run, agree
from tests.benchmarks.load import Load
from tests.benchmarks.meter import Marks
from tests.benchmarks.payments import TOPIC, Paid, payments, records
from tests.benchmarks.product import Product, Watch
from tests.benchmarks.site import Site

MODEL: Final = "customer_spend"
Sums = Counter[tuple[str, UUID]]


class Live(Product):
    """The serving generation, folded by a worker."""

    def __init__(self, site: Site, load: Load, paid: Sequence[Paid], *, name: str) -> None:
        """Fold `paid`, which lie on their topic as `load` says."""
        super().__init__(site, catalogue().projections[f"projections.{MODEL}"], load, name=name)
        self._payments: Sums = Counter()
        self._spent: Sums = Counter()
        for it in paid:
            self._payments[it.tenant, it.customer_id] += 1
            self._spent[it.tenant, it.customer_id] += it.amount_minor

    async def empty(self, connection: asyncpg.Connection[Any]) -> None:
        """Leave the serving generation alone, and empty."""
        await connection.execute(
            "UPDATE projections.generations SET standing = 'retired' WHERE projection = $1 AND standing <> 'active'",
            MODEL,
        )
        await connection.execute(
            "DELETE FROM projections.checkpoints WHERE consumer = $1 AND generation <> $2",
            self.wiring.name,
            await self._generation(connection),
        )
        await connection.execute(f"TRUNCATE {await self._table(connection)}")

    async def verify(self) -> None:
        """Every payment counts once."""
        async with self.site.connection() as connection:
            rows = await connection.fetch(
                f"SELECT tenant, customer_id, payments, spent_minor FROM {await self._table(connection)}"
            )
        found = {(row["tenant"], row["customer_id"]): row for row in rows}
        agree(f"{self.name}: rows", len(rows), len(self._payments))
        for name, due in (("payments", self._payments), ("spent_minor", self._spent)):
            wrong = sum(found[key][name] != value for key, value in due.items() if key in found)
            agree(f"{self.name}: customers with other {name}", wrong, 0)

    async def check(self) -> None:
        """All of it is verified at once."""

    async def _generation(self, connection: asyncpg.Connection[Any], standing: str = "active") -> int | None:
        generation: int | None = await connection.fetchval(
            "SELECT generation FROM projections.generations WHERE projection = $1 AND standing = $2",
            MODEL,
            standing,
        )
        return generation

    async def _table(self, connection: asyncpg.Connection[Any]) -> str:
        return f"projections.{MODEL}_g{await self._generation(connection)}"


class Rebuilt(Live):
    """A generation that is built."""

    def __init__(self, site: Site, load: Load, paid: Sequence[Paid], *, name: str, processes: int) -> None:
        """Build it by so many processes."""
        super().__init__(site, load, paid, name=name)
        self._builders = processes

    async def reset(self) -> None:
        """Let the serving generation fold everything."""
        await super().reset()
        await super().run()

    async def run(self) -> Run:
        """Rebuild, to the end of the command."""
        command = ("rebuild", MODEL, "--yes", "--parallel", str(self._builders))
        async with (
            self.site.connection() as connection,
            self.site.process("infra.cli", *command) as process,
            self.site.metered(process.pid) as meter,
        ):
            watch = Watch(self.name, [process])
            before = await self._generation(connection)
            while not await self._built(connection, before, "epoch"):
                await watch.look(0)
            began = time.monotonic()
            while (done := await self._built(connection, before, "next_offset")) < self.load.size:
                await watch.look(done)
            marks = Marks(began, time.monotonic(), self.load.size)
            agree(f"{self.name}: exit code", await process.wait(), 0)
            serving = await self._generation(connection)
        agree(f"{self.name}: another generation serves", serving != before, expected=True)
        return meter.run(marks)

    async def _built(self, connection: asyncpg.Connection[Any], before: int | None, what: str) -> int:
        total: int = await connection.fetchval(
            f"""SELECT coalesce(sum({what}), 0)::bigint FROM projections.checkpoints
                WHERE consumer = $1 AND topic = $2 AND generation > $3""",
            self.wiring.name,
            TOPIC,
            before,
        )
        return total


class Rebuild(Case):
    """One read model, built anew."""

    name = "rebuild"
    events = 200_000
    fresh = True
    goals = (Goal("live", must=1.3),)

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Put payments on their topic, on which there is nothing else: a rebuild reads all of it."""
        paid = list(payments(events))
        load = await site.fill(TOPIC, records(paid))
        agree(f"records on {TOPIC} before", sum(load.begin.values()), 0)
        return [
            Rebuilt(site, load, paid, name="two_processes", processes=2),
            Rebuilt(site, load, paid, name="one_process", processes=1),
            Live(site, load, paid, name="live"),
        ]


case = Rebuild()
