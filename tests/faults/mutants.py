"""Processes without a guard, or with shorter leases: `python -m tests.faults.mutants WHICH NAME...` works for names.

`python -m tests.faults.mutants WHICH rebuild MODEL...` rebuilds, `WHICH replay --to CONSUMER...` replays.

Each patches the engine and then runs the product's own command; the product has no option for any of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any
from uuid import UUID, uuid4

from events import Message
from infra.kafka import connections
from infra.kafka.admin import Topic
from infra.kafka.reader import Reader
from infra.kafka.record import Place, Record
from infra.postgres.database import Connection, Database
from infra.postgres.writes import Writes
from infra.runtime.catalog import Wiring
from infra.runtime.consuming import consumer
from infra.runtime.consuming.batch import Batcher, Counts, Position
from infra.runtime.effects import lanes as effects
from infra.runtime.effects.lanes import Lanes, Leased
from infra.runtime.engine import Engine
from infra.runtime.folding.injection import flattened
from infra.runtime.messages.codec import Incoming, Rejected
from infra.runtime.messages.delivery import Delivery
from infra.runtime.operating import replaying
from infra.runtime.operating.replay_job import Job
from infra.runtime.operating.replay_steps import Step
from infra.runtime.operating.replaying import Fed, Replaying
from tests.dying import DEATHS

DIES_AFTER_S = 2.0


def put(owner: object, **instead: object) -> None:
    """Put something else in the place of what a class or module has."""
    for name, value in instead.items():
        setattr(owner, name, value)


def hurried() -> None:
    """No mutant: leases of a few seconds, so that a test need not wait a minute for a dead process's."""
    put(effects, LEASE_S=5.0, CALL_S=3.0)


def mortal(*names: str) -> None:
    """No mutant: two seconds after each consumer's client has come, a task that it needs dies (of `names`): another one each time."""
    join = Reader._join
    deaths = cycle(DEATHS[name] for name in names or DEATHS)

    async def die(consumer: Any) -> None:
        await asyncio.sleep(DIES_AFTER_S)
        next(deaths)(consumer)

    def joined(self: Reader) -> None:
        join(self)
        # Kept by the client that it kills.
        self._consumer.dying = asyncio.create_task(die(self._consumer))

    put(Reader, _join=joined)


def unaware() -> None:
    """Its clients die of what stops them at once, and nobody looks."""

    def alive(_: object) -> None:
        return

    mortal("fetches")
    put(connections, lost=alive)


def forgetful() -> None:
    """No inbox."""

    async def met(
        _: Batcher, __: Connection | Database, ___: Sequence[Incoming]
    ) -> tuple[dict[str, int], bool]:
        return {}, False

    def mark(_: Batcher, __: Writes, ___: Sequence[Incoming]) -> None:
        return

    put(Batcher, met=met, _mark=mark)


def hasty() -> None:
    """The checkpoint moves before the effects are written, in a transaction of its own."""
    commit = Batcher._commit

    async def ahead(
        self: Batcher,
        positions: dict[Place, Position],
        records: Sequence[Record],
        opened: Sequence[Incoming | Rejected],
        counts: Counts,
    ) -> set[Place]:
        ends = {(record.topic, record.partition): record.offset + 1 for record in records}
        async with self.database.transaction() as tx:
            await self._advance(tx, positions, ends)
        for place, end in ends.items():
            positions[place].next = end
        await asyncio.sleep(0.4)
        return await commit(self, positions, records, opened, counts)

    put(Batcher, _commit=ahead)


def careless() -> None:
    """A started effect is done again without a look, under another key."""
    hurried()
    call = Lanes._call

    async def anew(self: Lanes, signature: Any, effect: Leased) -> object:
        effect.id, ours = uuid4(), effect.id
        try:
            return await call(self, signature, effect)
        finally:
            effect.id = ours

    async def outcome(self: Lanes, effect: Leased) -> list[Message]:
        return list(flattened(await self._call(self._wiring.action, effect)))

    put(Lanes, _call=anew, _outcome=outcome)


def impatient() -> None:
    """Deadlines fire whatever lies unread in the log."""
    from infra.runtime.running.deadlines import Deadlines

    async def consumed(_: Deadlines, __: dict[Place, int]) -> bool:
        return True

    put(Deadlines, _consumed=consumed)


def ahead() -> None:
    """The progress of a replay is saved before its messages are folded: and then comes the kill."""
    fold = Replaying._commit

    async def commit(self: Replaying, job: Job, step: Step[Fed]) -> None:
        if not step.meant:
            await fold(self, job, step)
            return
        async with self._batcher.database.transaction() as tx:
            await job.advance(tx, step.after, job.tally)
        os.kill(os.getpid(), signal.SIGKILL)

    put(Replaying, _commit=commit)


def renewed() -> None:
    """Every run of a replay takes what it reads for new."""

    async def batcher(engine: Engine, wiring: Wiring, _: Topic, *, anew: UUID | None) -> Batcher:
        del anew
        return (await engine.batcher(wiring)).under(Delivery(wiring.name, anew=uuid4()))

    put(replaying, batcher_for=batcher)


def by_lag() -> None:
    """Readers are switched to a generation that is on its way, wherever it is."""
    from infra.runtime.operating import rebuilding, switching
    from infra.runtime.operating.building import Bounded
    from infra.runtime.operating.rebuilding import Rebuild

    run = Bounded.run

    async def slow(self: Bounded, *batch: Any) -> tuple[Counts, set[Place]]:
        # However fast building becomes, it is still on its way when it is switched to.
        await asyncio.sleep(0.5)
        return await run(self, *batch)

    async def drain(*asked: Any) -> Any:
        return asked[-1]

    async def kept(*_: object) -> bool:
        # Workers would bring it to where it must be.
        return False

    put(consumer, MIN_BATCH=50, MAX_BATCH=50)
    put(Bounded, run=slow)
    put(rebuilding, NEAR=10**9, STEADY_S=0.0, drain=drain)
    put(Rebuild, _handed_over=kept)
    put(switching, drain=drain)


def crowding() -> None:
    """Whoever goes back folds beside the workers, in their group, and dies there."""
    from infra.runtime.operating import rolling_back, switching
    from infra.runtime.operating.attendance import Attendance

    switch = switching.switch

    async def nobody(*_: object) -> Attendance:
        return Attendance(0, 0, 0, None)

    async def when_it_has_its_share(*asked: Any) -> None:
        await asyncio.sleep(4)
        await switch(*asked)
        os.kill(os.getpid(), signal.SIGKILL)

    put(rolling_back, attendance=nobody, switch=when_it_has_its_share)


def cut_short() -> None:
    """No mutant: the kill comes when a way back has switched and noted its act, right before the commit."""
    from infra.runtime.operating import rebuild_acts, rolling_back

    async def record(*noted: Any) -> None:
        await rebuild_acts.record(*noted)
        os.kill(os.getpid(), signal.SIGKILL)

    put(rolling_back, record=record)


def apart() -> None:
    """The act of a way back is noted in a transaction of its own, before the switch commits: and then comes the kill."""
    from infra.runtime.operating import rebuild_acts, rolling_back

    async def record(_: Connection, engine: Engine, *noted: Any) -> None:
        async with rebuild_acts.acting(engine) as tx:
            await rebuild_acts.record(tx, engine, *noted)
        os.kill(os.getpid(), signal.SIGKILL)

    put(rolling_back, record=record)


MUTANTS: dict[str, Callable[[], None]] = {
    it.__name__: it
    for it in (
        hurried,
        mortal,
        unaware,
        forgetful,
        hasty,
        careless,
        impatient,
        by_lag,
        crowding,
        cut_short,
        apart,
        ahead,
        renewed,
    )
}


if __name__ == "__main__":
    from infra.cli import main

    MUTANTS[sys.argv[1]]()
    sys.argv[1:] = sys.argv[2:] if sys.argv[2] in {"rebuild", "replay"} else ["work", *sys.argv[2:]]
    sys.exit(main())
