"""Sends commands at fixed times and watches when each is visible: `python -m tests.benchmarks.observer`.

Open-loop: command n is due at n / rate, whatever became of those before, and its latency counts from then. Watched are
the rows that are still awaited, by their primary key, in one query about every `LOOK_S`: so a latency is exact to that
and one round trip to the database, and looking costs the same whoever is measured. A process of its own, so that nothing
else of the benchmark holds it up. It reads its errand from standard input and writes what it found to standard output.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer

from infra.settings import Settings
from tests.benchmarks.opening import Opening, openings
from tests.benchmarks.wire import Http

LOOK_S: Final = 0.002
PATIENCE_S: Final = 30.0
MOST: Final = 500
"""How many rows one query looks for; the oldest come first."""

Send = Callable[[Opening], Awaitable[None]]


@dataclass(frozen=True)
class Errand:
    """What to send, and where it shows."""

    rate: float
    """Commands a second."""
    warm: int
    """How many come first and are not counted: connections, plans and batches get into their stride."""
    count: int
    table: str
    """Where the row of an account shows, by tenant and person."""
    topic: str = ""
    """Where a plain client writes the command to."""
    port: int = 0
    """Where the HTTP server takes it, if that is the way."""
    tokens: dict[str, str] | None = None
    """Of each tenant, for the HTTP server."""


@dataclass(frozen=True)
class Found:
    """What came of it; moments by the monotonic clock, the rest in ms."""

    began: float
    ended: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    """How long after its time a command was sent: what the latencies owe to the sender."""
    lost: int
    """How many were never seen."""
    refused: int
    """How many were not taken."""


class Observer:
    """One run."""

    def __init__(self, errand: Errand) -> None:
        """Prepare; nothing is sent yet."""
        self._errand = errand
        self._all = list(openings(errand.warm + errand.count))
        self._awaited: dict[int, Opening] = {}
        self._seen: dict[int, float] = {}
        self._late: list[float] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._refused = 0
        self._sent = False

    async def run(self, send: Send) -> Found:
        """Send everything and wait until all of it is seen."""
        connection = await asyncpg.connect(
            Settings.load().postgres,
            server_settings={"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"},
        )
        began = time.monotonic() + 0.2
        watching = asyncio.create_task(self._watch(connection, began))
        for number, opening in enumerate(self._all):
            due = began + number / self._errand.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._late.append(time.monotonic() - due)
            self._awaited[number] = opening
            task = asyncio.create_task(self._one(send, opening))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        self._sent = True
        await watching
        await asyncio.gather(*self._sending)
        await connection.close()
        return self._found(began)

    async def _one(self, send: Send, opening: Opening) -> None:
        try:
            await send(opening)
        except Exception as refused:  # noqa: BLE001 - whatever it was, it is told
            self._refused += 1
            print(repr(refused), file=sys.stderr)

    async def _watch(self, connection: asyncpg.Connection[Any], began: float) -> None:
        look = await connection.prepare(
            f"""SELECT o.number FROM unnest($1::int[], $2::text[], $3::uuid[]) AS o (number, tenant, person_id)
                JOIN {self._errand.table} t USING (tenant, person_id) WHERE t.account_id IS NOT NULL"""
        )
        moved_at = time.monotonic()
        while self._awaited or not self._sent:
            looked_at = time.monotonic()
            if looked_at - moved_at > PATIENCE_S:
                return
            wanted = list(islice(self._awaited.items(), MOST))
            if wanted:
                rows = await look.fetch(
                    [number for number, _ in wanted],
                    [it.tenant for _, it in wanted],
                    [it.person_id for _, it in wanted],
                )
                now = time.monotonic()
                for row in rows:
                    number = row["number"]
                    del self._awaited[number]
                    self._seen[number] = now - (began + number / self._errand.rate)
                    moved_at = now
            await asyncio.sleep(max(0.0, looked_at + LOOK_S - time.monotonic()))

    def _found(self, began: float) -> Found:
        warm = self._errand.warm
        ms = sorted(1000 * seconds for number, seconds in self._seen.items() if number >= warm)
        cuts = statistics.quantiles(ms, n=100, method="inclusive") if len(ms) > 1 else [0.0] * 99
        late = statistics.quantiles(self._late[warm:], n=100, method="inclusive")
        return Found(
            began=began + warm / self._errand.rate,
            ended=time.monotonic(),
            p50_ms=cuts[49],
            p95_ms=cuts[94],
            p99_ms=cuts[98],
            max_ms=ms[-1] if ms else 0.0,
            late_p99_ms=1000 * late[98],
            lost=len(self._awaited),
            refused=self._refused,
        )


async def main() -> None:
    """Run the errand by the way that it names."""
    errand = Errand(**json.loads(sys.stdin.readline()))
    async with AsyncExitStack() as stack:
        send = await (_by_http(errand, stack) if errand.port else _by_kafka(errand, stack))
        found = await Observer(errand).run(send)
    print(json.dumps(asdict(found)), flush=True)


async def _by_http(errand: Errand, stack: AsyncExitStack) -> Send:
    client = await stack.enter_async_context(Http(errand.port))
    tokens = errand.tokens or {}

    async def send(opening: Opening) -> None:
        headers = {
            "Authorization": f"Bearer {tokens[opening.tenant]}",
            "Content-Type": "application/json",
            "Idempotency-Key": str(opening.account_id),
        }
        status, answer = await client.ask("POST", "/commands/accounts/OpenAccount", headers, opening.body())
        if status != 202:
            raise RuntimeError(f"{status}: {answer[:300]!r}")

    return send


async def _by_kafka(errand: Errand, stack: AsyncExitStack) -> Send:
    producer: Any = AIOKafkaProducer(bootstrap_servers=Settings.load().kafka, acks="all", linger_ms=0)
    await producer.start()
    stack.push_async_callback(producer.stop)

    async def send(opening: Opening) -> None:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": str(opening.account_id),
            "ce_type": "accounts.OpenAccount",
            "ce_source": "upstream",
            "ce_tenantid": opening.tenant,
        }
        await producer.send_and_wait(
            errand.topic,
            opening.body(),
            str(opening.account_id).encode(),
            headers=[(name, text.encode()) for name, text in headers.items()],
        )

    return send


if __name__ == "__main__":
    uvloop.run(main())
