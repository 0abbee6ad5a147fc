"""Where a benchmark takes place: one home's embedded servers, the records on their topics, and the processes at work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from confluent_kafka import Producer

from infra.embedded.process import LAUNCH, ROOT, python, surroundings
from infra.errors import TriplaneError
from infra.kafka.admin import Admin
from infra.migrations.migrate import migrate
from infra.settings import Settings
from tests.benchmarks.catalogue import catalogue
from tests.benchmarks.meter import Meter, metered

LINE: Final = 1 << 22
"""How long a line may be that a process says, in bytes."""
NOWHERE: Final = "http://127.0.0.1:9"
Outgoing = tuple[str, bytes, list[tuple[str, bytes]]]
"""Key, value and headers of a record."""


@dataclass(frozen=True)
class Load:
    """Records that lie on a topic: all of them behind `begin`, each partition's in order."""

    topic: str
    begin: Mapping[int, int]
    """The offset before the first one, by partition."""
    order: Mapping[int, Sequence[int]]
    """Which records lie in a partition, one after the other: their numbers as they were given."""

    @property
    def size(self) -> int:
        """How many there are."""
        return sum(map(len, self.order.values()))

    def until(self, ends: Mapping[int, int]) -> list[int]:
        """Give the numbers of the records below the given offsets."""
        return [
            number for place, end in ends.items() for number in self.order[place][: end - self.begin[place]]
        ]


@dataclass(frozen=True)
class Site:
    """The servers of one home, brought to what the benchmark declares."""

    settings: Settings
    worker_module: str = "tests.benchmarks.worker"
    """What runs as our worker; a test of the benchmark brings a mutant."""
    servers: dict[str, int] = field(default_factory=dict[str, int])

    async def open(self) -> None:
        """Find the servers' processes, and bring the home to what the benchmark declares."""
        try:
            rows = json.loads((self.settings.home / "processes.json").read_text("utf-8"))
        except FileNotFoundError:
            msg = f"{self.settings.home}: has no embedded servers that run; their processes are measured, too"
            raise TriplaneError(msg) from None
        pids = {row["name"]: row["pid"] for row in rows}
        self.servers.update(database=pids["postgres"], broker=pids["kafka"])
        await migrate(self.settings, catalogue())

    async def sql(self, statements: str) -> None:
        """Run statements as the administrator."""
        async with self.connection() as connection:
            await connection.execute(statements)

    async def row(self, query: str, *arguments: object) -> tuple[Any, ...]:
        """Ask the database, as its administrator, for one row."""
        async with self.connection() as connection:
            found = await connection.fetchrow(query, *arguments)
        assert found is not None
        return tuple(found.values())

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[asyncpg.Connection[Any]]:
        """Give a connection of the administrator's, with the jobs of a benchmark allowed their time."""
        connection = await asyncpg.connect(self.settings.postgres, command_timeout=300)
        try:
            yield connection
        finally:
            await connection.close()

    async def settle(self) -> None:
        """Let what the run before has left to be done be done before the clock starts."""
        await asyncio.sleep(0.5)

    def metered(self, *workers: int) -> AbstractAsyncContextManager[Meter]:
        """Sample what the servers and these worker processes use, as long as the block runs."""
        return metered(self.settings.postgres, self.servers, workers)

    @asynccontextmanager
    async def process(self, module: str, *arguments: str, spoken: bool = False) -> AsyncGenerator[Process]:
        """Run a process of this tree on the home as long as the block runs; `spoken` to over its input and output.

        It is asked to end, so that it leaves its consumer group. Its log is in the home.
        """
        log = self.settings.home / "logs" / f"{module.rpartition('.')[2]}.log"
        log.parent.mkdir(exist_ok=True)
        environment = {
            **surroundings(),
            "TRIPLANE_HOME": str(self.settings.home),
            "TRIPLANE_KAFKA": self.settings.kafka,
            "TRIPLANE_POSTGRES": self.settings.postgres,
            "TRIPLANE_MASTER_KEY": b64encode(self.settings.master_key).decode(),
            "TRIPLANE_HTTP_PORT": str(self.settings.http_port),
            # Nobody is charged in earnest: where no simulator runs there is no provider.
            "TRIPLANE_STRIPE_API_BASE": self.settings.stripe_api_base or NOWHERE,
        }
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *tied(python(module, *arguments)),
                stdin=asyncio.subprocess.PIPE if spoken else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if spoken else file,
                stderr=file,
                cwd=ROOT,
                env=environment,
                limit=LINE,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 20)
                except TimeoutError:
                    process.kill()
                    await process.wait()

    async def fill(self, topic: str, records: Iterable[Outgoing]) -> Load:
        """Append records to a topic as its publisher does: by key, acknowledged by all replicas."""
        admin = Admin(self.settings.kafka)
        known = list((await admin.topics([topic])).values())
        begin = {
            partition: offset for (_, partition), offset in (await admin.offsets(known, end=True)).items()
        }
        placed = await asyncio.to_thread(self._append, topic, records)
        order: dict[int, list[int]] = {partition: [] for partition in begin}
        for number, partition in enumerate(placed):
            order[partition].append(number)
        ends = {
            partition: offset for (_, partition), offset in (await admin.offsets(known, end=True)).items()
        }
        assert {place: ends[place] - begin[place] for place in ends} == {
            place: len(numbers) for place, numbers in order.items()
        }, "somebody else writes to the topic"
        return Load(topic, begin, order)

    def _append(self, topic: str, records: Iterable[Outgoing]) -> list[int]:
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2",
                "linger.ms": 20,
                "queue.buffering.max.messages": 50_000,
                "log_level": 0,
            }
        )
        placed: list[int] = []
        failed: list[str] = []

        def told(number: int) -> Any:
            def delivered(error: object, message: Any) -> None:
                if error is not None:
                    failed.append(str(error))
                else:
                    placed[number] = message.partition()

            return delivered

        for number, (key, value, headers) in enumerate(records):
            placed.append(-1)
            while True:
                try:
                    producer.produce(topic, value, key, headers=headers, on_delivery=told(number))  # type: ignore[arg-type]
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        assert producer.flush(120) == 0
        assert not failed, failed[:3]
        return placed


def tied(command: Sequence[str]) -> list[str]:
    """Write a command so that it is asked to end when this process is gone, however that ends."""
    return [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(signal.SIGTERM)), "", *command]
