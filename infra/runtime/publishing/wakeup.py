"""A debounced wake-up makes relays fast; their poll makes them sure. Never inside a business transaction."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from uuid import uuid4

from infra.postgres.database import TRANSIENT, Database

DEBOUNCE_S: Final = 0.002


class Wakeups:
    """Tells the relays of a schema, in this process and others, that its outbox has grown."""

    def __init__(self) -> None:
        """Begin with nobody to wake."""
        self.mark = uuid4().hex
        """What this process's notifications carry: its own relays were woken without them."""
        self._local: dict[str, list[asyncio.Event]] = {}
        self._pending: dict[str, asyncio.Task[None]] = {}
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
        if database.schema not in self._pending and database.schema not in self._alone:
            self._pending[database.schema] = asyncio.create_task(self._notify(database))

    async def _notify(self, database: Database) -> None:
        await asyncio.sleep(DEBOUNCE_S)
        del self._pending[database.schema]
        with contextlib.suppress(*TRANSIENT):
            await database.execute("SELECT pg_notify($1, $2)", f"outbox_{database.schema}", self.mark)
