"""The generations of a read model: one serves, one may be built beside it, one may stand by to go back to.

What they were built from is compared with the code of this process: a generation may be behind it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import psutil

from infra.errors import TriplaneError
from infra.postgres.database import Connection, Row
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.folding.fingerprints import code, kinds, shape
from infra.runtime.folding.read_models import ReadModel
from infra.runtime.folding.tables import make_tables
from projections import Row as ModelRow

Standing = Literal["building", "active", "standby", "retired"]
MIXED: Final = 0
"""The code of a generation that more than one code has folded: no code's digest."""
UNFIT: Final = "rows of another shape than the code of this process"
LATER: Final = "is built by other functions than this process has"
"""Parts of what a process shows of a generation that it does not fold."""

SELECT: Final = """SELECT projection, generation, shape, code, standing, candidate, views::text AS views, switched_at, builder, operator,
    host, pid, building_since, coalesce(expires_at < now(), true) AS expired FROM projections.generations"""

READABLE: Final = """SELECT generation FROM projections.generations
    WHERE projection = {} AND columns @> {}::jsonb AND views IS NOT NULL AND standing <> 'building'
    ORDER BY array_position(ARRAY['active', 'standby', 'retired'], standing), switched_at DESC LIMIT 1"""
"""Which generation a process reads, given the model's name and what its code asks for (`asked_for`): the one that serves, or
while that has lost or retyped a column, the last one before that is still kept."""

RELEASE: Final = """INSERT INTO projections.releases AS known (projection, code, generation)
    SELECT $1, $2, coalesce(max(generation), 0) FROM projections.generations WHERE projection = $1
    ON CONFLICT (projection, code) DO UPDATE SET generation = {}.generation RETURNING generation"""
"""Keeps when code was deployed: {} is what was `known` of it before, or what is there by now (`excluded`)."""


class Behind(TriplaneError):
    """No rows that are kept have what is asked for; the text says what those that serve lack, and the remedy."""


class Executes(Protocol):
    """A pool or a connection."""

    async def execute(self, query: str, /, *arguments: object) -> str:
        """Run one statement and give its status."""
        ...


class Fetches(Protocol):
    """A pool or a connection."""

    async def fetch(self, query: str, /, *arguments: object) -> list[Row]:
        """Run one statement and give its rows."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """Who builds a generation."""

    builder: UUID
    operator: str
    host: str
    pid: int
    since: datetime
    expired: bool

    @property
    def holder(self) -> str:
        """How operators name it."""
        return f"{self.operator} on {self.host} (process {self.pid})"

    @property
    def left(self) -> bool:
        """Whether nobody builds under it any more: it has expired, or its process is gone from this very machine."""
        return self.expired or (self.host == socket.gethostname() and not psutil.pid_exists(self.pid))


@dataclass(frozen=True, slots=True)
class Generation:
    """One build of a read model."""

    number: int
    shape: int
    code: int | None
    standing: Standing
    candidate: bool
    """Whether it is compared and waits for its switch, though still `building`: workers fold it already."""
    views: Mapping[str, str | None]
    """The view that shows each of its tables, by the name that tables and views have in common; none before it serves."""
    switched_at: datetime | None
    lease: Lease | None

    @property
    def live(self) -> bool:
        """Whether workers fold it."""
        return self.candidate or self.standing in {"active", "standby"}

    @property
    def shown(self) -> dict[str, str]:
        """The views that show its tables; none before it serves."""
        return {base: view for base, view in self.views.items() if view is not None}

    def fits(self, wiring: ProjectionWiring) -> bool:
        """Whether this process can read and write its rows."""
        return self.shape == shape(wiring)

    def current(self, wiring: ProjectionWiring) -> bool:
        """Whether it is built from the very code of this process."""
        return self.fits(wiring) and self.code == code(wiring)


def behind(wiring: ProjectionWiring, active: Generation) -> str | None:
    """Say that the serving generation is behind the code of this process, with the remedy; `None` when it is not."""
    if active.current(wiring):
        return None
    model = wiring.projection.name
    stopped = (
        ""
        if active.fits(wiring)
        else ", whose rows have another shape, so only processes of the code that built it fold it"
    )
    return f"generation {active.number} is behind its code{stopped}; run: triplane rebuild {model}"


def unfit(wiring: ProjectionWiring, generation: Generation) -> str:
    """Say why a process does not fold a generation whose rows have another shape: it may be the process that is behind."""
    return (
        f"generation {generation.number} has {UNFIT}: start it again with the release that built them; "
        f"if this is the newer, run: triplane rebuild {wiring.projection.name}"
    )


def later(wiring: ProjectionWiring, generation: Generation) -> str:
    """Say why a process does not fold a generation that was built after its own code was deployed."""
    return (
        f"generation {generation.number} {LATER}: start it again with the release that built it; "
        f"if this is the one to go on with, run: triplane rebuild {wiring.projection.name}"
    )


def asked_for(rows: ReadModel) -> str:
    """Give the columns that this code reads of a row class, as JSON."""
    return _asked_for(rows.row, rows.view)


@cache
def _asked_for(row: type[ModelRow], view: str) -> str:
    return json.dumps({view: kinds(row, view)})


async def readable(database: Fetches, wiring: ProjectionWiring, rows: ReadModel) -> int:
    """Give the generation that this code reads `rows` from; raise `Behind` when none has all its columns."""
    model = wiring.projection.name
    found = await database.fetch(READABLE.format("$1", "$2"), model, asked_for(rows))
    if found:
        number: int = found[0]["generation"]
        return number
    serves = await database.fetch(
        "SELECT columns ->> $2 AS columns FROM projections.generations WHERE projection = $1 AND standing = 'active'",
        model,
        rows.view,
    )
    stored: dict[str, str] = json.loads(serves[0]["columns"] or "{}") if serves else {}
    lacking = [name for name, kind in kinds(rows.row, rows.view).items() if stored.get(name) != kind]
    if not lacking:
        # What has all of them was switched to in between.
        return await readable(database, wiring, rows)
    raise Behind(
        f"{model}: the rows that serve were built by other code (they lack {', '.join(lacking)}); "
        f"if this is the newer, run: triplane rebuild {model}; if not, start this process again with the newer"
    )


async def generations(database: Fetches, wiring: ProjectionWiring) -> list[Generation]:
    """Give the generations of a read model, the oldest first."""
    rows = await database.fetch(f"{SELECT} WHERE projection = $1 ORDER BY generation", wiring.projection.name)
    return [generation_of(row) for row in rows]


async def locked(tx: Connection, wiring: ProjectionWiring) -> list[Generation]:
    """Give them, and let nobody else change them until `tx` ends; readers and workers are not held up."""
    rows = await tx.fetch(
        f"{SELECT} WHERE projection = $1 ORDER BY generation FOR UPDATE", wiring.projection.name
    )
    return [generation_of(row) for row in rows]


def generation_of(row: Row) -> Generation:
    """Read a row of `SELECT`."""
    lease = None
    if row["builder"] is not None:
        lease = Lease(
            row["builder"], row["operator"], row["host"], row["pid"], row["building_since"], row["expired"]
        )
    views: dict[str, Any] = json.loads(row["views"] or "{}")
    return Generation(
        row["generation"],
        row["shape"],
        row["code"],
        row["standing"],
        row["candidate"],
        views,
        row["switched_at"],
        lease,
    )


def serving(wiring: ProjectionWiring, known: list[Generation]) -> Generation:
    """Give the active one of `known`, whose rows readers see; raise `TriplaneError` before the first migration."""
    for it in known:
        if it.standing == "active":
            return it
    raise TriplaneError(f"{wiring.name}: has no tables yet; run: triplane migrate")


def of_standing(known: list[Generation], standing: Standing) -> Generation | None:
    """Give the one generation that is being built, or stands by."""
    return next((it for it in known if it.standing == standing), None)


def columns_json(wiring: ProjectionWiring) -> str:
    """Describe the columns of all row classes by table, as JSON: what readers of other code compare theirs with."""
    return json.dumps({view: kinds(row, view) for row, view in wiring.rows.items()})


async def make(tx: Connection, wiring: ProjectionWiring, known: list[Generation], standing: Standing) -> int:
    """Make the empty tables of a generation from the code of this process; give its number."""
    number = 1 + max((it.number for it in known), default=0)
    await make_tables(tx, wiring, number)
    await tx.execute(
        """INSERT INTO projections.generations (projection, generation, shape, code, standing, views, columns)
           VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb)""",
        wiring.projection.name,
        number,
        shape(wiring),
        code(wiring),
        standing,
        json.dumps(dict.fromkeys(wiring.rows.values())),
        columns_json(wiring),
    )
    return number


async def mix(database: Executes, wiring: ProjectionWiring, number: int) -> None:
    """Note that other functions than those that have built a generation fold it from now on: it is behind every code."""
    await database.execute(
        "UPDATE projections.generations SET code = $3 WHERE projection = $1 AND generation = $2 AND code <> $4",
        wiring.projection.name,
        number,
        MIXED,
        code(wiring),
    )


async def release(tx: Connection, wiring: ProjectionWiring) -> None:
    """Note that the code of this process is deployed now: what other code has built so far, it may fold, and is to replace."""
    await tx.execute(RELEASE.format("excluded"), wiring.projection.name, code(wiring))


async def released(database: Fetches, wiring: ProjectionWiring) -> int:
    """Give the latest generation that was there when the code of this process was deployed: a later one may be of later code."""
    rows = await database.fetch(RELEASE.format("known"), wiring.projection.name, code(wiring))
    number: int = rows[0]["generation"]
    return number


async def stand(
    tx: Connection,
    wiring: ProjectionWiring,
    number: int,
    standing: Standing,
    views: Mapping[str, str] | None = None,
) -> None:
    """Change the standing of a generation, from now on; `views` show it, where that changes too."""
    await tx.execute(
        """UPDATE projections.generations SET standing = $3, switched_at = now(), views = coalesce($4::jsonb, views),
             candidate = false, builder = NULL, expires_at = NULL WHERE projection = $1 AND generation = $2""",
        wiring.projection.name,
        number,
        standing,
        None if views is None else json.dumps(views),
    )
