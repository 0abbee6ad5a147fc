"""A record as the broker has it, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

Place = tuple[str, int]
"""A topic and a partition."""

Spot = tuple[str, int, int]
"""One record: topic, partition, offset."""

Header = tuple[str, bytes | None]
"""A null value is what some clients send for an empty one."""


@dataclass(slots=True)
class Record:
    """A Kafka record as it was read: bytes, place and the broker's append time (ms since the epoch)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]

    @property
    def place(self) -> Place:
        """The topic and partition that it lies in."""
        return self.topic, self.partition

    @property
    def spot(self) -> Spot:
        """The topic, partition and offset at which it lies."""
        return self.topic, self.partition, self.offset

    @property
    def inbound(self) -> bool:
        """Whether the record comes from outside: untrusted, any partition."""
        return self.topic.endswith(".inbound")

    @property
    def type(self) -> bytes | None:
        """The message's type as far as one look at the headers tells."""
        for name, value in self.headers:
            if name == "ce_type":
                return value
        return None

    @property
    def at(self) -> datetime:
        """When the broker appended it (UTC)."""
        return datetime.fromtimestamp(self.timestamp / 1000, UTC)
