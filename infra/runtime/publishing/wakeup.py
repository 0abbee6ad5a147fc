"""A debounced wake-up makes relays fast; their poll makes them sure. Never inside a business transaction."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from uuid import uuid4

from infra.postgres.database import TRANSIENT, Database

CHANNEL: Final = "outbox"
DEBOUNCE_S: Final = 0.002
LOOK_S: Final = 1.0
"""How soon a broken connection is noticed: the driver tells nobody."""


class Wakeups:
    """Tells the relays of a schema, in this process and others, that its outbox has grown."""

    def __init__(self) -> None:
        """Begin with nobody to wake."""
        self.mark = uuid4().hex
        """What this process's notifications carry: its own relays were woken without them."""
        self._hearing = False
        self._local: dict[str, list[asyncio.Event]] = {}
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._due: set[str] = set()
        self._alone: set[str] = set()

    def listen(self, schema: str) -> asyncio.Event:
        """Give an event that is set when the outbox of `schema` may have grown."""
        event = asyncio.Event()
        self._local.setdefault(schema, []).append(event)
        return event

    def alone(self, schema: str, *, yes: bool) -> None:
        """Say whether a relay of this process publishes all of a schema, so that nobody else need be told."""
        if yes:
            self._alone.add(schema)
        else:
            self._alone.discard(schema)

    def poke(self, database: Database) -> None:
        """Wake the relays of a schema, soon; call it after the commit."""
        for event in self._local.get(database.schema, ()):
            event.set()
        if database.schema in self._alone:
            return
        self._due.add(database.schema)
        if database.schema not in self._telling:
            self._telling[database.schema] = asyncio.create_task(self._notify(database))

    async def _notify(self, database: Database) -> None:
        """Tell them at once, and once more for all who come while they are being told."""
        schema = database.schema
        while schema in self._due:
            self._due.discard(schema)
            with contextlib.suppress(*TRANSIENT):
                await database.execute("SELECT pg_notify($1, $2)", CHANNEL, f"{schema} {self.mark}")
            await asyncio.sleep(DEBOUNCE_S)
        del self._telling[schema]

    async def hear(self, database: Database, stop: asyncio.Event) -> None:
        """Hear of commits in other processes until `stop` is set; once in a process, as each who hears costs every commit.

        When the connection breaks, the relays' poll goes on and we listen again.
        """
        if self._hearing:
            return
        self._hearing = True
        try:
            while not stop.is_set():
                with contextlib.suppress(*TRANSIENT):
                    await self._listen(database, stop)
                await asyncio.sleep(LOOK_S)
        finally:
            self._hearing = False

    async def _listen(self, database: Database, stop: asyncio.Event) -> None:
        async with database.connection() as connection:
            await connection.add_listener(CHANNEL, self._told)
            try:
                while not connection.is_closed() and not stop.is_set():  # noqa: ASYNC110 - nobody tells when it breaks
                    await asyncio.sleep(LOOK_S)
            finally:
                await connection.remove_listener(CHANNEL, self._told)

    def _told(self, _connection: object, _pid: int, _channel: str, told: object) -> None:
        schema, _, mark = str(told).partition(" ")
        if mark != self.mark:
            for event in self._local.get(schema, ()):
                event.set()
