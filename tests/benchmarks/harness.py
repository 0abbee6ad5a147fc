"""What every case is made of: contestants that take turns, a check of each answer, goals, and the figures as data.

Every repetition lets each contestant run once, ours first, so that whatever else the machine does meets all of them.
A contestant whose answer is wrong ends the run: a fast wrong answer is worth nothing.
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.benchmarks.baseline import Work
    from tests.benchmarks.site import Site

RATE: Final = "events_per_second"


class WrongAnswer(Exception):
    """A contestant left something else behind than a plain fold of the same events."""


def agree(what: str, found: object, expected: object) -> None:
    """Raise `WrongAnswer` where a contestant's answer is not the expected one."""
    if found != expected:
        msg = f"{what}: found {found}, expected {expected}"
        raise WrongAnswer(msg)


@dataclass(frozen=True)
class Run:
    """What one run of one contestant took, from its clock's start to its last commit."""

    figures: Mapping[str, float]
    """What is measured, by name with its unit; `events_per_second` wherever that makes sense."""
    events: int = 0
    """How many events the clock saw."""
    seconds: float = 0
    """How long it ran."""
    cpu_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of the processes `worker` (the contestant's own), `database` and `broker`."""
    peak_rss_mb: float = 0
    """Of the contestant's own processes together."""
    bytes_written: float = 0
    """Write-ahead log that the database wrote."""


class Contestant(ABC):
    """One way to do a case's work."""

    name: str

    @abstractmethod
    async def reset(self) -> None:
        """Make the state from which every run of this contestant starts."""

    @abstractmethod
    async def run(self) -> Run:
        """Do the work once, and say what it took."""

    @abstractmethod
    async def verify(self) -> None:
        """Raise `WrongAnswer` unless the run has left behind exactly what it had to."""


@dataclass(frozen=True)
class Goal:
    """What a ratio or a figure of ours has to reach."""

    of: str
    must: float | None = None
    aim: float | None = None
    at_most: bool = False
    """Whether less is better."""

    def judged(self, value: float) -> dict[str, Any]:
        """Say of a value whether it is reached."""

        def met(bound: float | None) -> bool | None:
            return None if bound is None else (value <= bound if self.at_most else value >= bound)

        return {
            "goal": self.of,
            "at_most": self.at_most,
            "value": value,
            "must": self.must,
            "met": met(self.must),
            "aim": self.aim,
            "aim_met": met(self.aim),
        }


Runs = Mapping[str, Sequence[Run]]
"""The runs of every contestant, by its name."""


class Case(ABC):
    """One question: how fast, against whom, and how fast it must be."""

    name: str
    events: int
    """How many by default."""
    fresh: bool = False
    """Whether it needs topics that no other case has written to: such cases come first."""
    goals: tuple[Goal, ...] = ()
    baselines: Mapping[str, Work] = {}
    """What runs in the processes of the baselines, by the contestant's name."""

    @abstractmethod
    async def contestants(self, site: Site, events: int) -> Sequence[Contestant]:
        """Lay out what all of them work on; give ours first, then the baselines."""

    def ratios(self, runs: Runs) -> dict[str, float]:
        """Compare ours to each baseline, by the baseline's name."""
        ours, *others = runs
        return {name: times(runs[ours], runs[name]) for name in others}


def median(runs: Sequence[Run], of: Callable[[Run], float]) -> float:
    """Give the median over the repetitions."""
    return statistics.median(of(run) for run in runs)


def times(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """Say how many times as many events a second ours are: the median over the repetitions.

    Compared are runs that followed on each other, as the machine may be busier in one repetition than in the next.
    """
    return statistics.median(
        our.figures[RATE] / their.figures[RATE] for our, their in zip(ours, theirs, strict=True)
    )


def cpu_per_event(run: Run) -> float:
    """Give the CPU seconds of a contestant's processes and the database for an event: what others on the machine leave alone."""
    return sum(run.cpu_seconds.get(part, 0.0) for part in ("worker", "database")) / max(run.events, 1)


async def measure(
    case: Case, site: Site, events: int, repeat: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Run a case's contestants in turns; give its figures, with the goals judged."""
    contestants = await case.contestants(site, events)
    runs: dict[str, list[Run]] = {it.name: [] for it in contestants}
    for number in range(1, repeat + 1):
        for contestant in contestants:
            await contestant.reset()
            await site.settle()
            run = await contestant.run()
            await contestant.verify()
            runs[contestant.name].append(run)
            said = ", ".join(f"{name} {value:,.1f}" for name, value in run.figures.items())
            report(f"{case.name} {number}/{repeat} {contestant.name}: {said}")
    ours, *others = runs
    ratios = case.ratios(runs)
    known = {**{name: median(runs[ours], _figure(name)) for name in runs[ours][0].figures}, **ratios}
    return {
        "case": case.name,
        "contestant": ours,
        "asked_events": events,
        "usual_events": case.events,
        **_shown(runs[ours]),
        "baselines": {name: _shown(runs[name]) for name in others},
        "ratios": ratios,
        "goals": [goal.judged(known[goal.of]) for goal in case.goals],
    }


def _figure(name: str) -> Callable[[Run], float]:
    return lambda run: run.figures[name]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Give the least, the middle and the greatest of some values."""
    known = sorted(values)
    return {"min": known[0], "median": statistics.median(known), "max": known[-1]}


def _shown(runs: Sequence[Run]) -> dict[str, Any]:
    parts = runs[0].cpu_seconds
    return {
        "events": int(median(runs, lambda run: run.events)),
        **{name: spread(run.figures[name] for run in runs) for name in runs[0].figures},
        "cpu_seconds": {part: statistics.median(run.cpu_seconds[part] for run in runs) for part in parts},
        "cores_busy": {
            part: statistics.median(run.cpu_seconds[part] / (run.seconds or 1) for run in runs)
            for part in parts
        },
        "cpu_us_per_event": median(runs, cpu_per_event) * 1e6,
        "peak_rss_mb": max(run.peak_rss_mb for run in runs),
        "bytes_written": median(runs, lambda run: run.bytes_written),
    }
