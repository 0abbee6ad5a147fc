"""The way back: the generation that served before a switch serves again, from one commit on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from events.operations import RebuildRolledBack
from infra.errors import Refused
from infra.postgres.database import Connection, Database
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.engine import Engine
from infra.runtime.folding.generations import Generation, generations, of_standing, serving
from infra.runtime.operating import acts
from infra.runtime.operating.attendance import attendance
from infra.runtime.operating.building import folding
from infra.runtime.operating.rebuild_acts import Asker, record
from infra.runtime.operating.switching import AGAIN_S, PASSING, switch

ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Which generation served before, and which serves again."""

    before: int
    generation: int
    fits: bool = True
    """Whether this code can fold what serves again."""
    attended: bool = True
    """Whether a worker folds it."""


async def roll_back(
    engine: Engine, wiring: ProjectionWiring, asker: Asker, stop: asyncio.Event
) -> RolledBack | None:
    """Let the generation serve that did before; `None` when it does already.

    Raises `Refused` when there is none to go back to, somebody builds the next one, no worker would keep it up to date though
    some run, or it cannot be brought to where readers are.
    """
    database = engine.databases["projections"]
    known = await generations(database, wiring)
    active, standby = serving(wiring, known), of_standing(known, "standby")
    if standby is None:
        raise Refused(
            f"{wiring.projection.name} has no earlier generation that is kept: after a switch workers keep one for 24 hours, "
            "or what TRIPLANE_STANDBY_HOURS is where they run"
        )
    if standby.number > active.number:
        return None
    folded = (await attendance(engine, wiring, standby.number)).folding > 0
    others = (await attendance(engine, wiring, active.number)).processes
    if not folded and (others or not standby.fits(wiring)):
        raise Refused(
            f"generation {standby.number} is folded by no worker, so what has come since and what comes would be missing in it: "
            "start workers of the release that built it first (with TRIPLANE_REBUILD=command, so that they build nothing)"
        )

    async def note(tx: Connection, blue: Generation) -> None:
        act = RebuildRolledBack(
            operation_id=acts.new_operation(),
            model=wiring.projection.name,
            before=blue.number,
            generation=standby.number,
            who=asker.who,
            why=asker.why,
            at=datetime.now(UTC),
        )
        await record(tx, engine, act, asker)

    # Beside workers this process would only make their group share its partitions out anew, and what is live wait for that.
    async with contextlib.nullcontext() if folded else _folded_here(engine, wiring, standby):
        left = ATTEMPTS
        while True:
            try:
                blue = await switch(engine, wiring, standby.number, note)
            except PASSING as passing:
                left -= 1
                if (stop.is_set() or not left) and not await _serves(database, wiring, standby.number):
                    raise Refused(f"not rolled back, and nothing was changed: {passing}") from passing
            else:
                return RolledBack(blue.number, standby.number, standby.fits(wiring), folded)
            await asyncio.sleep(AGAIN_S)


async def _serves(database: Database, wiring: ProjectionWiring, number: int) -> bool:
    """Whether a generation serves, though nobody has heard of it."""
    return serving(wiring, await generations(database, wiring)).number == number


@asynccontextmanager
async def _folded_here(engine: Engine, wiring: ProjectionWiring, standby: Generation) -> AsyncGenerator[None]:
    """Fold the generation that stands by as long as the block runs: workers are down."""
    topics = await engine.admin.topics(wiring.topics)
    async with folding(engine, await engine.batcher(wiring, standby.number), topics):
        yield
