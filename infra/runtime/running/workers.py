"""What one worker process runs: any number of consumers, relays and lanes, side by side on one event loop.

Every second each shows a heartbeat on the database's clock; a loop that has made no turn for too long ends the process,
so that another takes over.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Protocol
from uuid import uuid4

import structlog

from infra.errors import TriplaneError
from infra.runtime import collector
from infra.runtime.catalog import Catalog, EffectWiring, ProjectionWiring, SagaWiring, Wiring
from infra.runtime.catalog.schemas import chains
from infra.runtime.consuming.consumer import Consumer
from infra.runtime.consuming.first_start import register
from infra.runtime.effects.lanes import Lanes
from infra.runtime.engine import Engine, open_engine
from infra.runtime.publishing.relay import Relay
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.running.deadlines import Deadlines
from infra.runtime.running.heartbeats import Shows, beat, silence
from infra.runtime.running.housekeeping import Housekeeping
from infra.runtime.running.models import Models
from infra.settings import Settings

log = structlog.get_logger(__name__)

STALLED_S: Final = 60.0
WORKERS: Final = "workers"
"""The name that selects every context's worker with its effects, and every relay."""
RESTART_CODE: Final = 75
"""Exit code that asks the supervisor for an immediate restart."""


class Runs(Shows, Protocol):
    """Something that works until it is told to stop."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set."""
        ...


class UnknownName(TriplaneError):
    """There is nothing of that name to run."""


def select(catalog: Catalog, names: Iterable[str]) -> tuple[list[Wiring], list[str]]:
    """Choose consumers and relays (by schema) by name or prefix; no name at all chooses everything."""
    consumers = catalog.consumers
    relays = [schema for schema, labels in chains(catalog).items() if "outbox" in labels]
    wanted = list(names)
    if not wanted:
        return list(consumers.values()), relays
    chosen: dict[str, Wiring] = {}
    publishing: set[str] = set()
    for name in wanted:
        if name == WORKERS:
            chosen |= {**catalog.workers, **catalog.effects}
            publishing |= set(relays)
            continue
        found = {it: wiring for it, wiring in consumers.items() if it == name or it.startswith(f"{name}.")}
        schemas = {name.removeprefix("relay.")} & set(relays)
        if not found and not schemas:
            known = ", ".join((*sorted(consumers), *(f"relay.{schema}" for schema in relays)))
            raise UnknownName(f"{name!r} is no consumer; known: {known}")
        chosen |= found
        publishing |= schemas | {wiring.schema for wiring in found.values() if wiring.schema in relays}
    return list(chosen.values()), sorted(publishing)


class Workers:
    """The consumers and relays of this process."""

    def __init__(
        self, settings: Settings, catalog: Catalog, ports: Callable[[Settings], Mapping[type, object]]
    ) -> None:
        """Prepare; `ports` makes the implementations of what `async def` handlers ask for, when any of them runs."""
        self._settings = settings
        self._catalog = catalog
        self._ports = ports
        self._process = uuid4()

    async def run(self, names: Iterable[str], stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Run what `names` select until `stop` is set; call `ready` once everything has been assembled."""
        wirings, relays = select(self._catalog, names)
        schemas = {*(wiring.schema for wiring in wirings), *relays}
        if self._settings.rebuilds_itself and "projections" in schemas:
            schemas.add("operations")
        async with open_engine(self._settings, self._catalog, schemas) as engine:
            running = await self._assemble(engine, wirings, relays)
            ready()
            async with collector.kept_out():
                await self._supervise(engine, running, stop)

    async def _assemble(
        self, engine: Engine, wirings: list[Wiring], relays: list[str]
    ) -> dict[str, list[Runs]]:
        topics = await engine.admin.topics(sorted({topic for wiring in wirings for topic in wiring.topics}))
        acts = any(isinstance(wiring, EffectWiring) for wiring in wirings)
        ports = self._ports(self._settings) if acts else {}
        wakeups = Wakeups()
        running: dict[str, list[Runs]] = {}
        models = [wiring for wiring in wirings if isinstance(wiring, ProjectionWiring)]
        if models:
            folding = Models(engine, models, topics, wakeups)
            await folding.look()
            running["projections"] = [folding]
        for wiring in wirings:
            if isinstance(wiring, ProjectionWiring):
                continue
            batcher = await engine.batcher(wiring)
            await register(batcher.database, engine.admin, wiring, batcher.generation, topics)
            parts: list[Runs] = [Consumer(batcher, self._settings.kafka, topics, wakeups)]
            if isinstance(wiring, EffectWiring):
                parts.append(Lanes(wiring, batcher.database, engine.codec, ports, wakeups))
            if isinstance(wiring, SagaWiring):
                parts.append(Deadlines(wiring, batcher, engine.admin, topics, wakeups))
            running.setdefault(wiring.schema, []).extend(parts)
        # Whoever writes an outbox publishes it: nobody in another process need be woken for it.
        written = {wiring.schema for wiring in wirings}
        for schema in relays:
            running.setdefault(schema, []).append(
                Relay(engine.databases[schema], self._settings.kafka, wakeups, standby=schema not in written)
            )
        for schema, parts in running.items():
            parts.append(Housekeeping(engine.databases[schema], self._settings.standby_hours))
        return running

    async def _supervise(self, engine: Engine, running: dict[str, list[Runs]], stop: asyncio.Event) -> None:
        parts = [part for group in running.values() for part in group]
        _watch(parts)
        tasks = [asyncio.create_task(part.run(stop), name=part.name) for part in parts]
        beats = [
            asyncio.create_task(beat(engine.databases[schema], self._process, partial(_shown, group)))
            for schema, group in running.items()
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            # A consumer may end early by itself (a lost position); the others go on until they are told.
            await stop.wait()
        finally:
            stop.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            for beating in beats:
                beating.cancel()
            await asyncio.gather(*beats, return_exceptions=True)
            for schema in running:
                await silence(engine.databases[schema], self._process)


def _shown(parts: list[Runs]) -> list[Shows]:
    """Give everything that shows how it fares: read models come and go with their generations."""
    beside = [it for part in parts if isinstance(part, Models) for it in part.parts]
    return [*parts, *beside]


def _watch(parts: list[Runs]) -> None:
    """End the process when a loop hangs: its partitions and leases are then taken over."""

    def watch() -> None:
        while True:
            time.sleep(5)
            stalled = [
                part.name
                for part in _shown(parts)
                if part.vitals.stopped_because is None and time.time() - part.vitals.turned_at > STALLED_S
            ]
            if stalled:
                log.critical("no turn for too long; ending the process", stalled=stalled, seconds=STALLED_S)
                os._exit(RESTART_CODE)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
