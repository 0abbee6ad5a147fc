"""Heartbeats: every second whatever runs shows how it fares, on the database's clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import UUID

from pydantic_core import to_json

from infra.postgres.database import TRANSIENT, Database
from infra.runtime.vitals import Vitals

BEAT_S: Final = 1.0


class Shows(Protocol):
    """Something that shows how it fares."""

    @property
    def name(self) -> str:
        """What operators call it."""
        ...

    @property
    def vitals(self) -> Vitals:
        """What it shows of itself."""
        ...


async def beat(database: Database, process: UUID, shown: Callable[[], Sequence[Shows]]) -> None:
    """Show what runs of a schema in this `process`, until cancelled."""
    while True:
        now = time.time()
        parts = shown()
        with contextlib.suppress(*TRANSIENT):
            await database.execute(
                """INSERT INTO heartbeats (process, consumer, host, pid, beat_at, turned_at, partitions, counters)
                   SELECT $1, name, $2, $3, now(), now() - make_interval(secs => idle), partitions, counters::jsonb
                   FROM unnest($4::text[], $5::float8[], $6::int[], $7::text[]) AS v (name, idle, partitions, counters)
                   ON CONFLICT (process, consumer) DO UPDATE SET beat_at = excluded.beat_at,
                     turned_at = excluded.turned_at, partitions = excluded.partitions, counters = excluded.counters""",
                process,
                socket.gethostname(),
                os.getpid(),
                [part.name for part in parts],
                [now - part.vitals.turned_at for part in parts],
                [part.vitals.partitions for part in parts],
                [to_json(part.vitals.shown()).decode() for part in parts],
            )
        await asyncio.sleep(BEAT_S)


async def silence(database: Database, process: UUID) -> None:
    """Show that nothing of a schema runs in this `process` any more."""
    with contextlib.suppress(*TRANSIENT):
        await database.execute("DELETE FROM heartbeats WHERE process = $1", process)
