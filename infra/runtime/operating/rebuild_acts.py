"""Who rebuilds a read model or goes back, what they hear of it, and what is kept of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from events import Event
from infra.errors import Refused, TriplaneError
from infra.postgres.database import TRANSIENT, Connection
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.engine import Engine
from infra.runtime.folding.generations import Generation, of_standing
from infra.runtime.operating import acts
from infra.runtime.operating.diffing import TableDiff

WRONG: tuple[type[BaseException], ...] = (TriplaneError, *TRANSIENT)
"""What may end one try, and leaves everything to go on from."""
_AS_PROJECTIONS: Final = "SET LOCAL ROLE triplane_projections; SET LOCAL search_path = projections"
_AS_OPERATIONS: Final = "SET LOCAL ROLE NONE; SET LOCAL search_path = operations"


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
class Compared:
    """What a switch would change."""

    serving: int
    """The generation that serves so far."""
    superfluous: bool
    """Whether that is built from this very code."""
    gives_up: int | None
    """The generation that stands by so far, to go back to, and is not kept up to date after a switch."""
    tables: Sequence[TableDiff]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who rebuilds, and what they want to hear and be asked."""

    who: str
    why: str
    tell: Callable[[Progress], None]
    agree: Callable[[Compared], Awaitable[bool]]
    """Whether to switch."""


def half_built(wiring: ProjectionWiring, known: list[Generation]) -> Generation | None:
    """Give the generation that somebody has left half-built, if there is one; raise `Refused` while they are at it."""
    building = of_standing(known, "building")
    if building is not None and building.lease is not None and not building.lease.left:
        since = building.lease.since.strftime("%H:%M:%S UTC")
        raise Refused(
            f"{building.lease.holder} is rebuilding {wiring.projection.name} since {since}: "
            "wait for it, or stop it there with Ctrl-C"
        )
    return building


@asynccontextmanager
async def acting(engine: Engine) -> AsyncGenerator[Connection]:
    """Give a transaction of schema `projections` in which acts can be recorded: what is done and its act are one commit."""
    async with engine.databases["operations"].transaction() as tx:
        await tx.execute(_AS_PROJECTIONS)
        yield tx


async def record(tx: Connection, engine: Engine, act: Event, asker: Asker) -> None:
    """Keep and publish an act of the whole installation, in a transaction of `acting`."""
    await tx.execute(_AS_OPERATIONS)
    await acts.write(tx, engine.codec, act, tenant=acts.INSTALLATION, who=asker.who, why=asker.why)
    await tx.execute(_AS_PROJECTIONS)
