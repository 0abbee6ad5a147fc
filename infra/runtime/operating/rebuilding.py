"""A read model is built anew beside the one that serves, compared with it, and switched to; or given up, or gone back from.

The new generation does not read past the serving generation until both are compared, so that they are compared at the very same place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from events.operations import RebuildCancelled, RebuildStarted, RebuildSwitched
from infra.embedded.process import python, surroundings
from infra.errors import Refused, TriplaneError
from infra.kafka.admin import Topic
from infra.postgres.database import TRANSIENT, Connection
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.consuming.consumer import Consumer
from infra.runtime.engine import Engine
from infra.runtime.folding.generations import (
    Generation,
    generations,
    locked,
    make,
    of_standing,
    serving,
    stand,
)
from infra.runtime.folding.tables import drop, ensure_indexes
from infra.runtime.operating import acts
from infra.runtime.operating.attendance import attendance
from infra.runtime.operating.building import Bounded, bounded, folding, topics_of
from infra.runtime.operating.diffing import compare
from infra.runtime.operating.rebuild_acts import Asker, Compared, Progress, acting, half_built, record
from infra.runtime.operating.switching import (
    AGAIN_S,
    PASSING,
    NotYet,
    Positions,
    drain,
    held,
    positions,
    switch,
)

LEASE_S: Final = 10.0
RENEW_S: Final = 2.0
NEAR: Final = 500
"""Events: with fewer to go, one batch brings the end."""
WORTH_HELP: Final = 20_000
"""Events: with fewer to go, one process is done before another has started."""
STEADY_S: Final = 1.0
"""It must have been near the end for so long before it is switched to."""
LOOK_S: Final = 0.25
TAKEN_OVER_S: Final = 8.0
"""So long workers may take to begin with a generation."""
LEFT_S: Final = 30.0
"""So long those that have begun may be away before it is given up: the time of a restart and more."""
RESTS_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How a rebuild ended: `switched` or not (it goes on where it stands, another time), and who folds it from now on."""

    generation: int
    switched: bool = False
    taken_over: bool = False
    """Whether a worker has gone on with it."""
    before: int = 0
    """How many events an earlier run had folded, which this one went on from."""
    events: int = 0
    seconds: float = 0.0
    compared: Compared | None = None
    """What the switch has changed, or would have."""
    returns: bool = True
    """Whether this code can fold what has served before, and so go back to it."""


class Rebuild:
    """One rebuild of one read model, by this process."""

    def __init__(self, engine: Engine, wiring: ProjectionWiring, asker: Asker, *, processes: int = 1) -> None:
        """Rebuild `wiring`'s model in so many processes; the engine has the schemas `projections` and `operations` open."""
        self._engine = engine
        self._wiring = wiring
        self._asker = asker
        self._processes = processes
        self._database = engine.databases["projections"]
        self._me = uuid4()
        self._began = time.monotonic()
        self._from = 0
        self._ends: tuple[float, Positions] = (0.0, {})

    async def run(self, stop: asyncio.Event) -> Rebuilt:
        """Build, compare, ask and switch; when `stop` is set first, end at the edge of a batch.

        Workers fold it before it is switched to, where they can: the switch changes nothing for them, so what is live never
        waits for a group to share its partitions out. Raises `Refused` when somebody else is at it, or the log does not
        begin at its beginning.
        """
        topics = await topics_of(self._engine, self._wiring)
        await self._check_beginning(topics)
        number = await self._take()
        try:
            batcher = await bounded(self._engine, self._wiring, number, topics)
            async with self._leased(number) as lost:
                either = _Either(stop, lost)
                async with folding(self._engine, batcher, topics) as consumer:
                    built = await self._build(number, batcher, consumer, either)
                    if built.compared is None or not await self._asker.agree(built.compared):
                        return built
                    if not await self._handed_over(number, either):
                        return await self._switch(built, either, consumer)
                return await self._switch(built, either)
        finally:
            await self._let_go(number)

    async def _check_beginning(self, topics: dict[str, Topic]) -> None:
        first = await self._engine.admin.offsets(list(topics.values()), end=False)
        cut = sorted(place for place, offset in first.items() if offset > 0)
        if cut:
            raise Refused(
                f"{cut[0][0]}/{cut[0][1]} begins at offset {first[cut[0]]}, not at 0: what came before is not in the log, "
                "and a rebuild would lose it"
            )

    # -- the lease --------------------------------------------------------------------------------------------------

    async def _take(self) -> int:
        """Begin a generation, or go on with the one that somebody has left; raise `Refused` while they are at it."""
        async with acting(self._engine) as tx:
            known = await locked(tx, self._wiring)
            building = half_built(self._wiring, known)
            if building is not None and not building.current(self._wiring):
                # The code has changed since it was begun: what it has would be of two kinds.
                await _throw_away(
                    tx,
                    self._engine,
                    self._wiring,
                    building,
                    self._asker,
                    "built by other code than now asked for",
                )
                building = None
            if building is None:
                number = await make(tx, self._wiring, known, "building")
                await self._note_start(tx, serving(self._wiring, known).number, number)
            else:
                number = building.number
            await tx.execute(
                """UPDATE generations SET builder = $3, operator = $4, host = $5, pid = $6, building_since = now(), candidate = false,
                     expires_at = now() + make_interval(secs => $7) WHERE projection = $1 AND generation = $2""",
                self._wiring.projection.name,
                number,
                self._me,
                self._asker.who,
                socket.gethostname(),
                os.getpid(),
                LEASE_S,
            )
        return number

    @asynccontextmanager
    async def _leased(self, number: int) -> AsyncGenerator[asyncio.Event]:
        """Renew the lease as long as the block runs; the event is set when somebody else has it."""
        lost = asyncio.Event()

        async def renew() -> None:
            while not lost.is_set():
                await asyncio.sleep(RENEW_S)
                with contextlib.suppress(*TRANSIENT):
                    status = await self._database.execute(
                        """UPDATE generations SET expires_at = now() + make_interval(secs => $4)
                           WHERE projection = $1 AND generation = $2 AND (builder = $3 OR standing <> 'building')""",
                        self._wiring.projection.name,
                        number,
                        self._me,
                        LEASE_S,
                    )
                    if status == "UPDATE 0":
                        lost.set()

        task = asyncio.create_task(renew())
        try:
            yield lost
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _let_go(self, number: int) -> None:
        with contextlib.suppress(*TRANSIENT):
            await self._database.execute(
                """UPDATE generations SET expires_at = now(), candidate = false
                   WHERE projection = $1 AND generation = $2 AND builder = $3""",
                self._wiring.projection.name,
                number,
                self._me,
            )

    # -- the build --------------------------------------------------------------------------------------------------

    async def _build(self, number: int, batcher: Bounded, consumer: Consumer, stop: _Either) -> Rebuilt:
        """Build and compare; when it is stopped before, nothing was compared."""
        blue = await self._serving()
        self._from = sum((await positions(self._database, self._wiring, number)).values())
        far = await self._behind_blue(number, blue.number, batcher, consumer)
        async with self._helped(number, self._processes - 1 if far > WORTH_HELP else 0):
            while await self._behind_blue(number, blue.number, batcher, consumer) > NEAR:
                if await stop.within(LOOK_S):
                    return await self._ended(number, stop)
        async with self._database.transaction() as tx:
            await ensure_indexes(tx, self._wiring, number)
        for base in self._wiring.rows.values():
            await self._database.execute(f'ANALYZE "{base}_g{number}"')
        compared: Compared | None = None
        while compared is None:
            await self._behind_blue(number, blue.number, batcher, consumer)
            if consumer.vitals.partitions:
                with contextlib.suppress(*PASSING):
                    compared = await self._compare(blue, batcher)
            if await stop.within(0 if compared else LOOK_S):
                return await self._ended(number, stop)
        batcher.limits = None
        return replace(await self._ended(number, stop), compared=compared)

    async def _serving(self) -> Generation:
        return serving(self._wiring, await generations(self._database, self._wiring))

    @asynccontextmanager
    async def _helped(self, number: int, further: int) -> AsyncGenerator[None]:
        """Share the partitions out with further processes as long as the block runs."""
        command = python("infra.runtime.operating.helping", self._wiring.projection.name, str(number))
        helpers = [
            await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, env=surroundings())
            for _ in range(further)
        ]
        try:
            yield
        finally:
            for helper in helpers:
                with contextlib.suppress(ProcessLookupError):
                    helper.terminate()
            for helper in helpers:
                await helper.wait()

    async def _ended(self, number: int, stop: _Either) -> Rebuilt:
        if stop.lost.is_set():
            raise TriplaneError(
                f"another process has taken the rebuild of {self._wiring.projection.name} over; it goes on there"
            )
        done = sum((await positions(self._database, self._wiring, number)).values())
        return Rebuilt(
            number, before=self._from, events=done - self._from, seconds=time.monotonic() - self._began
        )

    async def _behind_blue(self, number: int, blue: int, batcher: Bounded, consumer: Consumer) -> int:
        """Move the limits to where the serving generation stands by now; say how many events that is away."""
        limits = await positions(self._database, self._wiring, blue)
        batcher.limits = limits
        at = await positions(self._database, self._wiring, number)
        # After a kill its group waits for some seconds for the process that is gone.
        await self._tell("building" if consumer.vitals.partitions else "joining", at, consumer)
        return sum(max(0, end - at.get(place, 0)) for place, end in limits.items())

    async def _tell(self, step: str, at: Positions, consumer: Consumer | None) -> int:
        """Say how far it is; give the events that are left. Raises what has stopped this process's consumer, if it has one."""
        if consumer is not None and consumer.vitals.stopped_because is not None:
            raise TriplaneError(consumer.vitals.stopped_because)
        if time.monotonic() - self._ends[0] > 1:
            topics = await self._engine.admin.topics(self._wiring.topics)
            self._ends = (
                time.monotonic(),
                await self._engine.admin.offsets(list(topics.values()), end=True),
            )
        done = sum(at.values())
        # The end is looked at once a second, and left behind meanwhile.
        rate = (done - self._from) / max(0.001, time.monotonic() - self._began)
        total = max(done, sum(self._ends[1].values()))
        self._asker.tell(Progress(step, done, total, rate))
        return max(0, total - done)

    async def _compare(self, blue: Generation, batcher: Bounded) -> Compared:
        """Compare both generations at the same place: the serving one waits there for the moment of a snapshot only."""
        async with self._database.connection() as other:
            snapshot = other.transaction(isolation="repeatable_read", readonly=True)
            async with held(self._database.transaction(), self._wiring, blue.number) as (_, ends):
                batcher.limits = ends
                if await drain(self._database, self._wiring, batcher.generation, ends) != ends:
                    raise NotYet(f"generation {batcher.generation} has read on, and waits for the other")
                await snapshot.start()
                await other.execute("SELECT FROM generations LIMIT 1")
            try:
                tables = await compare(other, self._wiring, blue, batcher.generation)
                known = await generations(self._database, self._wiring)
            finally:
                await snapshot.rollback()
        earlier = of_standing(known, "standby")
        gives_up = None if earlier is None else earlier.number
        return Compared(blue.number, blue.current(self._wiring), gives_up, tables)

    # -- the switch -------------------------------------------------------------------------------------------------

    async def _handed_over(self, number: int, stop: _Either) -> bool:
        """Let workers fold it, too; give whether any does by now, so that this process may leave."""
        await self._database.execute(
            "UPDATE generations SET candidate = true WHERE projection = $1 AND generation = $2 AND builder = $3",
            self._wiring.projection.name,
            number,
            self._me,
        )
        return await self._begun_by_workers(await self._serving(), number, stop)

    async def _begun_by_workers(self, other: Generation, number: int, stop: _Either) -> bool:
        """Wait until a worker folds it, if any is there to: one that folds, or has folded, the `other` generation."""
        give_up = time.monotonic() + TAKEN_OVER_S
        there = await attendance(self._engine, self._wiring, other.number)
        while there.processes and time.monotonic() < give_up:
            mine = await attendance(self._engine, self._wiring, number)
            if mine.folding or mine.processes >= there.processes:
                return mine.folding > 0
            if await stop.within(LOOK_S):
                break
        return False

    async def _switch(self, built: Rebuilt, stop: _Either, consumer: Consumer | None = None) -> Rebuilt:
        """Switch when it has kept up for a while: folded by this process's consumer, or else by workers."""
        blue = await self._serving()
        while not await self._switched(built, stop, consumer):
            if await stop.within(AGAIN_S):
                return replace(await self._ended(built.generation, stop), compared=built.compared)
        taken_over = consumer is None or await self._begun_by_workers(blue, built.generation, stop)
        return replace(built, switched=True, taken_over=taken_over, returns=blue.fits(self._wiring))

    async def _switched(self, built: Rebuilt, stop: _Either, consumer: Consumer | None) -> bool:
        number = built.generation
        steady_since: float | None = None
        away_since = time.monotonic()
        while steady_since is None or time.monotonic() - steady_since < STEADY_S:
            at = await positions(self._database, self._wiring, number)
            left = await self._tell("catching up", at, consumer)
            whole = consumer is not None or (
                (await attendance(self._engine, self._wiring, number)).partitions >= len(at)
            )
            if whole:
                away_since = time.monotonic()
            elif time.monotonic() - away_since > LEFT_S:
                raise TriplaneError(
                    f"the workers that folded generation {number} are gone; start them and go on"
                )
            steady_since = (steady_since or time.monotonic()) if whole and left <= NEAR else None
            if await stop.within(LOOK_S):
                return False

        async def note(tx: Connection, blue: Generation) -> None:
            tables = () if built.compared is None else built.compared.tables
            incomparable = any(not it.comparable for it in tables)
            act = RebuildSwitched(
                operation_id=acts.new_operation(),
                model=self._wiring.projection.name,
                before=blue.number,
                generation=number,
                rows_before=sum(it.rows_before for it in tables),
                rows=sum(it.rows for it in tables),
                rows_changed=-1 if incomparable else sum(it.gone + it.new + it.changed for it in tables),
                who=self._asker.who,
                why=self._asker.why,
                at=datetime.now(UTC),
            )
            await record(tx, self._engine, act, self._asker)

        try:
            await switch(self._engine, self._wiring, number, note)
        except PASSING:
            return False
        return True

    async def _note_start(self, tx: Connection, blue: int, number: int) -> None:
        act = RebuildStarted(
            operation_id=acts.new_operation(),
            model=self._wiring.projection.name,
            serving=blue,
            generation=number,
            who=self._asker.who,
            why=self._asker.why,
            at=datetime.now(UTC),
        )
        await record(tx, self._engine, act, self._asker)


class _Either:
    """Ends a wait when the operator stops, or the lease is lost."""

    def __init__(self, stop: asyncio.Event, lost: asyncio.Event) -> None:
        self.stop = stop
        self.lost = lost

    async def within(self, seconds: float) -> bool:
        """Whether it is time to end, looked for as long as `seconds`."""
        give_up = time.monotonic() + seconds
        while not (self.stop.is_set() or self.lost.is_set()):
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, RESTS_S))
        return True


async def _throw_away(
    tx: Connection, engine: Engine, wiring: ProjectionWiring, building: Generation, asker: Asker, why: str
) -> None:
    """Take a half-built generation away, in a transaction of `acting`."""
    await drop(tx, wiring.name, building.number, building.views)
    await stand(tx, wiring, building.number, "retired")
    await tx.execute(
        "UPDATE generations SET views = NULL WHERE projection = $1 AND generation = $2",
        wiring.projection.name,
        building.number,
    )
    act = RebuildCancelled(
        operation_id=acts.new_operation(),
        model=wiring.projection.name,
        generation=building.number,
        who=asker.who,
        why=why,
        at=datetime.now(UTC),
    )
    await record(tx, engine, act, asker)


async def cancel(engine: Engine, wiring: ProjectionWiring, asker: Asker) -> int | None:
    """Throw away what is being built; give its number, `None` when nothing is. Raises `Refused` while somebody is at it."""
    database = engine.databases["projections"]
    async with database.transaction() as tx:
        building = half_built(wiring, await locked(tx, wiring))
        if building is None:
            return None
        await tx.execute(
            "UPDATE generations SET candidate = false WHERE projection = $1 AND generation = $2",
            wiring.projection.name,
            building.number,
        )
    while building.candidate and (await attendance(engine, wiring, building.number)).processes:  # noqa: ASYNC110 - a probe
        # Its tables go when workers have left them.
        await asyncio.sleep(LOOK_S)
    async with acting(engine) as tx:
        building = half_built(wiring, await locked(tx, wiring))
        if building is None:
            return None
        await _throw_away(tx, engine, wiring, building, asker, asker.why)
    return building.number
