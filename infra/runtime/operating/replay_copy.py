"""Copies a range to a topic of another environment: bytes, keys and headers as they are, each key in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from infra.errors import Unacceptable
from infra.kafka.admin import Admin, Topic
from infra.kafka.copier import Copier
from infra.kafka.record import Record
from infra.runtime.catalog import Catalog
from infra.runtime.engine import Engine
from infra.runtime.messages.envelope import Envelope, open_record
from infra.runtime.operating import replay_acts
from infra.runtime.operating.replay_job import Job, Order, Tally, Target, Told
from infra.runtime.operating.replay_range import ReplayRefused
from infra.runtime.operating.replay_steps import Step, Steps


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as it is, with its envelope where it can be read."""

    record: Record
    envelope: Envelope | None


async def target(ours: Admin, theirs: Admin, catalog: Catalog, name: str) -> Topic | None:
    """Find the topic to copy to; `None` when it does not exist. Raises `ReplayRefused` for one that is in use here."""
    if name.startswith("__"):
        raise ReplayRefused(f"{name} is the broker's own")
    if name in catalog.topics and await ours.cluster() == await theirs.cluster():
        raise ReplayRefused(
            f"{name} is a topic of this installation: everybody who listens to it would get the messages. "
            "To give them to one consumer, say --to CONSUMER"
        )
    return (await theirs.topics([name])).get(name)


async def check_same(theirs: Admin, target: Target) -> None:
    """Refuse to go on with a copy to a topic that is not the one it began with: what that one had would be missing."""
    name = target.topic.name
    if (await theirs.topics([name])).get(name) != target.topic:
        raise ReplayRefused(
            f"{name} at {target.bootstrap} is gone, was made anew or has got more partitions since the copy began: copy anew"
        )


async def copy(engine: Engine, job: Job, *, who: str, stop: asyncio.Event, told: Told) -> None:
    """Go on with a copy that this process holds, until its end or until `stop` is set; its start and end are kept and published.

    Progress is saved once the target has acknowledged a step. After a crash between the two it is copied once more, with the
    same ids and in the same order: whoever takes each id once there gets everything once, each key in its order.
    """
    # A transaction at the target could take records and progress in one, but would leave a consumer group there.
    order, target = job.order, job.order.target
    assert target is not None, "a copy has one"
    copier = Copier(target.bootstrap, target.topic)
    async with (
        replay_acts.recorded(engine, job, who),
        aclosing(_steps(engine, order, order.rate).walk(job.next, job.left)) as steps,
    ):
        async for step in steps:
            await copier.write([it.record for it in step.meant], order.range.topic.partitions)
            tally = _counted(step)
            tally.add(job.tally)
            await job.patiently(step.after, partial(_save, job, step.after, tally))
            told(job.tally, order.gone_through(job.next))
            if stop.is_set():
                return


async def rehearsed(engine: Engine, order: Order, told: Told) -> Tally:
    """Count what would be copied, and copy nothing."""
    start = {number: first for number, (first, _) in order.range.offsets.items()}
    tally = Tally()
    async with aclosing(_steps(engine, order, None).walk(start, order.limit)) as steps:
        async for step in steps:
            tally.add(_counted(step))
            told(tally, order.gone_through(step.after))
    return tally


def _steps(engine: Engine, order: Order, rate: int | None) -> Steps[Raw]:
    return Steps(engine.settings.kafka, order.range, order.only, _raw, rate)


def _counted(step: Step[Raw]) -> Tally:
    tally = Tally(skipped=step.skipped)
    tally.copied(step.meant)
    return tally


async def _save(job: Job, after: Mapping[int, int], tally: Tally) -> None:
    async with job.database.transaction() as tx:
        await job.advance(tx, after, tally)
    job.next, job.tally = dict(after), tally


async def _raw(records: Sequence[Record]) -> list[Raw]:
    return [Raw(it, _envelope(it)) for it in records]


def _envelope(record: Record) -> Envelope | None:
    try:
        return open_record(record)[0]
    except Unacceptable:
        return None
