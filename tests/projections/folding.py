"""Rows as the engine folds them: found by their key columns, replaced or deleted by what the function returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from events import KeyMark, Message, marked, type_of
from infra.runtime.catalog import ProjectionWiring, discover
from infra.runtime.catalog.projection_wiring import fields
from infra.runtime.catalog.signatures import META, NOW
from projections import Row
from tests.given import META_OF_TESTS, NOON, assert_serialises

Rows = dict[tuple[Any, ...], Row]
"""Row class and key columns -> row."""


def folded(wiring: ProjectionWiring, events: Iterable[Message]) -> Rows:
    """Fold events into rows, from nothing."""
    rows: Rows = {}
    for event in events:
        for fold in wiring.folds[type_of(type(event))]:
            key = (fold.row, *fields(fold.paths)(event))
            if None in key:
                continue
            plain = {NOW: NOON, META: META_OF_TESTS}
            needs = {name: plain[str(need)] for name, need in fold.signature.needs.items()}
            row: Row | None = fold.signature.function(event, rows.get(key), **needs)
            if row is None:
                rows.pop(key, None)
                continue
            assert_serialises(row)
            assert (type(row), *(getattr(row, name) for name in marked(fold.row, KeyMark))) == key
            rows[key] = row
    return rows


def rows_of(name: str, *events: Message) -> list[Row]:
    """Give the rows that a projection makes of these events."""
    return list(folded(discover().projections[f"projections.{name}"], events).values())


def row_of(name: str, *events: Message) -> dict[str, Any]:
    """Give the one row that a projection makes of these events, by column."""
    (row,) = rows_of(name, *events)
    return dict(row)
