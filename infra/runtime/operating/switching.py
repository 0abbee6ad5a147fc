"""The switch: readers see another generation from one commit on, which has read at least as far as the one before.

The serving generation is held at a batch edge, the other one drains up to there within half a second; else nothing is changed.
So what a reader has seen stays seen, and every token and place of the one is good for the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from infra.errors import TriplaneError
from infra.kafka.record import Place
from infra.postgres.database import TRANSIENT, Connection, Database
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.engine import Engine
from infra.runtime.folding.generations import Generation, generations, locked, of_standing, serving, stand
from infra.runtime.folding.tables import drop, show, show_again
from infra.runtime.operating.rebuild_acts import acting, half_built

LOCK_TIMEOUT: Final = "500ms"
DRAIN_S: Final = 0.4
"""With the wait for a lock less than a second: so long what is live may stand still."""
LOOK_S: Final = 0.02
AGAIN_S: Final = 0.5
Positions = dict[Place, int]
"""The next offset of every partition."""


class NotYet(TriplaneError):
    """What was waited for did not come in time; nothing was changed, and it may be tried again."""


PASSING: tuple[type[BaseException], ...] = (NotYet, *TRANSIENT)


async def positions(database: Database, wiring: ProjectionWiring, generation: int) -> Positions:
    """Say how far a generation has read."""
    rows = await database.fetch(
        "SELECT topic, partition, next_offset FROM checkpoints WHERE consumer = $1 AND generation = $2",
        wiring.name,
        generation,
    )
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


@asynccontextmanager
async def held(
    begun: AbstractAsyncContextManager[Connection], wiring: ProjectionWiring, generation: int
) -> AsyncGenerator[tuple[Connection, Positions]]:
    """Hold a generation at the edge of a batch as long as the block runs, in the transaction that is `begun`; give where it stands."""
    async with begun as tx:
        await tx.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        rows = await tx.fetch(
            """SELECT topic, partition, next_offset FROM checkpoints WHERE consumer = $1 AND generation = $2
               ORDER BY topic COLLATE "C", partition FOR UPDATE""",
            wiring.name,
            generation,
        )
        yield tx, {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


async def drain(
    database: Database, wiring: ProjectionWiring, generation: int, to: Mapping[Place, int]
) -> Positions:
    """Wait until a generation has read up to `to`, and give where it stands then; raise `NotYet` when it takes too long."""
    give_up = time.monotonic() + DRAIN_S
    while True:
        at = await positions(database, wiring, generation)
        behind = sum(max(0, end - at.get(place, 0)) for place, end in to.items())
        if not behind:
            return at
        if time.monotonic() > give_up:
            raise NotYet(f"generation {generation} is {behind} events behind, and does not catch up")
        await asyncio.sleep(LOOK_S)


async def switch(
    engine: Engine,
    wiring: ProjectionWiring,
    target: int,
    note: Callable[[Connection, Generation], Awaitable[None]],
) -> Generation:
    """Let `target` serve from one commit on, and what has served stand by; give that. Raises `NotYet` and what passes.

    Raises `Refused` when it would be a way back that somebody who is rebuilding undoes. `note` records the act in the very
    transaction, given the generation that has served: neither is without the other. Done again, as whoever never heard of the
    commit does, it changes nothing.
    """
    database = engine.databases[wiring.schema]
    known = await generations(database, wiring)
    blue = serving(wiring, known)
    if blue.number == target:
        return of_standing(known, "standby") or blue
    async with held(acting(engine), wiring, blue.number) as (tx, ends):
        known = await locked(tx, wiring)
        green = next((it for it in known if it.number == target), None)
        if serving(wiring, known).number != blue.number or green is None:
            raise NotYet("somebody else has switched in the meantime")
        await drain(database, wiring, target, ends)
        if green.standing == "building":
            earlier = of_standing(known, "standby")
            if earlier is not None:
                await stand(tx, wiring, earlier.number, "retired")
            views = await show(tx, wiring, target, blue.shown)
        elif green.standing == "standby":
            # Whoever builds the next one would undo it.
            half_built(wiring, known)
            # Two cannot stand by at once, not even for a moment.
            await stand(tx, wiring, target, "retired")
            views = green.shown
            await show_again(tx, target, views)
        else:
            raise NotYet(f"generation {target} is {green.standing}")
        await stand(tx, wiring, blue.number, "standby")
        await stand(tx, wiring, target, "active", views)
        await note(tx, blue)
    return blue


async def retire(database: Database, hours: float) -> list[str]:
    """End the time of generations that stand by for longer than `hours`, and take the tables of retired ones away.

    A table that the view of an earlier version shows stays for as long, whatever has been built since. Gives what was taken
    away. Workers stop folding a retired generation within a second or so; its tables go a round later.
    """
    gone: list[str] = []
    rows = await database.fetch(
        """SELECT projection, generation, ARRAY(SELECT jsonb_object_keys(views)) AS bases FROM generations g
           WHERE standing = 'retired' AND views IS NOT NULL AND switched_at < now() - CASE WHEN EXISTS (
             SELECT FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class t ON t.oid = d.refobjid
             WHERE d.classid = 'pg_rewrite'::regclass AND t.relnamespace = 'projections'::regnamespace
               AND t.relname IN (SELECT jsonb_object_keys(g.views) || '_g' || g.generation))
             THEN make_interval(secs => $1) ELSE interval '10 seconds' END""",
        hours * 3600,
    )
    for row in rows:
        async with database.transaction() as tx:
            await tx.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            await drop(tx, f"projections.{row['projection']}", row["generation"], row["bases"])
            await tx.execute(
                "UPDATE generations SET views = NULL WHERE projection = $1 AND generation = $2",
                row["projection"],
                row["generation"],
            )
        gone.append(f"{row['projection']} generation {row['generation']}")
    await database.execute(
        """UPDATE generations SET standing = 'retired'
           WHERE standing = 'standby' AND switched_at < now() - make_interval(secs => $1)""",
        hours * 3600,
    )
    return gone
