"""Answers the questions of read models: one SELECT over named columns, as a reader who sees one tenant's rows only.

The tenant is set for the transaction, first of all in it, and row-level security does the rest. Pages follow a key, not
a count, so that they never repeat or skip a row; the cursor is signed and fits one tenant and one question only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import asyncpg as driver

from infra.errors import Unacceptable
from infra.postgres.database import BEHIND, Connection, Database
from infra.postgres.database import Row as Stored
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.folding.generations import READABLE, asked_for, readable
from infra.runtime.folding.read_models import ReadModel, read_model
from infra.runtime.messages.codec import Codec
from projections import Contains, Query, Row, Since, Until

MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100
TIMEOUT: Final = "10s"
_LIMIT, _GIVEN, _AFTER = "limit", "given ", "after "
"""How a statement's arguments are named: the parameters' own names may be anything."""
_GENERATION: Final = "_generation"
SEALED: Final = {"sealed": True}
"""What stands for a personal value that the reader may not see."""

_TYPES: Final[dict[str, Any]] = {
    "uuid": postgresql.UUID(as_uuid=True),
    "text": sa.Text(),
    "boolean": sa.Boolean(),
    "bigint": sa.BigInteger(),
    "timestamptz": sa.DateTime(timezone=True),
    "date": sa.Date(),
    "numeric": sa.Numeric(),
    "jsonb": postgresql.JSONB(),
}
_DIALECT: Final = driver.dialect()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Question:
    """One published query with the rows that it asks for."""

    model: ProjectionWiring
    name: str
    query: type[Query[Any]]
    row: type[Row]

    @property
    def read_model(self) -> ReadModel:
        """The rows as columns of their table, whichever the generation."""
        return _described(self.row, self.model.rows[self.row], 0)

    @property
    def order(self) -> tuple[tuple[str, bool], ...]:
        """The columns to sort by, each with whether it descends: the query's own, then the primary key."""
        asked = [(name.lstrip("-"), name.startswith("-")) for name in self.query.order]
        names = {name for name, _ in asked}
        return (*asked, *((name, False) for name in self.read_model.key if name not in names))


@dataclass(frozen=True, slots=True)
class Page:
    """One page of an answer."""

    items: list[dict[str, Any]]
    next: str | None
    """The cursor of the next page; `None` on the last."""
    generation: int
    """Where the rows are from."""


class Questions:
    """Asks read models."""

    def __init__(self, reader: Database, codec: Codec, master_key: bytes) -> None:
        """Read over `reader` (role of schema `read`); `codec` opens personal values."""
        self._reader = reader
        self._codec = codec
        self._read: dict[str, int] = {}
        """The generation that was last read, by the name of its view."""
        self._secret = hmac.digest(master_key, b"triplane:cursors", hashlib.sha256)

    async def ask(
        self,
        question: Question,
        parameters: Query[Any],
        *,
        tenant: str,
        limit: int,
        cursor: str | None,
        personal: bool,
    ) -> Page:
        """Answer `question` for `tenant` with at most `limit` rows; `personal` opens personal values.

        Raises `Unacceptable` for a parameter that no row can match for its very form, and for a foreign cursor; `Behind`
        while no generation has all of the columns.
        """
        given = _given(question, parameters)
        after = None if cursor is None else self._after(question, given, tenant, cursor)
        try:
            generation, rows = await self._rows(question, tenant, given, after, limit)
        except BEHIND:
            # The table that was read last is gone.
            self._read.pop(question.read_model.view, None)
            generation, rows = await self._rows(question, tenant, given, after, limit)
        items = await self._items(question, tenant, rows[:limit], personal=personal)
        more = len(rows) > limit
        following = self._cursor(question, given, tenant, rows[limit - 1]) if more else None
        return Page(items, following, generation)

    async def _rows(
        self, question: Question, tenant: str, given: dict[str, Any], after: list[Any] | None, limit: int
    ) -> tuple[int, list[Stored]]:
        """Ask the generation that was read last: with the rows comes which is to be read, so that it is hardly ever asked for alone."""
        view = question.read_model.view
        known = self._read.get(view)
        async with self._reader.reading(tenant, TIMEOUT) as tx:
            rows = [] if known is None else await _select(tx, question, known, given, after, limit)
            if known is not None and rows and rows[0][_GENERATION] == known:
                return known, rows
            generation = self._read[view] = await readable(tx, question.model, question.read_model)
            if rows or generation != known:
                rows = await _select(tx, question, generation, given, after, limit)
            return generation, rows

    async def _items(
        self, question: Question, tenant: str, rows: Sequence[Stored], *, personal: bool
    ) -> list[dict[str, Any]]:
        items = [question.read_model.to_data(row) for row in rows]
        seal = self._codec.state_seal(question.row)
        if seal is None:
            return items
        if not personal:
            return [
                {name: SEALED if name in seal.fields and it[name] is not None else it[name] for name in it}
                for it in items
            ]
        await self._codec.vault.warm({seal.subject_in(tenant, it) for it in items}, create=False)
        return [seal.open(self._codec.vault, tenant, it) for it in items]

    # -- cursors ----------------------------------------------------------------------------------------------------

    def _cursor(self, question: Question, given: dict[str, Any], tenant: str, last: Stored) -> str:
        values = to_json([last[name] for name, _ in question.order])
        return (
            urlsafe_b64encode(self._signature(question, given, tenant, values) + values).decode().rstrip("=")
        )

    def _after(self, question: Question, given: dict[str, Any], tenant: str, cursor: str) -> list[Any]:
        try:
            raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        signature, values = raw[:16], raw[16:]
        if not hmac.compare_digest(signature, self._signature(question, given, tenant, values)):
            raise Unacceptable(
                "cursor",
                "cursor: fits another question, tenant or parameters; send the one of the last answer",
            )
        types = {column.name: column.sql for column in question.read_model.columns}
        return [
            _typed(types[name], value)
            for (name, _), value in zip(question.order, json.loads(values), strict=True)
        ]

    def _signature(self, question: Question, given: dict[str, Any], tenant: str, values: bytes) -> bytes:
        kinds = {column.name: column.sql for column in question.read_model.columns}
        order = [(name, descending, kinds[name]) for name, descending in question.order]
        asked = to_json([question.model.name, question.name, tenant, given, order])
        return hmac.digest(self._secret, asked + b"\0" + values, hashlib.sha256)[:16]


async def _select(
    tx: Connection,
    question: Question,
    generation: int,
    given: dict[str, Any],
    after: list[Any] | None,
    limit: int,
) -> list[Stored]:
    """Run the SELECT on one generation; each row brings which is to be read in the very snapshot that it was read in."""
    statement, arguments = statement_of(question, generation, given, after, limit)
    number = len(arguments)
    read = READABLE.format(f"${number + 1}", f"${number + 2}")
    return await tx.fetch(
        f"SELECT ({read}) AS {_GENERATION}, {statement.removeprefix('SELECT ')}",
        *arguments,
        question.model.projection.name,
        asked_for(question.read_model),
    )


def statement_of(
    question: Question, generation: int, given: dict[str, Any], after: list[Any] | None, limit: int
) -> tuple[str, list[Any]]:
    """Give the SELECT that answers a question from a generation, and its arguments: one row more than `limit` shows that there is more."""
    empty = None if after is None else tuple(value is None for value in after)
    statement, names = _compiled(
        question.query,
        _described(question.row, question.read_model.view, generation),
        question.order,
        tuple(given),
        empty,
    )
    values: dict[str, Any] = {_LIMIT: limit + 1}
    for name, value in given.items():
        many = any(isinstance(mark, Contains) for mark in question.query.model_fields[name].metadata)
        values[_GIVEN + name] = json.dumps([value]) if many else value
    for (name, _), value in zip(question.order, after or (), strict=after is not None):
        values[_AFTER + name] = value
    return statement, [values[name] for name in names]


def _given(question: Question, parameters: Query[Any]) -> dict[str, Any]:
    """Give the parameters that filter, in their order; refuse what the database could not even compare."""
    given: dict[str, Any] = {}
    for name in question.query.model_fields:
        value = getattr(parameters, name)
        if value is None:
            continue
        if isinstance(value, datetime) and value.tzinfo is None:
            raise Unacceptable("invalid_field", f"{name}: has no zone; send one such as 2026-05-04T12:30:00Z")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise Unacceptable("invalid_field", f"{name}: out of range; send a number of at most 63 bits")
        if isinstance(value, str) and "\0" in value:
            raise Unacceptable("nul_character", f"{name}: holds the character U+0000; send it without")
        given[name] = value
    return given


@cache
def _described(row: type[Row], view: str, generation: int) -> ReadModel:
    return read_model(row, view, generation)


@cache
def _table(model: ReadModel) -> sa.TableClause:
    columns = [
        sa.column(column.name, sa.Text() if column.personal else _TYPES[column.sql])
        for column in model.columns
    ]
    return sa.table(model.table, *columns, schema="projections")


@lru_cache(maxsize=1_000)
def _compiled(
    query: type[Query[Any]],
    model: ReadModel,
    order: tuple[tuple[str, bool], ...],
    given: tuple[str, ...],
    empty: tuple[bool, ...] | None,
) -> tuple[str, tuple[str, ...]]:
    """Write the SELECT for a query with the parameters `given`, and name its arguments; once for each set of them.

    With `empty`, what comes after a row: which values of its order are empty there.
    """
    table = _table(model)
    statement = sa.select(*table.columns).limit(sa.bindparam(_LIMIT, type_=sa.BigInteger()))
    for name in given:
        statement = statement.where(_condition(table, query, name))
    if empty is not None:
        statement = statement.where(_beyond(table, order, empty))
    statement = statement.order_by(
        *(table.c[name].desc() if descending else table.c[name].asc() for name, descending in order)
    )
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return str(compiled), tuple(compiled.positiontup or ())


def _condition(table: sa.TableClause, query: type[Query[Any]], name: str) -> sa.ColumnElement[bool]:
    for mark in query.model_fields[name].metadata:
        match mark:
            case Since(column):
                return table.c[column] >= _argument(table, column, _GIVEN + name)
            case Until(column):
                return table.c[column] < _argument(table, column, _GIVEN + name)
            case Contains(column):
                return table.c[column].contains(_argument(table, column, _GIVEN + name))
            case _:
                pass
    return table.c[name] == _argument(table, name, _GIVEN + name)


def _beyond(
    table: sa.TableClause, order: tuple[tuple[str, bool], ...], empty: tuple[bool, ...]
) -> sa.ColumnElement[bool]:
    """Say which rows come after the given one; an empty value is the greatest, as PostgreSQL sorts it."""
    alternatives: list[sa.ColumnElement[bool]] = []
    equal: list[sa.ColumnElement[bool]] = []
    for (name, descending), is_empty in zip(order, empty, strict=True):
        column = table.c[name]
        value = _argument(table, name, _AFTER + name)
        further: sa.ColumnElement[bool]
        if is_empty:
            further = column.is_not(None) if descending else sa.false()
        else:
            further = column < value if descending else sa.or_(column > value, column.is_(None))
        alternatives.append(sa.and_(*equal, further))
        equal.append(column.is_(None) if is_empty else column == value)
    return sa.or_(*alternatives)


def _argument(table: sa.TableClause, column: str, name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=table.c[column].type)


def _typed(sql: str, value: Any) -> Any:
    if value is None:
        return None
    match sql:
        case "uuid":
            return UUID(value)
        case "timestamptz":
            return datetime.fromisoformat(value).astimezone(UTC)
        case "date":
            return datetime.fromisoformat(value).date()
        case "numeric":
            return Decimal(value)
        case _:
            return value
