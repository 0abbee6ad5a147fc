"""What a contestant costs, read from the processes that do the work.

CPU is user and system time. Of the database it is that of the postmaster, of every process below it, and of all those
that have ended: the kernel adds an ended child's time to its parent's `children` times, so a short-lived backend counts,
too. The broker is one process; the worker is the contestant's own processes with what they start. Bytes written are the
distance that the write-ahead log has moved: exact and at once, other than pg_stat_wal and pg_stat_io, which backends
report about once a second. Data files follow at checkpoints, long after, and are not in it.

All is sampled every `EVERY_S`; between two samples it is taken to have grown evenly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import psutil

from tests.benchmarks.harness import RATE, Run

EVERY_S: Final = 0.2
PARTS: Final[tuple[str, ...]] = ("worker", "database", "broker")


@dataclass(frozen=True)
class Marks:
    """When the clock of a contestant started and stopped (monotonic seconds), and how many events it saw."""

    began: float
    ended: float
    events: int


@dataclass(frozen=True)
class Sample:
    """What had been used until one moment."""

    at: float
    cpu: Mapping[str, float]
    rss_mb: float
    written: float


class Meter:
    """Samples while a contestant runs."""

    def __init__(
        self, connection: asyncpg.Connection[Any], servers: Mapping[str, int], worker: Collection[int]
    ) -> None:
        """Watch the `servers` (process ids of `database` and `broker`) and the worker's processes."""
        self._connection = connection
        self._roots = {**{name: [pid] for name, pid in servers.items()}, "worker": list(worker)}
        self._samples: list[Sample] = []

    async def sample(self) -> None:
        """Look once."""
        written = await self._connection.fetchval(
            "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS bytes"
        )
        cpu, rss_mb = self._processes()
        self._samples.append(Sample(time.monotonic(), cpu, rss_mb, float(written)))

    def _processes(self) -> tuple[dict[str, float], float]:
        known = {it.pid: it.info for it in psutil.process_iter(["ppid", "cpu_times", "memory_info"])}
        below: dict[int, list[int]] = {}
        for pid, info in known.items():
            below.setdefault(info["ppid"], []).append(pid)
        cpu: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        rss = 0
        for part, roots in self._roots.items():
            open_ones = [pid for pid in roots if pid in known]
            while open_ones:
                pid = open_ones.pop()
                open_ones += below.get(pid, [])
                times, memory = known[pid]["cpu_times"], known[pid]["memory_info"]
                if times is not None:
                    cpu[part] += sum(times[:4])
                if part == "worker" and memory is not None:
                    rss += memory.rss
        return cpu, rss / 1e6

    def run(self, marks: Marks, **figures: float) -> Run:
        """Say what lies between a contestant's marks; `figures` go with its events a second."""
        first, last = self._at(marks.began), self._at(marks.ended)
        within = [it.rss_mb for it in self._samples if marks.began <= it.at <= marks.ended]
        return Run(
            figures={RATE: marks.events / (marks.ended - marks.began), **figures},
            events=marks.events,
            seconds=marks.ended - marks.began,
            cpu_seconds={part: last.cpu[part] - first.cpu[part] for part in PARTS},
            peak_rss_mb=max([first.rss_mb, *within, last.rss_mb]),
            bytes_written=last.written - first.written,
        )

    def _at(self, moment: float) -> Sample:
        """Give what had been used at a moment, between the samples before and after it."""
        after = min(max(bisect_left(self._samples, moment, key=lambda it: it.at), 1), len(self._samples) - 1)
        left, right = self._samples[after - 1], self._samples[after]
        share = min(max((moment - left.at) / (right.at - left.at), 0.0), 1.0)

        def between(before: float, then: float) -> float:
            return before + share * (then - before)

        return Sample(
            moment,
            {part: between(left.cpu[part], right.cpu[part]) for part in PARTS},
            between(left.rss_mb, right.rss_mb),
            between(left.written, right.written),
        )


@asynccontextmanager
async def metered(uri: str, servers: Mapping[str, int], worker: Collection[int]) -> AsyncGenerator[Meter]:
    """Sample as long as the block runs, and once more at its end."""
    connection = await asyncpg.connect(uri)
    meter = Meter(connection, servers, worker)
    over = asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            await meter.sample()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), EVERY_S)

    watching = asyncio.create_task(watch())
    try:
        yield meter
        over.set()
        await watching
        await meter.sample()
    finally:
        over.set()
        await asyncio.wait([watching])
        await connection.close()
