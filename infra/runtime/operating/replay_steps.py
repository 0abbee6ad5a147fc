"""Walks through the records of a range step by step: chooses what is meant, and keeps to a rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from infra.kafka.range import RangeReader
from infra.kafka.record import Record
from infra.runtime.messages.codec import Incoming
from infra.runtime.messages.envelope import Envelope
from infra.runtime.operating.replay_range import Range

BATCH: Final = 1_000


class Opened(Protocol):
    """A record, with its envelope where it can be read."""

    @property
    def record(self) -> Record:
        """Give it byte by byte, with its place in the log."""
        ...

    @property
    def envelope(self) -> Envelope | None:
        """Give what it says of its message, as far as that can be read."""
        ...


O = TypeVar("O", bound=Opened)  # noqa: E741 - an opened record


@dataclass(frozen=True, slots=True)
class Only:
    """Which messages of the range are meant; `None` means all."""

    key: str | None = None
    type: str | None = None
    tenant: str | None = None

    def means(self, it: Opened) -> bool:
        """Whether a message is meant; the body says what its key is, or else the record."""
        key = it.key if isinstance(it, Incoming) else (it.record.key or b"").decode("utf-8", "replace")
        envelope = it.envelope
        return (
            self.key in {None, key}
            and self.type in {None, envelope and envelope.type}
            and self.tenant in {None, envelope and envelope.tenant}
        )


@dataclass(frozen=True, slots=True)
class Step(Generic[O]):
    """Some records of the range, and what of them is meant."""

    records: Sequence[Record]
    meant: Sequence[O]
    after: Mapping[int, int]
    """Where each partition stands behind them."""

    @property
    def skipped(self) -> int:
        """How many records are not meant, or nothing to whoever opened them."""
        return len(self.records) - len(self.meant)


class Steps(Generic[O]):
    """The way through one range."""

    def __init__(
        self,
        bootstrap: str,
        wanted: Range,
        only: Only,
        opened: Callable[[Sequence[Record]], Awaitable[Sequence[O]]],
        rate: int | None = None,
    ) -> None:
        """Read from the cluster at `bootstrap`; give at most `rate` messages a second, if that is said."""
        self._bootstrap = bootstrap
        self._range = wanted
        self._only = only
        self._opened = opened
        self._rate = rate

    async def walk(self, start: Mapping[int, int], left: int | None) -> AsyncGenerator[Step[O]]:
        """Give step after step from `start` on, until the end of the range or until no message is `left` of a limit."""
        bounds = self._range.offsets
        ranges = {(self._range.topic.name, it): (start[it], until) for it, (_, until) in bounds.items()}
        size = BATCH if self._rate is None else min(BATCH, self._rate)
        reader = RangeReader(self._bootstrap, ranges)
        after = dict(start)
        due = time.monotonic()
        await reader.start()
        try:
            while left is None or left > 0:
                records: Sequence[Record] = await reader.take(size)
                if not records:
                    # Behind the last record of a partition there may be markers of transactions.
                    yield Step([], [], {number: until for number, (_, until) in bounds.items()})
                    return
                meant = [it for it in await self._opened(records) if self._only.means(it)]
                if left is not None:
                    meant = meant[:left]
                    left -= len(meant)
                    if left == 0:
                        records = _up_to(records, meant[-1].record)
                after = after | {it.partition: it.offset + 1 for it in records}
                yield Step(records, meant, after)
                if self._rate is not None:
                    due = max(due, time.monotonic() - 1) + len(meant) / self._rate
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await reader.stop()


def _up_to(records: Sequence[Record], last: Record) -> Sequence[Record]:
    return records[: next(number for number, it in enumerate(records, 1) if it is last)]
