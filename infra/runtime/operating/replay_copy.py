"""Copies a range to a topic of another environment: bytes, keys and headers as they are, each key in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from infra.errors import Unacceptable
from infra.kafka.admin import Admin, Topic
from infra.kafka.copier import Copier
from infra.kafka.record import Record
from infra.runtime.catalog import Catalog
from infra.runtime.messages.envelope import Envelope, open_record
from infra.runtime.operating.replay_range import Range, ReplayRefused
from infra.runtime.operating.replay_steps import Only, Steps


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as it is, with its envelope where it can be read."""

    record: Record
    envelope: Envelope | None


@dataclass(slots=True)
class Copy:
    """How far a copy has come."""

    next: dict[int, int]
    copied: int = 0
    skipped: int = 0
    done: bool = False

    @classmethod
    def of(cls, wanted: Range) -> Copy:
        """Give the beginning of a copy of a range."""
        return cls({number: first for number, (first, _) in wanted.offsets.items()})


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


async def copied(
    bootstrap: str,
    wanted: Range,
    copier: Copier,
    only: Only,
    limit: int | None,
    rate: int | None,
    copy: Copy,
    stop: asyncio.Event,
    told: Callable[[], None],
) -> None:
    """Go on with `copy`, until the end of the range or until `stop` is set; `told` is called after each step."""
    async with aclosing(Steps(bootstrap, wanted, only, _raw, rate).walk(copy.next, limit)) as steps:
        async for step in steps:
            await copier.write([it.record for it in step.meant], wanted.topic.partitions)
            copy.next = dict(step.after)
            copy.copied += len(step.meant)
            copy.skipped += step.skipped
            told()
            if stop.is_set():
                return
    copy.done = True


async def _raw(records: Sequence[Record]) -> list[Raw]:
    return [Raw(it, _envelope(it)) for it in records]


def _envelope(record: Record) -> Envelope | None:
    try:
        return open_record(record)[0]
    except Unacceptable:
        return None
