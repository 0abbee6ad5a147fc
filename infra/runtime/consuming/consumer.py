"""The loop of one consumer: fetch, claim, run a batch, and never trust the broker's idea of where we stand.

Positions live in PostgreSQL. A partition's records are folded only after its checkpoint has been claimed and sought;
whatever was fetched before that is dropped. The group's committed offsets are advisory, for lag tools.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog

from infra.errors import PositionLost
from infra.kafka.admin import Topic
from infra.kafka.reader import Reader
from infra.kafka.record import Place, Record
from infra.postgres.database import TRANSIENT
from infra.runtime.consuming.batch import Batcher, Outrun, Position
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

MAX_BATCH: Final = 1_000
FETCH_MS: Final = 500
MAX_PARKED_KEYS: Final = 10_000
PAUSE_S: Final = 5.0
FAILING_S: Final = 5.0
CANNOT_FETCH: Final = "cannot fetch"
COMMIT_EVERY_S: Final = 5.0
PASSING: tuple[type[BaseException], ...] = (*TRANSIENT, Outrun)
BACKOFF_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)


def label(consumer: str, generation: int) -> str:
    """Name one generation of a consumer: its group, its heartbeats."""
    return consumer if generation == 1 else f"{consumer}.g{generation}"


class Consumer:
    """One consumer in this process; any number of processes share its partitions out."""

    def __init__(
        self, batcher: Batcher, bootstrap: str, topics: Mapping[str, Topic], wakeups: Wakeups
    ) -> None:
        """Consume the topics of the batcher's wiring; `topics` are those that the broker has."""
        self.batcher = batcher
        self.vitals = Vitals()
        self._topics = topics
        self._wakeups = wakeups
        self._reader = Reader(bootstrap, self._group, batcher.wiring.topics, self._rebalanced)
        self._positions: dict[Place, Position] = {}
        self._turn = asyncio.Lock()
        self._failures = 0
        self._committed_at = 0.0
        self._told: dict[Place, int] = {}
        self._parked_lately = False

    @property
    def name(self) -> str:
        """The consumer's permanent name."""
        return self.batcher.wiring.name

    @property
    def _group(self) -> str:
        return f"triplane.{label(self.name, self.batcher.generation)}"

    async def _rebalanced(self) -> None:
        """Let the batch in hand commit, then forget every position: each must be claimed anew."""
        async with self._turn:
            self._positions.clear()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; end early only when a position is lost, and show why."""
        try:
            await self._reader.start(stop)
            while not stop.is_set():
                await self._one_turn(stop)
        except PositionLost as lost:
            self.vitals.stopped_because = str(lost)
            log.error("consumer stopped", consumer=self.name, reason=str(lost))  # noqa: TRY400 - the reason says it all
        finally:
            await self._reader.stop()

    async def _one_turn(self, stop: asyncio.Event) -> None:
        if self._parked_lately and await self._overfull():
            self.vitals.turned_at = time.time()
            await _sleep(stop, PAUSE_S)
            return
        fetched = await self._reader.fetch(FETCH_MS, MAX_BATCH)
        self.vitals.turned_at = time.time()
        self._show_failing()
        async with self._turn:
            try:
                await self._claim_new(fetched)
                records = [
                    record for place, found in fetched.items() if place in self._positions for record in found
                ]
                if records:
                    await self._fold(records)
                self._failures = 0
            except PASSING as passing:
                self._fail(passing)
            except PositionLost:
                raise
            except Exception as unexpected:
                self._fail(unexpected)
                log.exception("batch failed", consumer=self.name)
        if self._failures:
            await _sleep(stop, BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1])
        elif time.monotonic() - self._committed_at > COMMIT_EVERY_S:
            self._committed_at = time.monotonic()
            await self._commit_advisory()

    def _show_failing(self) -> None:
        """A consumer that cannot fetch makes turns, but no progress: say so after a while, and take it back."""
        failing = self._reader.failing
        if failing is not None and time.monotonic() - failing[0] > FAILING_S:
            self.vitals.stopped_because = f"{CANNOT_FETCH}: {failing[1]}"
        elif failing is None and (self.vitals.stopped_because or "").startswith(CANNOT_FETCH):
            self.vitals.stopped_because = None

    async def _overfull(self) -> bool:
        """Whether so much is parked that going on would only park more: then nothing is read until it is less."""
        try:
            self._parked_lately = await self._count_parked_keys() > MAX_PARKED_KEYS
        except PASSING:
            return True
        if self._parked_lately:
            reason = f"paused: more than {MAX_PARKED_KEYS} keys are parked; see triplane parked list --consumer {self.name}"
            if self.vitals.stopped_because is None:
                log.error("consumer paused", consumer=self.name, reason=reason)
            self.vitals.stopped_because = reason
        else:
            self.vitals.stopped_because = None
        return self._parked_lately

    async def _count_parked_keys(self) -> int:
        rows = await self.batcher.database.fetch(
            "SELECT count(*) AS n FROM parked_keys WHERE consumer = $1 AND generation = $2",
            self.name,
            self.batcher.generation,
        )
        found: int = rows[0]["n"]
        return found

    async def _commit_advisory(self) -> None:
        """Tell the group where we stand, where that has changed: for lag tools only."""
        now = {place: position.next for place, position in self._positions.items()}
        moved = {place: offset for place, offset in now.items() if self._told.get(place) != offset}
        if moved:
            await self._reader.commit(moved)
            self._told = now

    def _fail(self, because: BaseException) -> None:
        """Forget the positions, so that the next turn goes on from what is committed."""
        self._failures += 1
        self._positions.clear()
        self.vitals.count(failures=1)
        log.warning("batch not committed", consumer=self.name, failures=self._failures, error=repr(because))

    async def _claim_new(self, fetched: dict[Place, Sequence[Record]]) -> None:
        assigned = self._reader.assignment()
        self.vitals.partitions = len(assigned)
        fresh = assigned - self._positions.keys()
        if not fresh:
            return
        claimed = await self._claim(fresh)
        await self._check_reach(claimed)
        for place, position in claimed.items():
            self._reader.seek(place, position.next)
            fetched.pop(place, None)
        self._positions |= claimed

    async def _claim(self, places: Collection[Place]) -> dict[Place, Position]:
        ordered = sorted(places)
        rows = await self.batcher.database.fetch(
            """UPDATE checkpoints c SET epoch = epoch + 1
               FROM unnest($3::uuid[], $4::int[]) AS w (topic_id, partition)
               WHERE c.consumer = $1 AND c.generation = $2 AND (c.topic_id, c.partition) = (w.topic_id, w.partition)
               RETURNING c.topic, c.partition, c.topic_id, c.next_offset, c.epoch""",
            self.name,
            self.batcher.generation,
            [self._topics[topic].id for topic, _ in ordered],
            [partition for _, partition in ordered],
        )
        claimed = {
            (row["topic"], row["partition"]): Position(row["topic_id"], row["next_offset"], row["epoch"])
            for row in rows
        }
        missing = set(places) - claimed.keys()
        if missing:
            raise PositionLost(f"{self.name}: {min(missing)} is not registered; run: triplane migrate")
        return claimed

    async def _check_reach(self, claimed: dict[Place, Position]) -> None:
        first, end = await self._reader.bounds(claimed)
        for place, position in claimed.items():
            if not first[place] <= position.next <= end[place]:
                raise PositionLost(
                    f"{self.name}: {place[0]}/{place[1]} stands at offset {position.next}, but the log holds "
                    f"{first[place]} to {end[place]}; nothing was skipped: an operator must decide where to go on"
                )

    async def _fold(self, records: list[Record]) -> None:
        firsts = {(record.topic, record.partition): record.offset for record in reversed(records)}
        beyond = {
            place: self._positions[place]
            for place, offset in firsts.items()
            if offset != self._positions[place].next
        }
        if beyond:
            # Transaction markers leave gaps, but so does a log that was cut behind us.
            await self._check_reach(beyond)
        counts, lost = await self.batcher.run(self._positions, records)
        for place in lost:
            self._positions.pop(place, None)
        self.vitals.count(
            applied=counts.applied,
            duplicates=counts.duplicates,
            parked=counts.parked,
            skipped=counts.skipped,
            batches=1,
            lost_partitions=len(lost),
        )
        self._parked_lately = self._parked_lately or counts.parked > 0
        if counts.applied:
            self._wakeups.poke(self.batcher.database)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
