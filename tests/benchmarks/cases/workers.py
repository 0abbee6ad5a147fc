"""`workers`: the projection of `project` by one, two and four worker processes, which share its partitions out.

What a process more gives is bounded by the machine: the table's CPU seconds say whose work fills the cores.
"""

from __future__ import annotations

from tests.benchmarks.cases.project import Projected, laid_out
from tests.benchmarks.harness import Case, Contestant
from tests.benchmarks.site import Site

PROCESSES = (1, 2, 4)


class Workers(Case):
    """One projection, several processes."""

    name = "workers"
    events = 150_000

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Put the payments on their topic."""
        load, answers = await laid_out(site, events)
        return [
            Projected(site, load, answers, name=f"processes_{number}", processes=number)
            for number in PROCESSES
        ]


case = Workers()
