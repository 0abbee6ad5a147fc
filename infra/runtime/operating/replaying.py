"""Gives one consumer what it never applied: the original records of a bounded range, read beside everybody.

Fold, inbox marks and progress commit together, while the consumer's own batches of the same partitions are kept out. A
rehearsal does the same and rolls back, so its counts are the run's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID

from infra.kafka.admin import Topic
from infra.kafka.record import Place
from infra.postgres.database import Connection, Database
from infra.runtime.catalog import EffectWiring, ProjectionWiring, Wiring
from infra.runtime.consuming import parking
from infra.runtime.consuming.batch import CAUSED, Batcher, Counts, Outrun
from infra.runtime.consuming.overlays import discarded
from infra.runtime.consuming.parking import Parked
from infra.runtime.engine import Engine
from infra.runtime.messages.codec import Incoming, Rejected
from infra.runtime.messages.delivery import Delivery
from infra.runtime.messages.ids import inbox_key
from infra.runtime.operating import replay_acts
from infra.runtime.operating.replay_job import Job, Order, Tally, Told
from infra.runtime.operating.replay_range import ReplayRefused, WrongCall, kept_since
from infra.runtime.operating.replay_steps import Step, Steps

WINDOW_S: Final = 2.0
"""How long a rehearsal may keep the consumer's own batches out at a time."""

Fed = Incoming | Rejected


class Replaying:
    """Folds the steps of one replay."""

    def __init__(self, batcher: Batcher, steps: Steps[Fed]) -> None:
        """Fold as the consumer of `batcher` does."""
        self._batcher = batcher
        self._steps = steps

    # -- run --------------------------------------------------------------------------------------------------------

    async def run(self, job: Job, stop: asyncio.Event, told: Told) -> None:
        """Go on with `job` until its end, or until `stop` is set; each step is committed with its progress."""
        async with aclosing(self._steps.walk(job.next, job.left)) as steps:
            async for step in steps:
                self._check_kept(job, step)
                await job.patiently(step.after, partial(self._commit, job, step))
                told(job.tally, job.order.gone_through(job.next))
                if stop.is_set():
                    return

    def _check_kept(self, job: Job, step: Step[Fed]) -> None:
        """A replay may take days, and what the inbox knows gets less every day."""
        if step.records and not job.order.again and step.records[0].at < kept_since():
            raise ReplayRefused(
                f"{step.records[0].at.isoformat()}: the inbox does not reach back so far any more"
            )

    async def _commit(self, job: Job, step: Step[Fed]) -> None:
        """Fold a step and move on, in one transaction."""
        tally = Tally(skipped=step.skipped)
        fresh = await self._fresh(step.meant, tally)
        async with self._batcher.database.transaction() as tx:
            if fresh:
                await self._batcher.hold(tx, _places(fresh))
                await self._fold(tx, fresh, tally)
            tally.add(job.tally)
            await job.advance(tx, step.after, tally)
        job.next, job.tally = dict(step.after), tally

    # -- rehearse ---------------------------------------------------------------------------------------------------

    async def rehearse(self, order: Order, told: Told) -> Tally:
        """Do everything and roll back; give what would come of the range.

        As long as there is time, everything is one transaction. As this keeps the consumer's own batches out, it is rolled
        back after `WINDOW_S`, and what was applied and parked until then is remembered.
        """
        start = {number: first for number, (first, _) in order.range.offsets.items()}
        tally = Tally()
        applied: dict[str, int] = {}
        aside: list[Parked] = []
        async with aclosing(self._steps.walk(start, order.limit)) as steps:
            step = await anext(steps, None)
            while step is not None:
                fresh = await self._rehearsable(step, applied, tally)
                if not fresh:
                    told(tally, order.gone_through(step.after))
                    step = await anext(steps, None)
                    continue
                async with _rolled_back(self._batcher.database) as tx:
                    ends = time.monotonic() + WINDOW_S
                    await self._batcher.hold(tx, order.range.places)
                    await parking.park(tx, self._batcher.scope, self._batcher.codec.vault, aside)
                    while step is not None:
                        for counts in await self._fold(tx, fresh, tally):
                            applied |= {it.inbox: it.hash for it in counts.folded}
                            aside += counts.put_aside
                        told(tally, order.gone_through(step.after))
                        step = await anext(steps, None)
                        if time.monotonic() > ends:
                            break
                        fresh = [] if step is None else await self._rehearsable(step, applied, tally)
        return tally

    async def _rehearsable(self, step: Step[Fed], applied: Mapping[str, int], tally: Tally) -> list[Fed]:
        tally.skipped += step.skipped
        return _without(applied, await self._fresh(step.meant, tally), tally)

    # -- both -------------------------------------------------------------------------------------------------------

    async def _fresh(self, meant: Sequence[Fed], tally: Tally) -> list[Fed]:
        """Leave out what the inbox knows, and what is parked, before anybody is kept out for it."""
        batcher = self._batcher
        marks, _ = await batcher.met(batcher.database, [it for it in meant if isinstance(it, Incoming)])
        rest = _without(marks, meant, tally)
        parked = await parking.parked_of(batcher.database, batcher.scope, [it.record for it in rest])
        tally.parked_before([it for it in rest if it.record.spot in parked])
        return [it for it in rest if it.record.spot not in parked]

    async def _fold(self, tx: Connection, opened: Sequence[Fed], tally: Tally) -> list[Counts]:
        """Fold messages in order; one that the database refuses is found by halving, and parked."""
        if not opened:
            return []
        try:
            async with tx.transaction():
                counts = await self._batcher.apply(tx, opened)
        except Outrun:
            raise
        except CAUSED as refused:
            if len(opened) > 1:
                middle = len(opened) // 2
                first = await self._fold(tx, opened[:middle], tally)
                return first + await self._fold(tx, opened[middle:], tally)
            opened = [self._batcher.unwritable(opened[0], refused)]
            counts = await self._batcher.apply(tx, opened)
        tally.folded(opened, counts)
        if self._batcher.delivery.anew is not None:
            tally.anew(await self._applied_before(tx, counts.folded))
        return [counts]

    async def _applied_before(self, tx: Connection, folded: Sequence[Incoming]) -> list[Incoming]:
        """Give those that the consumer had applied in whatever way, before they came anew."""
        name, generation = self._batcher.scope
        usual = [
            replace(
                it,
                inbox=inbox_key(name, generation, it.envelope.tenant, it.envelope.source, it.envelope.id),
            )
            for it in folded
        ]
        marks, _ = await self._batcher.met(tx, usual)
        return [it for it in usual if marks.get(it.inbox) == it.hash]


async def batcher_for(engine: Engine, wiring: Wiring, topic: Topic, *, anew: UUID | None) -> Batcher:
    """Give the batcher by which a replay folds: what operators have discarded is passed over.

    With `anew`, the replay's id, messages count as new ones whatever has come of them before.
    """
    delivery = Delivery(wiring.name, repeated=anew is None, anew=anew)
    overlaid = await discarded(engine.databases["operations"], wiring.name, [topic])
    return (await engine.batcher(wiring)).under(delivery, overlaid)


def check_allowed(wiring: Wiring, *, again: bool, effects: bool, reason: str) -> None:
    """Refuse what would change the past of a read model, or act outside without a word for it.

    Raises `ReplayRefused`, or `WrongCall` where only the reason is missing.
    """
    if again and isinstance(wiring, ProjectionWiring):
        raise ReplayRefused(
            f"{wiring.name} is a read model: applied twice, an event would count twice; run: triplane rebuild "
            f"{wiring.projection.name}"
        )
    if isinstance(wiring, EffectWiring) and not effects:
        raise ReplayRefused(
            f"{wiring.name} acts outside: what it has not done would be done now; say --with-effects and --reason"
        )
    if (again or effects) and not reason:
        raise WrongCall("--reason is needed for --again and --with-effects: it is kept with who did it")


def steps_for(batcher: Batcher, order: Order, bootstrap: str) -> Steps[Incoming | Rejected]:
    """Give the way through what was ordered, as the consumer of `batcher` reads it."""
    return Steps(bootstrap, order.range, order.only, batcher.open, order.rate)


async def replay(engine: Engine, job: Job, *, who: str, stop: asyncio.Event, told: Told) -> None:
    """Go on with a replay that this process holds; its start and its end are kept and published."""
    order = job.order
    wiring = engine.catalog.consumers[order.scope[0]]
    batcher = await batcher_for(engine, wiring, order.range.topic, anew=job.id if order.again else None)
    async with replay_acts.recorded(engine, job, who):
        await Replaying(batcher, steps_for(batcher, order, engine.settings.kafka)).run(job, stop, told)


@asynccontextmanager
async def _rolled_back(database: Database) -> AsyncGenerator[Connection]:
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection
        finally:
            await transaction.rollback()


def _without(marks: Mapping[str, int], opened: Sequence[Fed], tally: Tally) -> list[Fed]:
    """Leave out, and count, what is marked as applied."""
    known = [it for it in opened if isinstance(it, Incoming) and marks.get(it.inbox) == it.hash]
    tally.duplicates(known)
    gone = {id(it) for it in known}
    return [it for it in opened if id(it) not in gone]


def _places(opened: Sequence[Fed]) -> set[Place]:
    return {it.record.place for it in opened}
