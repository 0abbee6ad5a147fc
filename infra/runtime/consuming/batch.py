"""One batch, one transaction: checkpoint, inbox, fold and every effect commit together or not at all.

The checkpoint of each partition is advanced only from the offset that this process expects, under the epoch that it
holds; a partition that another process has moved is dropped from the batch, and only that partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import structlog
from asyncpg import UniqueViolationError
from pydantic import ValidationError

from infra.errors import TriplaneError, Unacceptable
from infra.kafka.record import Place, Record, Spot
from infra.postgres.database import DATA, TRANSIENT, Connection, Database, Row
from infra.postgres.writes import Table, Writes
from infra.runtime.catalog import Wiring
from infra.runtime.consuming import parking
from infra.runtime.consuming.parking import Parked
from infra.runtime.consuming.tenancy import Tenancy
from infra.runtime.messages.codec import Codec, Incoming, Rejected, explain
from infra.runtime.messages.delivery import Delivery

log = structlog.get_logger(__name__)


INBOX: Final = Table("inbox", (("key", "uuid"), ("payload", "bigint")))
BREATHE_EVERY: Final = 250
"""After so many messages the event loop gets a turn: relays and heartbeats share it with long batches."""


class Folding(Protocol):
    """What one kind of consumer does with a batch; one instance a batch."""

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """Name the states that a message needs: it is parked under them, and waits behind what is parked there."""
        ...

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Lock and load those states, in one global order."""
        ...

    def fold(self, incoming: Incoming) -> None:
        """Fold one message in memory; when it raises, nothing of it remains."""
        ...

    async def save(self, tx: Connection, writes: Writes) -> None:
        """Write what has been folded, set-wise; `writes` is sent afterwards."""
        ...


@dataclass(slots=True)
class Position:
    """Where a partition stands for this process: the offset it expects and the epoch under which it may write."""

    topic_id: UUID
    next: int
    epoch: int


@dataclass(slots=True)
class Counts:
    """What came of a batch."""

    applied: int = 0
    duplicates: int = 0
    parked: int = 0
    skipped: int = 0
    refused: Rejected | None = None
    """Why a redriven message was not taken."""
    folded: Sequence[Incoming] = ()
    """The messages of the last fold that were applied."""
    put_aside: Sequence[Parked] = ()
    """Those that were parked."""

    def add(self, other: Counts) -> None:
        """Count what came of another batch, too."""
        self.applied += other.applied
        self.duplicates += other.duplicates
        self.parked += other.parked
        self.skipped += other.skipped


class Outrun(TriplaneError):
    """Another process has written the same in the meantime: read what is committed, and go on from there."""


PASSING: tuple[type[BaseException], ...] = (*TRANSIENT, Outrun)
"""What a batch is folded again after, from what is committed."""


def outrun(taken: UniqueViolationError) -> Outrun:
    """Say what another process has written first."""
    return Outrun(f"{taken.table_name}: another process has written the same rows")


CAUSED: tuple[type[BaseException], ...] = (*DATA, TriplaneError)
"""What some message of a batch has caused: the culprit is found by halving, and parked."""


class Batcher:
    """Runs the batches of one consumer."""

    patient: bool = True
    """Whether the checkpoint may lag for a moment behind records that do not concern the consumer."""

    def __init__(
        self,
        wiring: Wiring,
        generation: int,
        database: Database,
        codec: Codec,
        tenancy: Tenancy,
        folding: Callable[[Delivery], Folding],
        overlaid: frozenset[Spot] = frozenset(),
        delivery: Delivery | None = None,
    ) -> None:
        """Write to `database` (the schema of the consumer) what `folding` makes of the messages; `overlaid` is passed over."""
        self.wiring = wiring
        self.generation = generation
        self.database = database
        self.codec = codec
        self.tenancy = tenancy
        self._folding = folding
        self._overlaid = overlaid
        self.delivery = delivery or Delivery(wiring.name)
        self._outside = any(topic.endswith(".inbound") for topic in wiring.topics)

    def under(self, delivery: Delivery, overlaid: frozenset[Spot] | None = None) -> Batcher:
        """Give the batcher of the same consumer for messages that come to it in another way."""
        return Batcher(
            self.wiring,
            self.generation,
            self.database,
            self.codec,
            self.tenancy,
            self._folding,
            self._overlaid if overlaid is None else overlaid,
            delivery,
        )

    @property
    def scope(self) -> parking.Scope:
        """Whose checkpoints, inbox and parking it is."""
        return self.wiring.name, self.generation

    async def run(
        self,
        positions: dict[Place, Position],
        records: Sequence[Record],
        opened: Sequence[Incoming | Rejected],
    ) -> tuple[Counts, set[Place]]:
        """Commit a batch of records, `opened` beforehand; give what came of it and the partitions lost to another process.

        `positions` advances with the commit. A message that the database refuses is found by halving, and parked.
        """
        counts = Counts()
        lost: set[Place] = set()
        pending = [(list(records), list(opened))]
        while pending:
            part, inside = pending.pop()
            if lost:
                part = [record for record in part if record.place not in lost]
                inside = [it for it in inside if it.record.place not in lost]
            if not part:
                continue
            try:
                lost |= await self._commit(positions, part, inside, counts)
            except Outrun:
                raise
            except CAUSED as refused:
                if len(part) > 1:
                    pending += _halves(part, inside)
                    continue
                log.warning("parked by the database", consumer=self.wiring.name, error=str(refused))
                inside = [self.unwritable(it, refused) for it in inside]
                lost |= await self._commit(positions, part, inside, counts)
        return counts, lost

    async def open(self, records: Sequence[Record]) -> list[Incoming | Rejected]:
        """Read records, and admit what comes from outside only for an active tenant."""
        if self._overlaid:
            records = [it for it in records if it.spot not in self._overlaid]
        opened = await self.codec.open_all(self.delivery.scope, self.generation, self.wiring.listens, records)
        if not self._outside:
            return opened
        refused: dict[str, Unacceptable | None] = {}
        for place, it in enumerate(opened):
            if not isinstance(it, Incoming) or not it.record.inbound:
                continue
            tenant = it.envelope.tenant
            if tenant not in refused:
                refused[tenant] = await self._refusal(tenant)
            wrong = refused[tenant]
            if wrong is not None:
                opened[place] = Rejected(it.record, wrong.reason, wrong.detail, it.envelope)
        return opened

    async def _refusal(self, tenant: str) -> Unacceptable | None:
        try:
            await self.tenancy.admit(tenant)
        except Unacceptable as wrong:
            return wrong
        return None

    async def _commit(
        self,
        positions: dict[Place, Position],
        records: Sequence[Record],
        opened: Sequence[Incoming | Rejected],
        counts: Counts,
    ) -> set[Place]:
        ends: dict[Place, int] = {}
        for record in records:
            ends[record.place] = record.offset + 1
        async with self.database.transaction() as tx:
            held = await self._advance(tx, positions, ends)
            lost = ends.keys() - held
            mine = opened if not lost else [it for it in opened if it.record.place in held]
            done = await self.apply(tx, mine)
        for place in held:
            positions[place].next = ends[place]
        counts.applied += done.applied
        counts.duplicates += done.duplicates
        counts.parked += done.parked
        counts.skipped += len(records) - len(opened)
        return lost

    async def _advance(
        self, tx: Connection, positions: dict[Place, Position], ends: dict[Place, int]
    ) -> set[Place]:
        places = sorted(ends)
        rows = await tx.fetch(
            """UPDATE checkpoints c SET next_offset = n.next, updated_at = now()
               FROM unnest($3::uuid[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[])
                 AS n (topic_id, partition, expected, next, epoch)
               WHERE c.consumer = $1 AND c.generation = $2 AND c.topic_id = n.topic_id AND c.partition = n.partition
                 AND c.next_offset = n.expected AND c.epoch = n.epoch
               RETURNING c.topic, c.partition""",
            self.wiring.name,
            self.generation,
            [positions[place].topic_id for place in places],
            [place[1] for place in places],
            [positions[place].next for place in places],
            [ends[place] for place in places],
            [positions[place].epoch for place in places],
        )
        return {(row["topic"], row["partition"]) for row in rows}

    async def hold(self, tx: Connection, places: Collection[Place]) -> None:
        """Keep every batch of these partitions out until `tx` ends: whoever folds their messages beside the owner does so.

        First of all in `tx`, as a batch does: a row that only its partition's owner folds is not locked by itself.
        """
        ordered = sorted(places)
        await tx.fetch(
            """SELECT FROM checkpoints c JOIN unnest($3::text[], $4::int[]) AS w (topic, partition) USING (topic, partition)
               WHERE c.consumer = $1 AND c.generation = $2 ORDER BY c.topic COLLATE "C", c.partition FOR UPDATE OF c""",
            *self.scope,
            [topic for topic, _ in ordered],
            [partition for _, partition in ordered],
        )

    async def apply(
        self, tx: Connection, opened: Sequence[Incoming | Rejected], *, redrive: bool = False
    ) -> Counts:
        """Fold messages in `tx`: duplicates are dropped, what cannot be folded is parked under its keys.

        In a `redrive` nothing waits behind what is parked, as the caller holds the parked keys' locks, and nothing is
        parked again: the counts say why it was refused.
        """
        counts = Counts()
        folding = self._folding(self.delivery)
        incoming = [it for it in opened if isinstance(it, Incoming)]
        known, any_parked = await self.met(tx, incoming)
        # Hardly ever is anything parked, so nobody's keys are put together before something is.
        blocked = await self._blocked(tx, folding, opened) if any_parked and not redrive else set[str]()
        await folding.load(
            tx,
            [
                it
                for it in incoming
                if it.inbox not in known and not (blocked and blocked.intersection(self._needed(folding, it)))
            ],
        )
        to_park: list[Parked] = []
        applied: list[Incoming] = []
        # In offset order: what is parked blocks what comes after it, never what came before.
        for number, it in enumerate(opened, 1):
            if number % BREATHE_EVERY == 0:
                await asyncio.sleep(0)
            if isinstance(it, Rejected):
                keys = parking.keys_of_rejected(it)
                to_park.append(Parked.of(it, keys))
                blocked.update(keys)
                continue
            before = known.get(it.inbox)
            if before == it.hash:
                counts.duplicates += 1
                continue
            if before is not None:
                detail = "ce_id: was used before for another body; send a new id with a new message"
                to_park.append(Parked.of(Rejected(it.record, "id_reuse", detail, it.envelope), ()))
                continue
            known[it.inbox] = it.hash
            if blocked and blocked.intersection(needed := self._needed(folding, it)):
                waits = Rejected(
                    it.record, "behind", "waits behind an earlier parked message of the same key", it.envelope
                )
                to_park.append(Parked.of(waits, needed))
                blocked.update(needed)
                continue
            try:
                folding.fold(it)
            except Exception as raised:  # noqa: BLE001 - whatever a fold raises isolates its message
                keys = self._keys_of(folding, it)
                to_park.append(Parked.of(rejected_by(it, raised), keys))
                blocked.update(keys)
            else:
                applied.append(it)
        counts.refused = to_park[0].rejected if redrive and to_park else None
        writes = Writes()
        # First of all: whoever meets another process that applies the same message learns it from its mark.
        self._mark(writes, applied)
        await folding.save(tx, writes)
        await writes.send(tx)
        if not redrive:
            await parking.park(tx, self.scope, self.codec.vault, to_park, self.delivery.anew)
        counts.applied, counts.parked = len(applied), len(to_park)
        counts.folded, counts.put_aside = applied, to_park
        return counts

    async def _blocked(
        self, tx: Connection, folding: Folding, opened: Sequence[Incoming | Rejected]
    ) -> set[str]:
        return await parking.blocked(
            tx, self.scope, {key for it in opened for key in self._needed(folding, it)}
        )

    def watched(self, incoming: Incoming) -> tuple[str, ...]:
        """Name everything behind which a message must wait."""
        return self._needed(self._folding(self.delivery), incoming)

    def _needed(self, folding: Folding, opened: Incoming | Rejected) -> tuple[str, ...]:
        keys = self._keys_of(folding, opened)
        return keys if isinstance(opened, Rejected) else parking.watched(opened, keys)

    @staticmethod
    def _keys_of(folding: Folding, opened: Incoming | Rejected) -> tuple[str, ...]:
        if isinstance(opened, Rejected):
            return parking.keys_of_rejected(opened)
        return tuple(parking.bounded(key) for key in folding.keys(opened))

    def unwritable(self, opened: Incoming | Rejected, refused: BaseException) -> Rejected:
        """Say that the database did not take what came of a message; its states wait, as for a fold that raised."""
        if isinstance(opened, Rejected):
            return opened
        reason, detail = "refused_by_database", f"{type(refused).__name__}: {refused}"
        if isinstance(refused, Unacceptable):
            reason, detail = refused.reason, refused.detail
        keys = self._keys_of(self._folding(self.delivery), opened)
        return Rejected(opened.record, reason, detail, opened.envelope, keys)

    async def met(
        self, tx: Connection | Database, incoming: Sequence[Incoming]
    ) -> tuple[dict[str, int], bool]:
        """Say which messages the inbox knows, each with the hash of what was applied; and whether anything at all is parked."""
        rows: Sequence[Row] = await tx.fetch(
            """SELECT key, payload FROM inbox WHERE key = ANY($1::uuid[])
               UNION ALL SELECT NULL, NULL WHERE EXISTS (SELECT FROM parked_keys WHERE consumer = $2 AND generation = $3)""",
            sorted([it.inbox for it in incoming]),
            *self.scope,
        )
        known = {row["key"].hex: row["payload"] for row in rows if row["key"] is not None}
        return known, len(known) < len(rows)

    def _mark(self, writes: Writes, applied: Sequence[Incoming]) -> None:
        # Sorted, they spare the index a fifth of its work.
        writes.insert(INBOX, sorted([(it.inbox, it.hash) for it in applied]), outrun)


def _halves(
    records: list[Record], opened: list[Incoming | Rejected]
) -> list[tuple[list[Record], list[Incoming | Rejected]]]:
    """Split a batch, the later half first, as halves are taken from the end."""
    middle = len(records) // 2
    early = {id(record) for record in records[:middle]}
    return [
        (records[middle:], [it for it in opened if id(it.record) not in early]),
        (records[:middle], [it for it in opened if id(it.record) in early]),
    ]


def rejected_by(incoming: Incoming, raised: BaseException) -> Rejected:
    """Say why a fold did not take a message."""
    if isinstance(raised, Unacceptable):
        return Rejected(incoming.record, raised.reason, raised.detail, incoming.envelope)
    # A validation error repeats the values that it complains of, and they may be personal.
    said = explain(raised) if isinstance(raised, ValidationError) else str(raised)
    trace = None if isinstance(raised, ValidationError) else raised
    envelope = incoming.envelope
    log.error(
        "a fold raised",
        type=envelope.type,
        id=envelope.id,
        tenant=envelope.tenant,
        correlation=envelope.correlation,
        said=said,
        exc_info=trace,
    )
    return Rejected(incoming.record, "fold_failed", f"{type(raised).__name__}: {said}", envelope)
