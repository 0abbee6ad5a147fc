"""`workers`: the projection of `project` by one, two and four worker processes, which share its partitions out.

All of them stand idle at the end of the topic, each with its share of the partitions, when the payments appear at once:
they lie in a transaction of Kafka's, and the clock starts with its commit. What a process more gives is bounded by the
machine: the CPU seconds say whose work fills the cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from tests.benchmarks.cases.project import Answers, Projected
from tests.benchmarks.harness import Case, Contestant, Runs, times
from tests.benchmarks.load import Load, Outgoing, ends
from tests.benchmarks.payments import TOPIC, payments, records
from tests.benchmarks.product import Watch
from tests.benchmarks.site import Site

PROCESSES = (1, 2, 4)


class Shared(Projected):
    """Our projection by several processes."""

    def __init__(self, site: Site, answers: Answers, given: Sequence[Outgoing], processes: int) -> None:
        """Fold what is `given`, which `answers` judges."""
        super().__init__(
            site, Load(TOPIC, {}, {}), answers, name=f"processes_{processes}", processes=processes
        )
        self._given = given
        self._share = processes

    async def reset(self) -> None:
        """Let the consumer stand at the end of the topic."""
        self.load = Load(TOPIC, await ends(self.site.settings.kafka, TOPIC), {})
        await super().reset()

    async def started(self, connection: asyncpg.Connection[Any], before: int, watch: Watch) -> float:
        """Wait until every process has its partitions, and let the payments appear."""
        await super().started(connection, before, watch)
        fair = -(-len(self.load.begin) // self._share)
        while await self._holding(connection, fair) != self._share:
            await watch.look(0)
        self.load, release = await self.site.hold(TOPIC, self._given)
        began = time.monotonic()
        await asyncio.to_thread(release)
        return began

    async def _holding(self, connection: asyncpg.Connection[Any], fair: int) -> int:
        """Count the processes that show a fair share of the partitions."""
        count: int = await connection.fetchval(
            "SELECT count(*) FROM projections.heartbeats WHERE consumer = $1 AND partitions BETWEEN 1 AND $2",
            self.wiring.name,
            fair,
        )
        return count


class Workers(Case):
    """One projection, several processes."""

    name = "workers"
    events = 150_000

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Write the payments."""
        paid = list(payments(events))
        given = list(records(paid))
        answers = Answers(site, Load(TOPIC, {}, {}), paid)
        return [Shared(site, answers, given, number) for number in PROCESSES]

    def ratios(self, runs: Runs) -> dict[str, float]:
        """Say how many times as fast as one process several are."""
        one, *more = runs
        return {name: times(runs[name], runs[one]) for name in more}


case = Workers()
