"""What a replay is to go through: bounds become offsets of each partition, and whatever must not be replayed is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from infra.errors import TriplaneError
from infra.kafka.admin import Admin, Topic
from infra.kafka.record import Place
from infra.runtime.consuming.batch import Batcher
from infra.runtime.messages.ids import INBOX_DAYS

MOST: Final = 10_000_000
"""How many records a replay without a limit may go through."""

Bound = int | datetime | None
"""An offset, the same in every partition; or an append time; or none."""


class ReplayRefused(TriplaneError):
    """A guard said no; nothing was changed."""


class WrongCall(TriplaneError):
    """What was asked for does not exist, or lacks something."""


@dataclass(frozen=True, slots=True)
class Range:
    """Offsets of one topic, each partition from one and before another."""

    topic: Topic
    offsets: Mapping[int, tuple[int, int]]
    notes: tuple[str, ...] = ()
    """What whoever asked for it should know."""

    @property
    def places(self) -> dict[Place, tuple[int, int]]:
        """The offsets by place."""
        return {(self.topic.name, partition): bounds for partition, bounds in self.offsets.items()}

    @property
    def records(self) -> int:
        """How many offsets it spans: as many records, but for the markers of transactions."""
        return sum(until - first for first, until in self.offsets.values())


async def resolved(
    admin: Admin, topic_name: str, start: Bound, end: Bound, partition: int | None = None
) -> Range:
    """Turn bounds into offsets of each partition (or of one `partition`) of a topic.

    Raises `ReplayRefused` for what lies in the future, beyond the log's end in every partition, or before its first record;
    `WrongCall` for no partition, and for a range that ends before it begins. From the end itself on, a range is empty.
    """
    now = datetime.now(UTC)
    for bound in (start, end):
        if isinstance(bound, datetime) and bound > now:
            raise ReplayRefused(f"{bound.isoformat()} is in the future; it is {now:%Y-%m-%dT%H:%M:%SZ}")
    topics = await admin.topics([topic_name])
    if topic_name not in topics:
        raise ReplayRefused(f"the broker has no topic {topic_name}; run: triplane migrate")
    topic = topics[topic_name]
    if partition is not None and partition >= topic.partitions:
        raise WrongCall(f"{topic_name} has no partition {partition}; its {topic.partitions} count from 0")
    first = await admin.offsets([topic], end=False)
    ends = await admin.offsets([topic], end=True)
    starts = await _offsets(admin, topic, start, first)
    untils = await _offsets(admin, topic, end, ends)
    offsets: dict[int, tuple[int, int]] = {}
    notes: list[str] = []
    numbers = range(topic.partitions) if partition is None else [partition]
    for number in numbers:
        place = (topic.name, number)
        if starts[place] < first[place]:
            raise ReplayRefused(
                f"{topic_name}/{number} has nothing before offset {first[place]}, the first available: begin there, or "
                "leave --from out to begin at each partition's first"
            )
        if isinstance(start, datetime) and 0 < first[place] == starts[place] < untils[place]:
            notes.append(
                f"partition {number}: the log begins at offset {first[place]}; what was before is gone"
            )
        if untils[place] > ends[place]:
            notes.append(
                f"partition {number}: ends before offset {ends[place]}, not {untils[place]}: the log ends there"
            )
        until = min(untils[place], ends[place])
        offsets[number] = (min(starts[place], until), until)
    wanted = Range(topic, offsets, tuple(notes))
    backwards = any(starts[it] > untils[it] for it in wanted.places)
    if backwards and not wanted.records and None not in {start, end}:
        raise WrongCall(f"--from {start} is after --until {end}: no partition has anything between them")
    _check_there(start, {number: ends[topic.name, number] for number in numbers}, topic_name)
    return wanted


def _check_there(start: Bound, ends: Mapping[int, int], topic_name: str) -> None:
    if isinstance(start, int) and all(start > end for end in ends.values()):
        every = ", ".join(f"{number} before {end}" for number, end in ends.items())
        raise ReplayRefused(
            f"--from {start} is beyond the end of {topic_name}, which ends in partition {every}"
        )


async def _offsets(admin: Admin, topic: Topic, bound: Bound, default: dict[Place, int]) -> dict[Place, int]:
    if bound is None:
        return default
    if isinstance(bound, datetime):
        return await admin.offsets_at([topic], _ms(bound))
    return dict.fromkeys(default, bound)


def _ms(at: datetime) -> int:
    """Give milliseconds since the epoch; to the broker a negative number would mean something else."""
    return max(0, int(at.timestamp() * 1000))


async def reached(batcher: Batcher, asked: Range) -> Range:
    """End a range where the consumer itself stands: what it has not reached it will get without a replay."""
    rows = await batcher.database.fetch(
        "SELECT topic_id, partition, next_offset FROM checkpoints WHERE consumer = $1 AND generation = $2 AND topic = $3",
        *batcher.scope,
        asked.topic.name,
    )
    stands = {row["partition"]: row["next_offset"] for row in rows if row["topic_id"] == asked.topic.id}
    missing = asked.offsets.keys() - stands.keys()
    if missing:
        raise ReplayRefused(
            f"{batcher.wiring.name} is not registered for {asked.topic.name}/{min(missing)} (or for a topic of that name that "
            "was made anew); run: triplane migrate"
        )
    notes = list(asked.notes)
    offsets: dict[int, tuple[int, int]] = {}
    for number, (first, until) in asked.offsets.items():
        if stands[number] < until:
            notes.append(
                f"partition {number}: ends before offset {stands[number]}, not {until}: {batcher.wiring.name} stands there "
                "and gets the rest by itself"
            )
        offsets[number] = (min(first, stands[number]), min(until, stands[number]))
    return Range(asked.topic, offsets, tuple(notes))


def kept_since() -> datetime:
    """Give the time since which every applied message is known; a day is left for a replay that takes long."""
    return datetime.now(UTC) - timedelta(days=INBOX_DAYS - 1)


async def check_kept(admin: Admin, asked: Range, remedy: str) -> None:
    """Refuse a range that begins before what the inbox knows: nobody could say what of it was applied."""
    since = kept_since()
    known = await admin.offsets_at([asked.topic], _ms(since))
    for number, (first, until) in asked.offsets.items():
        place = (asked.topic.name, number)
        if first < min(until, known[place]):
            raise ReplayRefused(
                f"{asked.topic.name}/{number} before offset {known[place]} is older than what the inbox keeps ({INBOX_DAYS} "
                f"days): nobody knows what of it was applied. Begin at {since:%Y-%m-%dT%H:%M:%SZ} or later, or {remedy}"
            )


def check_size(asked: Range, limit: int | None) -> None:
    """Refuse a range that is meant by mistake, more likely than not."""
    if limit is None and asked.records > MOST:
        raise ReplayRefused(
            f"{asked.records:,} records are more than {MOST:,}: narrow the range or say --limit"
        )
