"""The broker and the database of a home, as one thing that starts and stops; existing servers take their place where told."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.embedded import EmbeddedError
from infra.embedded.kafka import Kafka
from infra.embedded.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from pathlib import Path

    from infra.embedded import Report
    from infra.embedded.supervisor import Supervisor

SERVERS = 0
"""The stage that is stopped last."""


class Servers:
    """The two servers of one home: `prepare`, then `start`."""

    def __init__(
        self, home: Path, software: Path, password: str, supervisor: Supervisor, report: Report
    ) -> None:
        """TRIPLANE_KAFKA and TRIPLANE_POSTGRES name existing servers, each instead of the embedded one."""
        self._supervisor = supervisor
        self._report = report
        self._given = {
            "kafka": os.environ.get("TRIPLANE_KAFKA"),
            "postgres": os.environ.get("TRIPLANE_POSTGRES"),
        }
        self._own = [
            server
            for server in (Kafka(home, software), Postgres(home, password))
            if not self._given[server.name]
        ]

    async def prepare(self) -> dict[str, str]:
        """Everything short of starting; the addresses, by the names of endpoints.json. EmbeddedError where one cannot."""
        await _together(server.prepare(partial(self._report, server.name)) for server in self._own)
        given = {name: address for name, address in self._given.items() if address}
        return given | {server.name: server.address for server in self._own}

    async def start(self) -> None:
        """Start both at once, and wait until they answer; EmbeddedError where one does not."""
        kafka, postgres = self._given["kafka"], self._given["postgres"]
        await _together(
            [
                *(self._start(server) for server in self._own),
                *([_reach("TRIPLANE_KAFKA", f"kafka://{kafka}")] if kafka else []),
                *([_reach("TRIPLANE_POSTGRES", postgres)] if postgres else []),
            ]
        )

    async def _start(self, server: Kafka | Postgres) -> None:
        self._report(server.name, "starting")
        self._supervisor.start(server.program(), stage=SERVERS)
        await self._supervisor.until(server.ready, server.name, within=120)
        self._report(server.name, f"ready on port {server.port}")


async def _together(steps: Iterable[Coroutine[None, None, None]]) -> None:
    """Take these steps at once; the first error ends the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _reach(setting: str, address: str) -> None:
    parts = urlsplit(address.partition(",")[0])
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 5432)
            writer.close()
    except (OSError, TimeoutError) as error:
        msg = f"nothing answers at {parts.hostname}:{parts.port or 5432}, where {setting} points: start that server, or unset it"
        raise EmbeddedError(msg) from error
