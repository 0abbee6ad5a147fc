"""The server publishes what it has taken in: to wake another process for it would take longer than to do it."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import uuid4

import structlog

from infra.http.services import Services
from infra.runtime.publishing.relay import Relay
from infra.runtime.running.heartbeats import beat, silence

log = structlog.get_logger(__name__)

PAUSE_S: Final = 5.0


async def relaying(services: Services, stop: asyncio.Event) -> None:
    """Publish the intake's outbox until `stop` is set; workers stand by for what a server leaves that has died."""
    process = uuid4()
    relay = Relay(services.intake, services.settings.kafka, services.wakeups)
    while not stop.is_set():
        try:
            async with asyncio.TaskGroup() as group:
                beating = group.create_task(beat(services.intake, process, lambda: [relay]))
                await relay.run(stop)
                beating.cancel()
        except Exception as wrong:  # noqa: BLE001 - a server starts before its schema is there, and takes in regardless
            log.warning("relay begins anew", relay=relay.name, error=repr(wrong))
            await asyncio.sleep(PAUSE_S)
    await silence(services.intake, process)
