"""The read models of a worker process: every generation that serves, is about to, or stands by is folded, whichever those are by now.

A generation that this code cannot fold is left alone, and shown. Where the settings say so, one that is behind its code is
built anew here, by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from infra.errors import Refused
from infra.kafka.admin import Topic
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.consuming.consumer import Consumer, label
from infra.runtime.consuming.first_start import register
from infra.runtime.engine import AWAY, Engine
from infra.runtime.folding.generations import (
    Generation,
    behind,
    generations,
    later,
    mix,
    of_standing,
    released,
    serving,
    unfit,
)
from infra.runtime.operating.rebuild_acts import WRONG, Asker, Compared, Progress
from infra.runtime.operating.rebuilding import Rebuild
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
ITSELF: Final = "triplane"
"""Who rebuilds what nobody has asked for."""
AGAIN_S: Final = 10.0
TELL_S: Final = 5.0


@dataclass(slots=True, eq=False)
class Folded:
    """One generation at work here: shown under its own name, stopped by its own event."""

    name: str
    vitals: Vitals
    stop: asyncio.Event
    task: asyncio.Task[None] | None = None
    """None where this code cannot fold it."""


class Models:
    """The read models that this process folds."""

    def __init__(
        self, engine: Engine, wirings: Sequence[ProjectionWiring], topics: dict[str, Topic], wakeups: Wakeups
    ) -> None:
        """Fold `wirings`; `topics` are those that the broker has."""
        self.name = "models"
        self.vitals = Vitals()
        self._engine = engine
        self._wirings = wirings
        self._topics = topics
        self._wakeups = wakeups
        self._at_work: dict[tuple[str, int], Folded] = {}
        self._rebuilding: asyncio.Task[None] | None = None
        self._rebuild_after = 0.0
        self._known: dict[str, int] = {}
        """The latest generation of each model that was there when this code was deployed: a later one may be of later code."""
        self._stopping = asyncio.Event()

    @property
    def parts(self) -> list[Folded]:
        """What is at work by now."""
        return list(self._at_work.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Look every second until `stop` is set; what a consumer raises ends this, too."""
        try:
            while not stop.is_set():
                self.vitals.turned_at = time.time()
                try:
                    await self.look()
                except AWAY as passing:
                    log.warning("generations are not known", error=repr(passing))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_S)
        finally:
            self._stopping.set()
            ending = [self._end(at) for at in list(self._at_work)]
            await asyncio.gather(*ending, *([self._rebuilding] if self._rebuilding else []))

    async def look(self) -> None:
        """Begin to fold what is live by now, and leave what is not any more."""
        for wiring in self._wirings:
            database = self._engine.databases["projections"]
            known = await generations(database, wiring)
            if wiring.name not in self._known:
                self._known[wiring.name] = await released(database, wiring)
            live = {(wiring.name, it.number): it for it in known if it.live}
            for at, generation in live.items():
                if at not in self._at_work:
                    self._at_work[at] = await self._begin(wiring, generation)
            for at, folded in list(self._at_work.items()):
                if at[0] == wiring.name and at not in live:
                    await self._end(at)
                elif folded.task is not None and folded.task.done():
                    folded.task.result()
            if self._engine.settings.rebuilds_itself:
                self._rebuild(wiring, known)

    async def _begin(self, wiring: ProjectionWiring, generation: Generation) -> Folded:
        number = generation.number
        folded = Folded(label(wiring.name, number), Vitals(), asyncio.Event())
        if (why := self._not_ours(wiring, generation)) is not None:
            folded.vitals.stopped_because = why
            log.error("not folded", consumer=folded.name, because=folded.vitals.stopped_because)
            return folded
        if not generation.current(wiring):
            await mix(self._engine.databases["projections"], wiring, number)
        batcher = await self._engine.batcher(wiring, number)
        await register(batcher.database, self._engine.admin, wiring, number, self._topics)
        consumer = Consumer(batcher, self._engine.settings.kafka, self._topics, self._wakeups)
        folded.vitals = consumer.vitals
        folded.task = asyncio.create_task(consumer.run(folded.stop), name=folded.name)
        return folded

    def _not_ours(self, wiring: ProjectionWiring, generation: Generation) -> str | None:
        """Say why this process does not fold a generation; `None` where it does."""
        if not generation.fits(wiring):
            return unfit(wiring, generation)
        if generation.number > self._known[wiring.name] and not generation.current(wiring):
            # Whoever has built it since this code was deployed has later code.
            return later(wiring, generation)
        return None

    async def _end(self, at: tuple[str, int]) -> None:
        folded = self._at_work.pop(at)
        folded.stop.set()
        if folded.task is not None:
            await folded.task

    # -- by itself --------------------------------------------------------------------------------------------------

    def _rebuild(self, wiring: ProjectionWiring, known: list[Generation]) -> None:
        active, standby = serving(wiring, known), of_standing(known, "standby")
        if active.number > self._known[wiring.name]:
            # Somebody has switched since: what differs from this process's code is not behind it.
            return
        if standby is not None and standby.number > active.number and standby.current(wiring):
            # An operator has gone back from this very code, and knows why.
            return
        busy = self._rebuilding is not None and not self._rebuilding.done()
        if busy or time.monotonic() < self._rebuild_after or behind(wiring, active) is None:
            return
        self._rebuild_after = time.monotonic() + AGAIN_S
        self._rebuilding = asyncio.create_task(self._rebuild_one(wiring))

    async def _rebuild_one(self, wiring: ProjectionWiring) -> None:
        model = wiring.projection.name
        said = 0.0

        def tell(progress: Progress) -> None:
            nonlocal said
            if time.monotonic() - said > TELL_S:
                said = time.monotonic()
                log.info("rebuilding", model=model, done=progress.done, total=progress.total)

        async def agree(compared: Compared) -> bool:
            for it in compared.tables:
                log.info("rebuilt", view=it.view, rows=it.rows, new=it.new, gone=it.gone, changed=it.changed)
            return True

        asker = Asker(ITSELF, "behind its code", tell, agree)
        try:
            done = await Rebuild(self._engine, wiring, asker).run(self._stopping)
        except Refused as refused:
            log.info("not rebuilt here", model=model, because=str(refused))
        except WRONG as wrong:
            log.warning("not rebuilt yet", model=model, error=repr(wrong))
        else:
            log.info("rebuild ended", model=model, generation=done.generation, switched=done.switched)
