"""What ours is compared to: each baseline is a process of its own, that starts its clock when it is ready to work.

Connected, with its statements prepared and its partitions assigned it calls `job.begin()`; from then on every event
counts until the last commit, as it does for ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.settings import Settings
from tests.benchmarks.harness import Contestant, Run, agree
from tests.benchmarks.load import Load
from tests.benchmarks.meter import Marks
from tests.benchmarks.site import Site

__all__ = ["Baseline", "Job", "Marks", "consumer_of"]


@dataclass
class Job:
    """What a baseline has to do, and how far it came."""

    topic: str
    begin_at: dict[int, int]
    """The offset of the first record, by partition."""
    events: int
    """How many of them; where it stops is its own choice."""
    total: int
    """How many there are in all."""
    group: str
    next: dict[int, int] = field(default_factory=dict[int, int])
    """Where it stands, by partition: what the answer is checked against."""
    began: float = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self.next = dict(self.begin_at)
        self.began = time.monotonic()

    def end(self, done: int) -> Marks:
        """Stop the clock, after the last commit."""
        return Marks(self.began, time.monotonic(), done)


Work = Callable[[Job], Awaitable[Marks]]


class Baseline(Contestant):
    """One baseline as a contestant."""

    def __init__(
        self,
        site: Site,
        case: str,
        name: str,
        load: Load,
        *,
        events: int,
        reset: Callable[[], Awaitable[None]],
        check: Callable[[Mapping[int, int]], Awaitable[None]],
    ) -> None:
        """Run `name` of `case` on the first `events` records; `check` is told where it stopped."""
        self.name = name
        self._site = site
        self._case = case
        self._load = load
        self._events = min(events, load.size)
        self._reset = reset
        self._check = check
        self._stopped: dict[int, int] = {}

    async def reset(self) -> None:
        """Empty its tables."""
        await self._reset()
        await self._site.sql("CHECKPOINT")

    async def run(self) -> Run:
        """Run the process to its end."""
        job = Job(self._load.topic, dict(self._load.begin), self._events, self._load.size, str(uuid4()))
        async with (
            self._site.process("tests.benchmarks.process", self._case, self.name, spoken=True) as process,
            self._site.metered(process.pid) as meter,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            answered = await process.stdout.readline()
        agree(f"{self.name}: has answered (if not, see its log)", bool(answered), expected=True)
        answer = json.loads(answered)
        self._stopped = {int(partition): offset for partition, offset in answer["next"].items()}
        marks = Marks(**answer["marks"])
        agree(f"{self.name}: events", marks.events, self._events)
        return meter.run(marks)

    async def verify(self) -> None:
        """Check its tables against what it says it has read."""
        await self._check(self._stopped)


async def consumer_of(job: Job) -> Any:
    """Give a plain consumer that stands before the first record, connected and with all partitions assigned."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=Settings.load().kafka,
        group_id=job.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    await consumer.start()
    places = {TopicPartition(job.topic, partition): offset for partition, offset in job.begin_at.items()}
    consumer.assign(list(places))
    for place, offset in places.items():
        consumer.seek(place, offset)
    return consumer
