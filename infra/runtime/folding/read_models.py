"""The tables of a read model: one a row class and generation, written by the engine, read through views in `read`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal, cast, get_args, get_origin
from uuid import UUID

from pydantic import TypeAdapter

from events import KeyMark, PersonalMark, marked
from infra.errors import WiringError
from infra.postgres.database import Connection
from infra.postgres.database import Row as Stored
from infra.postgres.writes import Table, Writes, arrays
from infra.runtime.catalog.projection_wiring import fields
from infra.runtime.catalog.signatures import classes
from projections import Row

_SCALARS: dict[type, str] = {
    UUID: "uuid",
    str: "text",
    bool: "boolean",
    int: "bigint",
    datetime: "timestamptz",
    date: "date",
    Decimal: "numeric",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its SQL type, and whether it holds sealed text or a JSON document."""

    name: str
    sql: str
    comment: str
    personal: bool
    document: TypeAdapter[Any] | None


@dataclass(frozen=True)
class ReadModel:
    """One row class as a table of one generation."""

    row: type[Row]
    view: str
    generation: int
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """The key columns, without the tenant, which always comes first."""

    @property
    def table(self) -> str:
        """The table's name in schema `projections`."""
        return f"{self.view}_g{self.generation}"

    @cached_property
    def ids(self) -> list[str]:
        """The columns that hold UUIDs."""
        return [column.name for column in self.columns if column.sql == "uuid"]

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Tenant and key columns."""
        return ("tenant", *self.key)

    @cached_property
    def key_of(self) -> Callable[[Row], Any]:
        """Give a row's key columns: of several a tuple, of a single one the bare value."""
        return attrgetter(*self.key)

    @cached_property
    def values_of(self) -> Callable[[Row], tuple[Any, ...]] | None:
        """Give a row's values in column order; `None` where some are written otherwise than they are."""
        if any(column.personal or column.document for column in self.columns):
            return None
        return fields([column.name for column in self.columns])

    @cached_property
    def target(self) -> Table:
        """Where rows are inserted, each as its tenant and then every column."""
        columns = tuple((column.name, column.sql) for column in self.columns)
        return Table(self.table, (("tenant", "text"), *columns))

    @cached_property
    def _names(self) -> str:
        return ", ".join(f'"{name}"' for name in self.primary_key)

    @cached_property
    def _wanted(self) -> str:
        """Rows by primary key, given as one array a column, under the name `w`."""
        types = {column.name: column.sql for column in self.columns}
        typed = (
            f"${index}::{sql}[]" for index, sql in enumerate(("text", *map(types.__getitem__, self.key)), 1)
        )
        return f"unnest({', '.join(typed)}) AS w ({self._names})"

    async def find(self, tx: Connection, keys: Sequence[tuple[Any, ...]]) -> list[Stored]:
        """Read rows by primary key; those that are absent are left out."""
        return await tx.fetch(
            f'SELECT t.* FROM "{self.table}" t JOIN {self._wanted} USING ({self._names})', *arrays(keys)
        )

    async def lock(self, tx: Connection, keys: Sequence[tuple[Any, ...]]) -> list[Stored]:
        """Lock rows by primary key and read them; those that are absent are left out."""
        order = ", ".join(f't."{name}"::text COLLATE "C"' for name in self.primary_key)
        return await tx.fetch(
            f"""SELECT t.* FROM "{self.table}" t JOIN {self._wanted} USING ({self._names})
                ORDER BY {order} FOR UPDATE OF t""",
            *arrays(keys),
        )

    def write(self, writes: Writes, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write whole rows over those that are there; each is tenant and then every column."""
        if not rows:
            return
        typed = [("tenant", "text"), *((column.name, column.sql) for column in self.columns)]
        names = ", ".join(f'"{name}"' for name, _ in typed)
        types = ", ".join(
            f"${index}::text[]" if sql == "jsonb" else f"${index}::{sql}[]"
            for index, (_, sql) in enumerate(typed, 1)
        )
        sets = ", ".join(
            f'"{column.name}" = n."{column.name}"' + ("::jsonb" if column.sql == "jsonb" else "")
            for column in self.columns
            if column.name not in self.key
        )
        same = " AND ".join(f't."{name}" = n."{name}"' for name in self.primary_key)
        if sets:
            writes.add(
                f'UPDATE "{self.table}" t SET {sets} FROM unnest({types}) AS n ({names}) WHERE {same}',
                *arrays(rows),
            )

    def delete(self, writes: Writes, keys: Sequence[tuple[Any, ...]]) -> None:
        """Take away locked rows."""
        if not keys:
            return
        same = " AND ".join(f't."{name}" = w."{name}"' for name in self.primary_key)
        writes.add(f'DELETE FROM "{self.table}" t USING {self._wanted} WHERE {same}', *arrays(keys))

    def row_values(self, data: dict[str, Any]) -> tuple[Any, ...]:
        """Put a row's values, by column name, into column order."""
        return tuple(
            _text(column, data[column.name])
            if column.document is not None or column.personal
            else data[column.name]
            for column in self.columns
        )

    def to_data(self, stored: Stored) -> dict[str, Any]:
        """Give a stored row's values by column name; sealed ones still sealed."""
        found: dict[str, Any] = {}
        for column in self.columns:
            value = stored[column.name]
            if column.personal and value is not None:
                value = json.loads(value)
            elif column.document is not None and value is not None:
                value = column.document.validate_json(value)
            found[column.name] = value
        return found


def _text(column: Column, value: Any) -> str | None:
    if value is None:
        return None
    if column.personal:
        return json.dumps(value)
    assert column.document is not None
    return column.document.dump_json(value).decode()


def read_model(row: type[Row], view: str, generation: int) -> ReadModel:
    """Describe the table of a row class; raise `WiringError` naming a field that is no column."""
    personal = set(marked(row, PersonalMark))
    columns = tuple(_column(row, name, personal=name in personal) for name in row.model_fields)
    if not row.__doc__:
        raise WiringError(
            f"{row.__module__}.{row.__name__}: needs a docstring; it becomes the view's comment"
        )
    return ReadModel(row, view, generation, columns, marked(row, KeyMark))


def _column(row: type[Row], name: str, *, personal: bool) -> Column:
    field = row.model_fields[name]
    place = f"{row.__module__}.{row.__name__}.{name}"
    if not field.description:
        raise WiringError(f"{place}: needs a docstring below it; it becomes the column's comment")
    if name == "tenant" or name.startswith("_"):
        raise WiringError(
            f"{place}: the name is taken by the engine; the tenant is part of every row by itself"
        )
    if personal:
        comment = f"{field.description} Personal: encrypted here, readable by HTTP with the right role."
        return Column(name, "text", comment, personal=True, document=None)
    sql = _sql(field.annotation)
    document: TypeAdapter[Any] | None = (
        TypeAdapter(cast("type[Any]", field.annotation)) if sql == "jsonb" else None
    )
    return Column(name, sql, field.description, personal=False, document=document)


def _sql(annotation: object) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "text"
    if origin in {list, tuple, dict, set, frozenset}:
        return "jsonb"
    if origin is not None:
        inner = {_sql(it) for it in get_args(annotation) if it is not type(None)}
        return inner.pop() if len(inner) == 1 else "jsonb"
    supertype: object = getattr(annotation, "__supertype__", None)
    if supertype is not None:
        return _sql(supertype)
    (kind,) = tuple(classes(annotation))
    return "text" if issubclass(kind, Enum) else _SCALARS.get(kind, "jsonb")
