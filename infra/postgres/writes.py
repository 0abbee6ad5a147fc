"""What a transaction writes, gathered and sent together: little in one statement, much by COPY.

Each statement is a round trip, which on a busy machine costs more than what it does; but of many rows, COPY takes twice as
many in the same time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from asyncpg import UniqueViolationError

from infra.postgres.database import Connection

FEW: Final = 64
"""So many rows of a table at most go in the statement; more go by COPY."""
_PARAMETER: Final = re.compile(r"\$(\d+)")
Refusal = Callable[[UniqueViolationError], Exception]
"""Says what it means that something is there already."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where rows are inserted: its columns, in the order of a row's values, each with its SQL type."""

    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(name for name, _ in self.columns)

    @property
    def insert(self) -> str:
        """The statement that inserts rows given as one array a column."""
        names = ", ".join(f'"{name}"' for name in self.names)
        arrays = ", ".join(f"${index}::{sql}[]" for index, (_, sql) in enumerate(self.columns, 1))
        return f'INSERT INTO "{self.name}" ({names}) SELECT * FROM unnest({arrays})'


class Writes:
    """The writes of one transaction, until they are sent; rows are inserted after all that was gathered before them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._gathered: list[tuple[Table | str, Sequence[Any]]] = []
        self._refusals: dict[str, Refusal] = {}

    def insert(self, table: Table, rows: Sequence[tuple[Any, ...]], taken: Refusal | None = None) -> None:
        """Insert rows; where one of them is there already, what `taken` gives is raised."""
        if not rows:
            return
        if taken is not None:
            self._refusals[table.name] = taken
        self._gathered.append((table, rows))

    def add(self, statement: str, *arguments: object) -> None:
        """Run a statement that changes rows and returns nothing; its parameters are numbered from 1."""
        self._gathered.append((statement, arguments))

    async def send(self, tx: Connection) -> None:
        """Write everything that was gathered since the last time."""
        gathered, self._gathered = self._gathered, []
        try:
            for many, run in groupby(gathered, _many):
                send = _copy if many else _execute
                await send(tx, run)
        except UniqueViolationError as taken:
            refusal = self._refusals.get(taken.table_name or "")
            if refusal is None:
                raise
            raise refusal(taken) from taken


def _many(gathered: tuple[Table | str, Sequence[Any]]) -> bool:
    return isinstance(gathered[0], Table) and len(gathered[1]) > FEW


async def _copy(tx: Connection, run: Iterable[Any]) -> None:
    for table, rows in run:
        await tx.copy_records_to_table(table.name, records=rows, columns=table.names)


async def _execute(tx: Connection, run: Iterable[Any]) -> None:
    statements: list[Table | str] = []
    arguments: list[object] = []
    for what, given in run:
        statements.append(what)
        arguments += arrays(given) if isinstance(what, Table) else given
    await tx.execute(_together(tuple(statements)), *arguments)


def arrays(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Turn rows into columns, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


@lru_cache(maxsize=1_000)
def _together(statements: tuple[Table | str, ...]) -> str:
    """Make one statement of several, their parameters numbered on; each insert waits for what comes before it.

    By themselves, the parts of a WITH that change rows run in any order.
    """
    parts: list[str] = []
    before: list[str] = []
    known = 0
    for index, it in enumerate(statements):
        if isinstance(it, Table):
            statement = it.insert + (f" WHERE {' AND '.join(before)}" if before else "")
            before.clear()
        else:
            statement = it
        before.append(f"(SELECT count(*) FROM w{index}) >= 0")
        text = _PARAMETER.sub(lambda found, known=known: f"${int(found[1]) + known}", statement)  # type: ignore[misc]
        parts.append(f"w{index} AS ({text} RETURNING 1)")
        known += max(map(int, _PARAMETER.findall(statement)), default=0)
    return f"WITH {', '.join(parts)} SELECT"
