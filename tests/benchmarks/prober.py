"""Asks every question one after the other, by HTTP or by the driver: `python -m tests.benchmarks.prober`.

It reads its errand from standard input, and writes seconds and digests of the answers to standard output.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import md5
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg
import uvloop

from infra.http.reads import questions_of
from infra.runtime.asking.questions import DEFAULT_LIMIT, TIMEOUT, statement_of
from infra.runtime.catalog import discover
from infra.runtime.folding.generations import readable
from infra.settings import Settings
from tests.benchmarks.asks import Ask, asks
from tests.benchmarks.wire import Http

WARM: Final = 6
"""How often each question is asked before its time counts; the driver has prepared it by then, the server planned it."""

Keys = list[tuple[str, ...]]
Probe = Callable[[Ask, int], Awaitable[Keys]]


@dataclass(frozen=True)
class Errand:
    """What to ask, and by which way."""

    rows: int
    numbers: list[int]
    """Of the rows that are asked for."""
    port: int = 0
    """Where the HTTP server answers, if that is the way."""
    tokens: dict[str, str] | None = None


async def main() -> None:
    """Run the errand."""
    errand = Errand(**json.loads(sys.stdin.readline()))
    async with AsyncExitStack() as stack:
        probe = await (_by_http(errand, stack) if errand.port else _by_driver(errand, stack))
        began = time.monotonic()
        seconds: dict[str, list[float]] = {}
        digests: dict[str, list[str]] = {}
        for ask in asks(errand.rows):
            for number in errand.numbers[:WARM]:
                await probe(ask, number)
            for number in errand.numbers:
                asked_at = time.perf_counter()
                keys = await probe(ask, number)
                seconds.setdefault(ask.name, []).append(time.perf_counter() - asked_at)
                digests.setdefault(ask.name, []).append(digest_of(keys))
    found = {"began": began, "ended": time.monotonic(), "seconds": seconds, "digests": digests}
    print(json.dumps(found), flush=True)


def digest_of(keys: Keys) -> str:
    """Tell which rows came, and in which order."""
    return f"{len(keys)}:{md5(json.dumps(keys).encode(), usedforsecurity=False).hexdigest()[:12]}"


async def _by_http(errand: Errand, stack: AsyncExitStack) -> Probe:
    client = await stack.enter_async_context(Http(errand.port))
    tokens = errand.tokens or {}

    async def probe(ask: Ask, number: int) -> Keys:
        path = f"/read/{ask.query}?{urlencode(ask.parameters(number))}"
        authorization = f"Bearer {tokens[ask.tenant(number, errand.rows)]}"
        status, answer = await client.ask("GET", path, {"Authorization": authorization})
        if status != 200:
            raise RuntimeError(f"{path}: {status}: {answer[:300]!r}")
        return [tuple(str(item[name]) for name in ask.key) for item in json.loads(answer)["items"]]

    return probe


async def _by_driver(errand: Errand, stack: AsyncExitStack) -> Probe:
    connection = await asyncpg.connect(Settings.load().database("triplane_read"))
    stack.push_async_callback(connection.close)
    questions = {
        f"{model.projection.name}/{name}": question
        for model in discover().projections.values()
        for name, question in questions_of(model).items()
    }
    generations = {
        name: await readable(connection, it.model, it.read_model) for name, it in questions.items()
    }

    async def probe(ask: Ask, number: int) -> Keys:
        question = questions[ask.query]
        query: Any = question.query.model_validate_strings(ask.parameters(number))
        given = {name: value for name, value in query if value is not None}
        statement, arguments = statement_of(question, generations[ask.query], given, None, DEFAULT_LIMIT)
        async with connection.transaction():
            await connection.execute(
                "SELECT set_config('app.tenant', $1, true), set_config('statement_timeout', $2, true)",
                ask.tenant(number, errand.rows),
                TIMEOUT,
            )
            rows = await connection.fetch(statement, *arguments)
        return [tuple(str(row[name]) for name in ask.key) for row in rows[:DEFAULT_LIMIT]]

    return probe


if __name__ == "__main__":
    uvloop.run(main())
