"""`query`: the published questions to tables of a million rows, by HTTP with a token, beside the same SELECT by the driver.

Questions are asked one after the other. Both contestants run the very statement, under the same role and row-level
security; what ours takes longer is the way through the server: token, parameters, transaction, JSON, freshness.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from infra.runtime.asking.questions import DEFAULT_LIMIT
from infra.runtime.catalog import discover
from tests.benchmarks.asks import FILL, asks, customers
from tests.benchmarks.harness import Case, Contestant, Goal, Run, Runs, agree, median
from tests.benchmarks.meter import Marks
from tests.benchmarks.payments import TENANTS
from tests.benchmarks.prober import Errand, digest_of
from tests.benchmarks.running import platform, read_model_tables, renew
from tests.benchmarks.site import Site

SAMPLES: Final = 60
CHECKED: Final = 3
"""Of how many samples the answer is compared to what somebody else's SELECT says; the others to each other's."""


class Asked(Contestant):
    """The questions, by one way."""

    def __init__(self, site: Site, rows: int, name: str, answers: dict[str, Any]) -> None:
        """Ask tables of so many rows by `http` or by `driver`; `answers` holds what the ways have answered."""
        self.name = name
        self._site = site
        self._rows = rows
        self._answers = answers
        self._numbers = [1 + number * 7919 % (rows - 1) for number in range(SAMPLES)]

    async def reset(self) -> None:
        """Nothing is changed by asking."""

    async def run(self) -> Run:
        """Ask everything."""
        errand = Errand(self._rows, self._numbers)
        if self.name == "driver":
            return await self._ask(errand)
        async with platform(self._site) as running:
            tokens = {tenant: running.token(tenant) for tenant in TENANTS}
            port = running.settings.http_port
            return await self._ask(Errand(self._rows, self._numbers, port, tokens), *running.pids)

    async def _ask(self, errand: Errand, *pids: int) -> Run:
        async with self._site.process("tests.benchmarks.prober", spoken=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            async with self._site.metered(*(pids or (process.pid,))) as meter:
                process.stdin.write(json.dumps(asdict(errand)).encode() + b"\n")
                answered = await process.stdout.readline()
        agree("the prober has answered (if not, see its log)", bool(answered), expected=True)
        found = json.loads(answered)
        self._answers[self.name] = found["digests"]
        marks = Marks(found["began"], found["ended"], SAMPLES * len(found["seconds"]))
        return meter.run(marks, **_figures(found["seconds"]))

    async def verify(self) -> None:
        """Compare the first answers to another SELECT's, and all to those of the other way."""
        mine = self._answers[self.name]
        async with self._site.connection() as connection:
            tables = await read_model_tables(connection, discover())
            for ask in asks(self._rows):
                for number, digest in zip(self._numbers[:CHECKED], mine[ask.name], strict=False):
                    columns = ", ".join(f"{name}::text" for name in ask.key)
                    values = [_literal(value) for value in ask.parameters(number).values()]
                    condition = ask.condition
                    for index, value in reversed(list(enumerate(values, 2))):
                        condition = condition.replace(f"${index}", value)
                    rows = await connection.fetch(
                        f"""SELECT {columns} FROM {tables[ask.view]} WHERE tenant = $1 AND {condition}
                            ORDER BY {ask.order} LIMIT {DEFAULT_LIMIT}""",
                        ask.tenant(number, self._rows),
                    )
                    keys = [tuple(row.values()) for row in rows]
                    agree(f"{self.name}: rows of {ask.name} for row {number}", digest, digest_of(keys))
        for other, theirs in self._answers.items():
            agree(f"{self.name} and {other}: all answers", mine == theirs, expected=True)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _figures(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    found = {}
    for name, each in seconds.items():
        cuts = statistics.quantiles(each, n=20, method="inclusive")
        found[f"{name} p50_ms"] = 1000 * cuts[9]
        found[f"{name} p95_ms"] = 1000 * cuts[18]
    return found


class Queries(Case):
    """What people ask."""

    name = "query"
    events = 1_000_000
    goals = (
        Goal("worst p95 / driver", must=4, at_most=True),
        Goal("keyed: worst p95 ms", aim=20, at_most=True),
        Goal("lists: worst p95 ms", aim=100, at_most=True),
    )

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Fill the tables that serve."""
        self._rows = events
        await renew(site)
        async with site.connection() as connection:
            tables = await read_model_tables(connection, discover())
            for view, statement in FILL.items():
                filled = statement.format(table=tables[view], rows=events, customers=customers(events))
                await connection.execute(filled, timeout=500)
                await connection.execute(f"VACUUM (ANALYZE) {tables[view]}", timeout=500)
            await connection.execute("CHECKPOINT")
        answers: dict[str, Any] = {}
        return [Asked(site, events, name, answers) for name in ("http", "driver")]

    def ratios(self, runs: Runs) -> dict[str, float]:
        """Compare every question's p95, and say which is the worst."""

        def p95(way: str, name: str) -> float:
            return median(runs[way], lambda run: run.figures[f"{name} p95_ms"])

        questions = asks(self._rows)
        ratios = {ask.name: p95("http", ask.name) / p95("driver", ask.name) for ask in questions}
        return {
            **ratios,
            "worst p95 / driver": max(ratios.values()),
            "keyed: worst p95 ms": max(p95("http", ask.name) for ask in questions if ask.keyed),
            "lists: worst p95 ms": max(p95("http", ask.name) for ask in questions if not ask.keyed),
        }


case = Queries()
