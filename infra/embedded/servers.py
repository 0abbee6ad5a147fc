"""The broker and the database of a home, as one thing that starts and stops; existing servers take their place where told."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.embedded import EmbeddedError
from infra.embedded.kafka import Kafka
from infra.embedded.postgres import Postgres

if TYPE_CHECKING:
    from pathlib import Path

    from infra.embedded import Report
    from infra.embedded.supervisor import Supervisor

SERVERS = 0
"""The stage that is stopped last."""


async def start_servers(
    home: Path, software: Path, password: str, supervisor: Supervisor, report: Report
) -> dict[str, str]:
    """Start both at once; their addresses, by the names of endpoints.json. EmbeddedError where one cannot."""
    kafka, postgres = os.environ.get("TRIPLANE_KAFKA"), os.environ.get("TRIPLANE_POSTGRES")
    broker, database = Kafka(home, software), Postgres(home, password)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                _reach("TRIPLANE_KAFKA", f"kafka://{kafka}") if kafka else _start(broker, supervisor, report)
            )
            group.create_task(
                _reach("TRIPLANE_POSTGRES", postgres) if postgres else _start(database, supervisor, report)
            )
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return {"kafka": kafka or broker.address, "postgres": postgres or database.address}


async def _start(server: Kafka | Postgres, supervisor: Supervisor, report: Report) -> None:
    await server.prepare(lambda news: report(server.name, news))
    report(server.name, "starting")
    supervisor.start(server.program(), stage=SERVERS)
    await supervisor.until(server.ready, server.name, within=120)
    report(server.name, f"ready on port {server.port}")


async def _reach(setting: str, address: str) -> None:
    parts = urlsplit(address.partition(",")[0])
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 5432)
            writer.close()
    except (OSError, TimeoutError) as error:
        msg = f"nothing answers at {parts.hostname}:{parts.port or 5432}, where {setting} points: start that server, or unset it"
        raise EmbeddedError(msg) from error
