"""Where a benchmark takes place: one home's embedded servers, and the processes at work on them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from infra.embedded.process import LAUNCH, ROOT, python, surroundings
from infra.errors import TriplaneError
from infra.migrations.migrate import migrate
from infra.settings import Settings
from tests.benchmarks import load
from tests.benchmarks.catalogue import catalogue
from tests.benchmarks.load import Load, Outgoing
from tests.benchmarks.meter import Meter, metered

LINE: Final = 1 << 22
"""How long a line may be that a process says, in bytes."""
NOWHERE: Final = "http://127.0.0.1:9"


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

    async def sql(self, *statements: str) -> None:
        """Run statements, each by itself, as the administrator."""
        async with self.connection() as connection:
            for statement in statements:
                await connection.execute(statement)

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
            # A worker of other code would build its read models anew beside the measurement.
            "TRIPLANE_REBUILD": "command",
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
        """Append records to a topic, as `load.fill` does."""
        return await load.fill(self.settings.kafka, topic, records)

    async def hold(self, topic: str, records: Iterable[Outgoing]) -> tuple[Load, Callable[[], None]]:
        """Append records that appear when they are released, as `load.hold` does."""
        return await load.hold(self.settings.kafka, topic, records)


def tied(command: Sequence[str]) -> list[str]:
    """Write a command so that it is asked to end when this process is gone, however that ends."""
    return [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(signal.SIGTERM)), "", *command]
