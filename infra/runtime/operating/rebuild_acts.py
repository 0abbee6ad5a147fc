"""Who rebuilds a read model or goes back, what they hear of it, and what is kept of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from events import Event
from infra.runtime.engine import Engine
from infra.runtime.operating import acts
from infra.runtime.operating.diffing import TableDiff


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is; events are records of the topics, whether the model folds them or not."""

    step: str
    done: int
    total: int
    rate: float
    """Events a second, since this process began."""

    @property
    def lag(self) -> int:
        """How many events are left."""
        return max(0, self.total - self.done)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who rebuilds, and what they want to hear and be asked."""

    who: str
    why: str
    tell: Callable[[Progress], None]
    agree: Callable[[Sequence[TableDiff]], Awaitable[bool]]
    """Whether to switch, given what differs."""


async def record(engine: Engine, act: Event, asker: Asker) -> None:
    """Keep and publish an act of the whole installation."""
    await acts.record(
        engine.databases["operations"],
        engine.codec,
        act,
        tenant=acts.INSTALLATION,
        who=asker.who,
        why=asker.why,
    )
