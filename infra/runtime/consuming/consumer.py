"""The loop of one consumer: fetch, claim, run a batch, and never trust the broker's idea of where we stand.

Positions live in PostgreSQL. A partition's records are folded only after its checkpoint has been claimed and sought;
whatever was fetched before that is dropped. The group's committed offsets are advisory, for lag tools.

While the database writes one batch, the next is fetched and read. What was fetched ahead counts only as long as no
position has moved otherwise: else it is dropped, and its partitions are claimed and sought anew. What a batcher has left
of a partition is sought again under the same claim; what was fetched ahead of the others counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from infra.errors import PositionLost
from infra.kafka.admin import Topic
from infra.kafka.reader import Reader
from infra.kafka.record import Place, Record
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.consuming.batch import PASSING, Batcher, Counts, Position
from infra.runtime.messages.codec import Incoming, Rejected
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

MIN_BATCH, MAX_BATCH = 250, 4_000
"""Doubled while full batches commit quickly, halved when one takes long: small batches when idle, large ones when behind."""
QUICK_S, LONG_S = 0.5, 1.0
WORTH_HALVING: Final = 500
FETCH_MS: Final = 500
SOON_MS: Final = 50
WAITS_S: Final = 0.1
"""So long the checkpoint may stay behind records that do not concern us: one transaction passes over many of them."""
VOID: Final = -1
MAX_PARKED_KEYS: Final = 10_000
PAUSE_S: Final = 5.0
FAILING_S: Final = 5.0
CANNOT_FETCH: Final = "cannot fetch"
COMMIT_EVERY_S: Final = 5.0
BACKOFF_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class Ahead:
    """What was fetched and read before its turn, and which standing of the positions it builds on."""

    standing: int
    records: list[Record]
    opened: list[Incoming | Rejected]
    since: float = field(default_factory=time.monotonic)

    def joined(self, later: Ahead) -> Ahead:
        """Put what was fetched later behind it; they count only if both build on the same positions."""
        standing = self.standing if self.standing == later.standing else VOID
        return Ahead(standing, self.records + later.records, self.opened + later.opened, self.since)

    @property
    def places(self) -> set[Place]:
        """The partitions that it is of."""
        return {record.place for record in self.records}

    def of(self, places: Collection[Place]) -> Ahead:
        """Give what is of some partitions."""
        return replace(
            self,
            records=[it for it in self.records if it.place in places],
            opened=[it for it in self.opened if it.record.place in places],
        )

    def halves(self) -> list[Ahead]:
        """Split it by partition."""
        places = sorted(self.places)
        return [self.of(set(share)) for share in (places[::2], places[1::2]) if share]

    def drop(self, places: Collection[Place]) -> None:
        """Leave what is of some partitions."""
        kept = self.of(self.places.difference(places))
        self.records, self.opened = kept.records, kept.opened


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
        self._standing = 0
        self._left: set[Place] = set()
        self._ahead: asyncio.Task[Ahead] | None = None
        self._waiting: Ahead | None = None
        self._limit = MIN_BATCH
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
            self._forget(list(self._positions))

    def _forget(self, places: Iterable[Place]) -> None:
        """Let positions go: nothing that was fetched so far counts any more."""
        self._standing += 1
        for place in places:
            self._positions.pop(place, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; end early only when a position is lost, and show why."""
        try:
            await self._reader.start(stop)
            while not stop.is_set():
                if self._parked_lately and await self._overfull():
                    self.vitals.turned_at = time.time()
                    await _sleep(stop, PAUSE_S)
                    continue
                await self._one_turn(stop)
        except PositionLost as lost:
            self.vitals.stopped_because = str(lost)
            log.error("consumer stopped", consumer=self.name, reason=str(lost))  # noqa: TRY400 - the reason says it all
        finally:
            if self._ahead is not None:
                # Never cancelled: the client would believe for ever that a fetch goes on.
                await asyncio.gather(self._ahead, return_exceptions=True)
            await self._reader.stop()

    async def _one_turn(self, stop: asyncio.Event) -> None:
        fetching, self._ahead = self._ahead, None
        try:
            fetched = await (fetching or self._fetch())
            if fetching is not None and 0 < len(fetched.records) < self._limit:
                # It came while the last batch was written; so did others since, which need not wait for one more.
                fetched = fetched.joined(await self._fetch(0))
            self.vitals.turned_at = time.time()
            self._show_failing()
            if self._waiting is not None:
                fetched, self._waiting = self._waiting.joined(fetched), None
            async with self._turn:
                if await self._claimed(fetched) and fetched.records:
                    if self._can_wait(fetched):
                        self._waiting = fetched
                    else:
                        self._ahead = asyncio.create_task(self._fetch())
                        await self._fold(fetched)
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

    def _can_wait(self, fetched: Ahead) -> bool:
        """Whether nothing of it concerns us, and little has come together yet: most topics tell most of us nothing."""
        return (
            self.batcher.patient
            and not fetched.opened
            and len(fetched.records) < MAX_BATCH
            and time.monotonic() - fetched.since < WAITS_S
        )

    async def _fetch(self, wait_ms: int = FETCH_MS) -> Ahead:
        standing = self._standing
        # Whoever waits for something else than records must not wait for those.
        soon = self._waiting is not None or not self.batcher.patient
        found = await self._reader.fetch(min(wait_ms, SOON_MS) if soon else wait_ms, self._limit)
        records = [record for part in found.values() for record in part]
        return Ahead(standing, records, await self.batcher.open(records))

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
        self._forget(list(self._positions))
        self.vitals.count(failures=1)
        log.warning("batch not committed", consumer=self.name, failures=self._failures, error=repr(because))

    async def _claimed(self, fetched: Ahead) -> bool:
        """Hold a position in every partition that is ours; give whether what was fetched builds on those."""
        assigned = self._reader.assignment()
        self.vitals.partitions = len(assigned)
        if fetched.standing != self._standing:
            # It lies behind the reader by now: where nobody seeks, it would be passed over.
            self._forget(fetched.places)
        elif self._left:
            # Not before: a fetch under way would move the reader on.
            fetched.drop(self._left)
            for place in self._left & self._positions.keys() & assigned:
                self._reader.seek(place, self._positions[place].next)
            self._left.clear()
        fresh = assigned - self._positions.keys()
        if not fresh:
            return fetched.standing == self._standing
        self._forget(fetched.places)
        fresh = assigned - self._positions.keys()
        claimed = await self._claim(fresh)
        await self._check_reach(claimed)
        for place, position in claimed.items():
            self._reader.seek(place, position.next)
        self._positions |= claimed
        return False

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

    async def _fold(self, fetched: Ahead) -> None:
        began = time.monotonic()
        records = fetched.records
        firsts = {record.place: record.offset for record in reversed(records)}
        beyond = {
            place: self._positions[place]
            for place, offset in firsts.items()
            if offset != self._positions[place].next
        }
        if beyond:
            # Transaction markers leave gaps, but so does a log that was cut behind us.
            await self._check_reach(beyond)
        counts, lost = await self._run(fetched)
        ends = {record.place: record.offset for record in records}
        self._left = {place for place, end in ends.items() if self._positions[place].next <= end} - lost
        if lost:
            self._forget(lost)
        self._suit(len(records), time.monotonic() - began)
        self.vitals.count(
            applied=counts.applied,
            duplicates=counts.duplicates,
            parked=counts.parked,
            skipped=counts.skipped,
            batches=1,
            lost_partitions=len(lost),
        )
        self._parked_lately = self._parked_lately or counts.parked > 0
        if counts.applied and not isinstance(self.batcher.wiring, ProjectionWiring):
            self._wakeups.poke(self.batcher.database)

    async def _run(self, fetched: Ahead) -> tuple[Counts, set[Place]]:
        """Commit what was fetched; a large batch in two halves side by side, so that one is folded while the other is written.

        Halves that wanted the same rows would only wait for each other.
        """
        wiring = self.batcher.wiring
        whole = isinstance(wiring, ProjectionWiring) and bool(wiring.shared)
        parts = [fetched] if whole or len(fetched.records) < WORTH_HALVING else fetched.halves()
        runs = [self.batcher.run(self._positions, part.records, part.opened) for part in parts]
        done = await asyncio.gather(*runs, return_exceptions=True)
        failed = [it for it in done if isinstance(it, BaseException)]
        counts, lost = Counts(), set[Place]()
        for came_of_it, gone in [it for it in done if not isinstance(it, BaseException)]:
            counts.add(came_of_it)
            lost |= gone
        try:
            if failed:
                raise failed[0]
            return counts, lost
        finally:
            # An error keeps this frame; reached from it, too, it would keep the batch until the collector's next look.
            del done, failed

    def _suit(self, size: int, seconds: float) -> None:
        """Choose the size of the next batches by what this one has shown."""
        if seconds > LONG_S:
            self._limit = max(MIN_BATCH, self._limit // 2)
        elif size >= self._limit and seconds < QUICK_S:
            self._limit = min(MAX_BATCH, self._limit * 2)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
