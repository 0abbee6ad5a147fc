"""The row of a replay: what is given to whom, how far it has come, and who holds it.

It lies in the consumer's own schema, so that progress is saved in the transaction that folds; that of a copy lies in schema
`operations`. One replay of a consumer, or copy to a topic, runs at a time; a lease on the database's clock tells a dead
holder from a slow one, and a holder that has lost it cannot commit any more.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from asyncpg import UniqueViolationError
from psutil import pid_exists
from pydantic_core import from_json, to_json

from infra.kafka.admin import Topic
from infra.postgres.database import TRANSIENT, Connection, Database
from infra.runtime.consuming.batch import PASSING, Counts
from infra.runtime.consuming.parking import Scope
from infra.runtime.messages.codec import Incoming, Rejected
from infra.runtime.operating.replay_range import Range, ReplayRefused, WrongCall
from infra.runtime.operating.replay_steps import Only, Opened

log = structlog.get_logger(__name__)

LEASE_S: Final = 15.0
BACKOFF_S: Final = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
UNREADABLE: Final = "(unreadable)"
"""Stands for the type of a message whose envelope cannot be read."""


class TakenOver(ReplayRefused):
    """The lease ran out, and another process goes on with the replay."""


@dataclass(slots=True)
class Line:
    """What came of the messages of one type in one partition."""

    applied: int = 0
    """Those that were applied; in a copy, copied."""
    duplicates: int = 0
    parked: int = 0
    parked_before: int = 0
    """Those that were parked already, and stay so."""
    anew: int = 0
    """Those of the applied that had been applied before: they came as new ones."""

    @property
    def messages(self) -> int:
        """How many there were."""
        return self.applied + self.duplicates + self.parked + self.parked_before


COUNTS: Final = tuple(it.name for it in fields(Line))


@dataclass(slots=True)
class Tally:
    """What came of a range, by partition and type; `skipped` records do not concern the consumer, or were not meant."""

    lines: dict[tuple[int, str], Line] = field(default_factory=lambda: defaultdict(Line))
    skipped: int = 0

    @property
    def total(self) -> Line:
        """What came of all of it."""
        lines = self.lines.values()
        return Line(*(sum(getattr(it, name) for it in lines) for name in COUNTS))

    def duplicates(self, known: Collection[Incoming]) -> None:
        """Count messages that had been applied before."""
        for it in known:
            self._line(it).duplicates += 1

    def parked_before(self, known: Collection[Incoming | Rejected]) -> None:
        """Count messages that had been parked before."""
        for it in known:
            self._line(it).parked_before += 1

    def anew(self, known: Collection[Incoming]) -> None:
        """Count those of the applied that had been applied before."""
        for it in known:
            self._line(it).anew += 1

    def copied(self, opened: Collection[Opened]) -> None:
        """Count what was copied."""
        for it in opened:
            self._line(it).applied += 1

    def folded(self, opened: Sequence[Incoming | Rejected], counts: Counts) -> None:
        """Count what a fold made of messages."""
        applied = {id(it.record) for it in counts.folded}
        parked = {id(it.rejected.record) for it in counts.put_aside}
        for it in opened:
            line = self._line(it)
            if id(it.record) in applied:
                line.applied += 1
            elif id(it.record) in parked:
                line.parked += 1
            else:
                line.duplicates += 1

    def add(self, more: Tally) -> None:
        """Count in what another has counted."""
        self.skipped += more.skipped
        for key, line in more.lines.items():
            mine = self.lines[key]
            for name in COUNTS:
                setattr(mine, name, getattr(mine, name) + getattr(line, name))

    def dump(self) -> str:
        """Write the lines as JSON."""
        return to_json([[*key, *astuple(line)] for key, line in sorted(self.lines.items())]).decode()

    @classmethod
    def load(cls, text: str, skipped: int) -> Tally:
        """Read what `dump` gave."""
        tally = cls(skipped=skipped)
        for partition, kind, *counts in from_json(text):
            tally.lines[partition, kind] = Line(*counts)
        return tally

    def _line(self, it: Opened) -> Line:
        kind = it.envelope.type if it.envelope is not None else UNREADABLE
        return self.lines[it.record.partition, kind]


Told = Callable[[Tally, int], None]
"""Is told what has come of the range so far, and how many offsets are gone through."""


@dataclass(frozen=True, slots=True)
class Target:
    """The topic to which a range is copied."""

    bootstrap: str
    """Its cluster, `host:port[,host:port]`."""
    topic: Topic

    @property
    def scope(self) -> Scope:
        """Who gets the copy, where a consumer would stand; nothing but a read model has more than one generation."""
        return f"topic {self.topic.name}", 1


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    scope: Scope
    range: Range
    only: Only
    limit: int | None = None
    """At most so many messages."""
    again: bool = False
    """Whether messages that were applied before are applied anew."""
    reason: str = ""
    rate: int | None = None
    """At most so many messages a second."""
    target: Target | None = None
    """Where it is copied to, if it is a copy."""

    def gone_through(self, after: Mapping[int, int]) -> int:
        """Say how many offsets of the range lie behind."""
        return sum(after[number] - first for number, (first, _) in self.range.offsets.items())


@dataclass(slots=True)
class Job:
    """A replay that this process holds."""

    id: UUID
    order: Order
    database: Database
    owner: UUID
    next: dict[int, int]
    """Where it stands in each partition."""
    tally: Tally

    @property
    def left(self) -> int | None:
        """How many messages are left of the limit, if there is one."""
        limit = self.order.limit
        return None if limit is None else max(0, limit - self.tally.total.messages)

    @property
    def at_end(self) -> bool:
        """Whether nothing is left to go through."""
        bounds = self.order.range.offsets
        return self.left == 0 or all(self.next[number] >= until for number, (_, until) in bounds.items())

    async def advance(self, tx: Connection, after: Mapping[int, int], tally: Tally) -> None:
        """Move on in the transaction that folds; raises `TakenOver`."""
        moved = await tx.execute(
            """UPDATE replays SET next_offsets = $4, counts = $5, skipped = $6, expires_at = now() + make_interval(secs => $7)
               WHERE id = $1 AND owner = $2 AND standing = 'running' AND next_offsets = $3""",
            self.id,
            self.owner,
            list(self.next.values()),
            list(after.values()),
            tally.dump(),
            tally.skipped,
            LEASE_S,
        )
        if moved != "UPDATE 1":
            raise TakenOver(f"replay {self.id} was taken over by somebody else")

    async def patiently(self, after: Mapping[int, int], commit: Callable[[], Awaitable[None]]) -> None:
        """Let `commit` move on to `after`; what passes by itself is tried again, though its answer alone was lost."""
        for pause in BACKOFF_S:
            try:
                await commit()
            except PASSING as passing:
                log.warning("replay waits", replay=str(self.id), error=repr(passing))
                await asyncio.sleep(pause)
                with suppress(*TRANSIENT):
                    if await self.has_reached(after):
                        return
            else:
                return
        await commit()

    async def has_reached(self, after: Mapping[int, int]) -> bool:
        """Whether the step to `after` was committed, although the database's answer was lost; then it is noted here, too."""
        rows = await self.database.fetch(
            "SELECT counts, skipped FROM replays WHERE id = $1 AND owner = $2 AND next_offsets = $3",
            self.id,
            self.owner,
            list(after.values()),
        )
        if rows:
            self.next, self.tally = dict(after), Tally.load(rows[0]["counts"], rows[0]["skipped"])
        return bool(rows)

    async def let_go(self) -> None:
        """Say that it is done, or that whoever likes may go on with it."""
        await self.database.execute(
            "UPDATE replays SET standing = $3, ended_at = now(), expires_at = now() WHERE id = $1 AND owner = $2",
            self.id,
            self.owner,
            "done" if self.at_end else "stopped",
        )


async def begun(database: Database, order: Order) -> Job:
    """Write down a new replay; raises `ReplayRefused`, naming the holder, while another one of the consumer runs."""
    bounds = order.range.offsets
    job = Job(uuid4(), order, database, uuid4(), {it: first for it, (first, _) in bounds.items()}, Tally())
    row = _row(job)
    try:
        async with database.transaction() as tx:
            await _release_dead(tx, order.scope[0])
            await tx.execute(
                f"""INSERT INTO replays ({", ".join(row)}, expires_at)
                    VALUES ({", ".join(f"${number}" for number in range(1, len(row) + 1))}, now() + make_interval(secs => {LEASE_S}))""",
                *row.values(),
            )
    except UniqueViolationError:
        raise await _taken(database, order.scope[0]) from None
    return job


async def resumed(database: Database, job_id: UUID, rate: int | None = None) -> Job:
    """Take a stopped replay up, or one whose holder is dead; raises `ReplayRefused`, naming the holder, while it runs.

    It goes on at the rate that it had, unless another is given.
    """
    owner = uuid4()
    (row,) = await database.fetch("SELECT * FROM replays WHERE id = $1", job_id)
    try:
        async with database.transaction() as tx:
            await _release_dead(tx, row["consumer"])
            taken: Any = await tx.fetchrow(
                """UPDATE replays SET standing = 'running', owner = $2, operator = $3, host = $4, pid = $5, ended_at = NULL,
                          expires_at = now() + make_interval(secs => $6), rate = coalesce($7, rate)
                   WHERE id = $1 AND standing = 'stopped' RETURNING *""",
                job_id,
                owner,
                *_me(),
                LEASE_S,
                rate,
            )
    except UniqueViolationError:
        taken = None
    if taken is None:
        raise await _taken(database, row["consumer"])
    return _job(database, taken)


async def find(databases: Collection[Database], job_id: UUID) -> tuple[Database, Job, bool]:
    """Find a replay as it stands, and whether it is done; raises `WrongCall`."""
    for database in databases:
        for row in await database.fetch("SELECT * FROM replays WHERE id = $1", job_id):
            return database, _job(database, row), row["standing"] == "done"
    raise WrongCall(f"there is no replay {job_id}")


def _row(job: Job) -> dict[str, object]:
    order, bounds = job.order, job.order.range.offsets
    consumer, generation = order.scope
    operator, host, pid = _me()
    row: dict[str, object] = {
        "id": job.id,
        "consumer": consumer,
        "generation": generation,
        "topic": order.range.topic.name,
        "topic_id": order.range.topic.id,
        "partitions": list(bounds),
        "from_offsets": [first for first, _ in bounds.values()],
        "until_offsets": [until for _, until in bounds.values()],
        "next_offsets": list(job.next.values()),
        "key": order.only.key,
        "type": order.only.type,
        "tenant": order.only.tenant,
        "most": order.limit,
        "again": order.again,
        "reason": order.reason,
        "rate": order.rate,
        "operator": operator,
        "host": host,
        "pid": pid,
        "owner": job.owner,
    }
    if order.target is not None:
        topic = order.target.topic
        row |= {"bootstrap": order.target.bootstrap, "target": topic.name}
        row |= {"target_id": topic.id, "target_partitions": topic.partitions}
    return row


def _job(database: Database, row: Any) -> Job:
    numbers = row["partitions"]
    bounds = dict(zip(numbers, zip(row["from_offsets"], row["until_offsets"], strict=True), strict=True))
    order = Order(
        (row["consumer"], row["generation"]),
        Range(Topic(row["topic"], row["topic_id"], len(numbers)), bounds),
        Only(row["key"], row["type"], row["tenant"]),
        row["most"],
        row["again"],
        row["reason"],
        row["rate"],
        _target(row),
    )
    position = dict(zip(numbers, row["next_offsets"], strict=True))
    return Job(row["id"], order, database, row["owner"], position, Tally.load(row["counts"], row["skipped"]))


def _target(row: Any) -> Target | None:
    if "target" not in row:
        return None
    return Target(row["bootstrap"], Topic(row["target"], row["target_id"], row["target_partitions"]))


async def _release_dead(tx: Connection, consumer: str) -> None:
    """Let go what nobody has renewed in time, or what a process of this machine held that is gone."""
    rows = await tx.fetch(
        "SELECT id, host, pid, expires_at < now() AS expired FROM replays WHERE consumer = $1 AND standing = 'running' FOR UPDATE",
        consumer,
    )
    dead = [
        row["id"]
        for row in rows
        if row["expired"] or (row["host"] == socket.gethostname() and not pid_exists(row["pid"]))
    ]
    # Were it alive after all, it could not commit: another owner comes.
    await tx.execute("UPDATE replays SET standing = 'stopped' WHERE id = ANY($1::uuid[])", dead)


async def _taken(database: Database, consumer: str) -> ReplayRefused:
    """Say who is at it."""
    for row in await database.fetch(
        "SELECT id, operator, host, pid FROM replays WHERE consumer = $1 AND standing = 'running'", consumer
    ):
        who = f"{row['operator']} on {row['host']}, process {row['pid']}"
        return ReplayRefused(f"{consumer}: {who}, is replaying to it already (replay {row['id']})")
    return ReplayRefused(f"{consumer}: a replay to it has just ended; try again")


def _me() -> tuple[str, str, int]:
    return getpass.getuser(), socket.gethostname(), os.getpid()
