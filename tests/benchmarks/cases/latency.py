"""`latency`: from sending a command to its row in a read model, at 200 a second, by HTTP and by a plain Kafka client.

The way: command (HTTP: commit, relay) -> topic -> decider's batch -> relay -> topic -> projection's batch. It is that of
`accounts.OpenAccount` and `onboarding_progress`, in the processes that `up` runs. Beside it runs the bare chain: the same
hops with nothing around them, so that what Kafka, fsync and this machine take is known.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final

from infra.kafka.admin import Admin
from infra.runtime.catalog import discover
from tests.benchmarks.chain import COMMANDS, EVENTS, TABLES
from tests.benchmarks.harness import Case, Contestant, Goal, Run, Runs, agree, median
from tests.benchmarks.meter import Marks
from tests.benchmarks.observer import Errand, Found
from tests.benchmarks.opening import openings
from tests.benchmarks.payments import TENANTS
from tests.benchmarks.running import parked, platform, read_model_tables, renew
from tests.benchmarks.site import Site

RATE: Final = 200.0
WARM: Final = 600
PERCENTILES: Final = ("p50_ms", "p95_ms", "p99_ms", "max_ms")


class Watched(Contestant):
    """One way from a command to a row."""

    table: str

    def __init__(self, site: Site, events: int) -> None:
        """Send `events` commands."""
        self._site = site
        self._events = events

    @abstractmethod
    def working(self) -> Any:
        """Run the processes at work as long as the block runs; gives their ids and the errand."""

    async def run(self) -> Run:
        """Send, and watch."""
        async with self.working() as (pids, errand), self._site.metered(*pids) as meter:
            found = await self._observe(errand)
        agree(f"{self.name}: commands that were not taken", found.refused, 0)
        agree(f"{self.name}: rows that were never seen", found.lost, 0)
        marks = Marks(found.began, found.ended, errand.count)
        figures = {name: getattr(found, name) for name in (*PERCENTILES, "late_p99_ms")}
        return meter.run(marks, **figures)

    async def _observe(self, errand: Errand) -> Found:
        async with self._site.process("tests.benchmarks.observer", spoken=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(errand)).encode() + b"\n")
            answered = await process.stdout.readline()
        agree("the observer has answered (if not, see its log)", bool(answered), expected=True)
        return Found(**json.loads(answered))

    async def verify(self) -> None:
        """Every account has its row, and there is no other."""
        expected = {(it.tenant, it.person_id, it.account_id) for it in openings(WARM + self._events)}
        async with self._site.connection() as connection:
            rows = await connection.fetch(f"SELECT tenant, person_id, account_id FROM {self.table}")
        found = {tuple(row.values()) for row in rows}
        agree(f"{self.name}: rows", len(rows), len(expected))
        agree(f"{self.name}: rows that are wrong", len(found ^ expected), 0)


class Ours(Watched):
    """The platform."""

    def __init__(self, site: Site, events: int, name: str) -> None:
        """Send by `http` or by `kafka`."""
        super().__init__(site, events)
        self.name = name

    async def reset(self) -> None:
        """Begin as if new."""
        await renew(self._site)
        async with self._site.connection() as connection:
            # Its view is a security barrier, through which no join reaches the key.
            self.table = (await read_model_tables(connection, discover()))["onboarding_progress"]

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[tuple[Sequence[int], Errand]]:
        """Run what `up` runs."""
        async with platform(self._site) as running:
            if self.name == "http":
                tokens = {tenant: running.token(tenant) for tenant in TENANTS}
                way: dict[str, Any] = {"port": running.settings.http_port, "tokens": tokens}
            else:
                way = {"topic": "accounts.inbound"}
            yield running.pids, Errand(RATE, WARM, self._events, self.table, **way)

    async def verify(self) -> None:
        """Each account was opened once, too, and nothing is parked."""
        await super().verify()
        found = await self._site.row(
            "SELECT count(*), count(*) FILTER (WHERE type = 'accounts.AccountOpened') FROM accounts.events"
        )
        sent = WARM + self._events
        agree(f"{self.name}: facts, accounts opened", found, (sent, sent))
        agree(f"{self.name}: parked", await parked(self._site), 0)


class BareChain(Watched):
    """The same hops, and nothing around them."""

    name = "bare_chain"
    table = "baseline.progress"

    async def reset(self) -> None:
        """Empty its tables."""
        await Admin(self._site.settings.kafka).ensure_topics([COMMANDS, EVENTS])
        await self._site.sql(TABLES)
        await self._site.sql("CHECKPOINT")

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[tuple[Sequence[int], Errand]]:
        """Run both sides."""
        async with (
            self._site.process("tests.benchmarks.chain", "front", spoken=True) as front,
            self._site.process("tests.benchmarks.chain", "back", spoken=True) as back,
        ):
            for process in (front, back):
                assert process.stdout is not None
                agree("the bare chain is", await process.stdout.readline(), b"ready\n")
            yield (front.pid, back.pid), Errand(RATE, WARM, self._events, self.table, topic=COMMANDS)


class Latency(Case):
    """One hop of command, fact and read model."""

    name = "latency"
    events = 12_000
    goals = (
        *(
            Goal(f"{way} {cut} / bare_chain", must=5, at_most=True)
            for way in ("http", "kafka")
            for cut in ("p50", "p99")
        ),
        Goal("http p50 ms", aim=25, at_most=True),
        Goal("http p99 ms", aim=100, at_most=True),
        Goal("kafka p50 ms", aim=25, at_most=True),
        Goal("kafka p99 ms", aim=100, at_most=True),
    )

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Give both ways of ours, and the bare chain."""
        return [Ours(site, events, "http"), Ours(site, events, "kafka"), BareChain(site, events)]

    def ratios(self, runs: Runs) -> dict[str, float]:
        """Compare latencies: the medians over the runs."""
        found: dict[str, float] = {}
        for way in ("http", "kafka"):
            for cut in ("p50", "p99"):
                ours, bare = (
                    median(runs[name], lambda run, cut=cut: run.figures[f"{cut}_ms"])  # type: ignore[misc]
                    for name in (way, "bare_chain")
                )
                found[f"{way} {cut} ms"] = ours
                found[f"{way} {cut} / bare_chain"] = ours / bare
        return found


case = Latency()
