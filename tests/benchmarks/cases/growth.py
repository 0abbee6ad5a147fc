"""`growth`: what `project` and `decide` cost an event when there is 1, 4 and 16 times as much in the tables already.

What is there already are other tenants' rows, put in by plain SQL after the checkpoint that precedes every run, and
vacuumed: so neither the first touch of old pages nor the cleaning up after the preparation is charged to the run.
"""

from __future__ import annotations

from tests.benchmarks.cases import decide, project
from tests.benchmarks.harness import RATE, Case, Contestant, Goal, Run, Runs, cpu_per_event, median
from tests.benchmarks.site import Site

TIMES = (1, 4, 16)
KINDS = ("project", "decide")


def wall(run: Run) -> float:
    """Give the seconds for an event."""
    return 1 / run.figures[RATE]


def memory(run: Run) -> float:
    """Give the worker's peak (MB)."""
    return run.peak_rss_mb


COSTS = {"cpu": cpu_per_event, "wall": wall, "memory": memory}


class Growth(Case):
    """The same work, more and more data."""

    name = "growth"
    events = 50_000
    goals = (
        *(Goal(f"{kind}_{cost}_16x", must=1.3, at_most=True) for kind in KINDS for cost in ("cpu", "wall")),
        *(Goal(f"{kind}_memory_16x", must=1.1, at_most=True) for kind in KINDS),
        Goal("peak_rss_mb", must=250, at_most=True),
    )

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Lay out both cases' loads."""
        paid = await project.laid_out(site, events)
        asked = await decide.laid_out(site, events)
        return [
            *(project.Projected(site, *paid, name=f"project_{it}x", already=it * events) for it in TIMES),
            *(decide.Decided(site, *asked, name=f"decide_{it}x", already=it * events) for it in TIMES),
        ]

    def ratios(self, runs: Runs) -> dict[str, float]:
        """Compare each run's costs to those of the same case with the least data."""
        found = {
            f"{kind}_{name}_{it}x": median(runs[f"{kind}_{it}x"], cost) / median(runs[f"{kind}_1x"], cost)
            for kind in KINDS
            for name, cost in COSTS.items()
            for it in TIMES[1:]
        }
        return {**found, "peak_rss_mb": max(run.peak_rss_mb for them in runs.values() for run in them)}


case = Growth()
