"""A further process of a rebuild: `python -m infra.runtime.operating.helping MODEL GENERATION` folds beside the one that leads.

It ends when it is told to, and by itself when the one that leads is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
import uvloop

from infra.logs import logged_to
from infra.runtime import collector
from infra.runtime.catalog import discover
from infra.runtime.engine import open_engine
from infra.runtime.folding.generations import generations, serving
from infra.runtime.operating.building import bounded, folding, topics_of
from infra.runtime.operating.rebuild_acts import WRONG
from infra.runtime.operating.switching import positions
from infra.settings import Settings

log = structlog.get_logger(__name__)
LOOK_S = 0.25


async def _help(settings: Settings, model: str, number: int) -> None:
    catalog = discover()
    wiring = catalog.projections[f"projections.{model}"]
    stop, leader = asyncio.Event(), os.getppid()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with open_engine(settings, catalog, ["projections", "operations"], size=3) as engine:
        database = engine.databases["projections"]
        blue = serving(wiring, await generations(database, wiring))
        topics = await topics_of(engine, wiring)
        batcher = await bounded(engine, wiring, number, topics)
        batcher.limits = await positions(database, wiring, blue.number)
        async with folding(engine, batcher, topics), collector.kept_out():
            while not stop.is_set() and os.getppid() == leader:
                batcher.limits = await positions(database, wiring, blue.number)
                await asyncio.sleep(LOOK_S)
            batcher.ending = True


if __name__ == "__main__":
    home = Settings.load()
    with logged_to(home.home / "logs" / "rebuild.log"):
        try:
            uvloop.run(_help(home, sys.argv[1], int(sys.argv[2])))
        except WRONG as away:
            # The process that it helps goes on without it, or says what is wrong.
            log.warning("helps no more", error=repr(away))
            sys.exit(1)
