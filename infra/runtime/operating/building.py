"""How a generation is built: by the consumer that live events have, no further than it is allowed to read.

Its positions, inbox and parking are its own. A projection can do nothing else than write its rows: it has no outbox, no
effects and no port, and its role no right in any other schema.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from infra.kafka.admin import Topic
from infra.kafka.record import Place, Record
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.consuming.batch import Batcher, Counts, Position
from infra.runtime.consuming.consumer import Consumer
from infra.runtime.consuming.first_start import register
from infra.runtime.consuming.overlays import discarded
from infra.runtime.engine import Engine
from infra.runtime.messages.codec import Incoming, Rejected
from infra.runtime.operating.switching import Positions
from infra.runtime.publishing.wakeup import Wakeups

RESTS_S: Final = 0.02
WAITS_S: Final = 0.9


class Bounded(Batcher):
    """Folds no further than to a limit in each partition, and waits there for the limit to move."""

    patient = False
    limits: Positions | None = None
    ending: bool = False
    """Set when nothing more is waited for."""
    _moving: bool = True
    """Whether the last batch had something within the limits."""

    async def run(
        self,
        positions: dict[Place, Position],
        records: Sequence[Record],
        opened: Sequence[Incoming | Rejected],
    ) -> tuple[Counts, set[Place]]:
        """Run what is within the limits and leave the rest, which is read again."""
        within = [it for it in records if self._allows(it)]
        # Where the last batch went on, other partitions may still have what is within theirs.
        give_up = time.monotonic() + (0 if self._moving else WAITS_S)
        while not within and not self.ending and time.monotonic() < give_up:
            await asyncio.sleep(RESTS_S)
            within = [it for it in records if self._allows(it)]
        self._moving = bool(within)
        if len(within) == len(records):
            return await super().run(positions, records, opened)
        taken = {id(it) for it in within}
        return await super().run(positions, within, [it for it in opened if id(it.record) in taken])

    def _allows(self, record: Record) -> bool:
        limits = self.limits
        return limits is None or record.offset < limits.get(record.place, 0)


async def topics_of(engine: Engine, wiring: ProjectionWiring) -> dict[str, Topic]:
    """Describe the topics that a read model is folded from."""
    return await engine.admin.topics(wiring.topics)


async def bounded(engine: Engine, wiring: ProjectionWiring, number: int, topics: dict[str, Topic]) -> Bounded:
    """Give the batcher of a generation that is being built: what operators have discarded stays out."""
    database = engine.databases[wiring.schema]
    overlaid = await discarded(engine.databases["operations"], wiring.name, topics.values())
    await register(database, engine.admin, wiring, number, topics)
    return Bounded(
        wiring, number, database, engine.codec, engine.tenancy, engine.folding(wiring, number), overlaid
    )


@asynccontextmanager
async def folding(engine: Engine, batcher: Batcher, topics: dict[str, Topic]) -> AsyncGenerator[Consumer]:
    """Fold as long as the block runs, and to the edge of a batch."""
    consumer = Consumer(batcher, engine.settings.kafka, topics, Wakeups())
    stop = asyncio.Event()
    task = asyncio.create_task(consumer.run(stop))
    try:
        yield consumer
    finally:
        stop.set()
        if isinstance(batcher, Bounded):
            batcher.ending = True
        await task
