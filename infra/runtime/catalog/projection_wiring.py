"""How a projection is wired: which events fold into which rows, and where their keys are found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from pydantic import BaseModel

from events import KeyMark, marked
from infra.errors import WiringError
from infra.runtime.catalog.message_types import Contract, consumed
from infra.runtime.catalog.signatures import Function, Signature, classes, read, where
from projections import Contains, Projection, Query, Row, Since, Until

BOUNDS = (Since, Until, Contains)


@dataclass(frozen=True, slots=True)
class FoldWiring:
    """One projection function: which event, into which row, and where the key columns are found in the event."""

    signature: Signature
    row: type[Row]
    paths: tuple[str, ...]
    """For each key column, the field of the event that holds it: `amount.currency`."""


def fields(paths: Sequence[str]) -> Callable[[BaseModel], tuple[Any, ...]]:
    """Give what reads these fields, each a path such as `amount.currency`, as a tuple."""
    if len(paths) == 1:
        # Of a single name the getter gives the bare value.
        only = attrgetter(paths[0])
        return lambda model: (only(model),)
    return attrgetter(*paths)


@dataclass(frozen=True, slots=True)
class ProjectionWiring:
    """One read model: a consumer of its own."""

    name: str
    schema: str
    topics: tuple[str, ...]
    projection: Projection
    folds: dict[str, tuple[FoldWiring, ...]]
    rows: dict[type[Row], str]
    """Row class -> the name of its view in `read`."""
    queries: dict[str, tuple[type[Query[Any]], type[Row]]]
    owned: frozenset[type[Row]]
    """Rows that are reached from one partition alone: the owner of that partition needs no lock on them."""
    first_start: Literal["beginning", "end"] = "beginning"

    @property
    def shared(self) -> frozenset[type[Row]]:
        """Rows that batches of different partitions may want."""
        return frozenset(self.rows.keys() - self.owned)

    @property
    def listens(self) -> frozenset[str]:
        """The events it folds."""
        return frozenset(self.folds)


def wire_projection(projection: Projection, contracts: dict[str, Contract]) -> ProjectionWiring:
    """Wire a projection as a consumer of its own."""
    folds: dict[str, tuple[FoldWiring, ...]] = {}
    rows: dict[type[Row], str] = {}
    for function, keys in projection.folds:
        signature = read(function, beside=1)
        if len(signature.beside) != 1 or not issubclass(signature.beside[0], Row):
            raise WiringError(f"{where(function)}: its second parameter is the row, `Row | None`")
        row = signature.beside[0]
        view = (
            projection.name
            if not rows or next(iter(rows)) is row
            else f"{projection.name}_{snake(row.__name__)}"
        )
        rows.setdefault(row, view)
        for contract in consumed(signature, contracts):
            if contract.kind == "command":
                raise WiringError(
                    f"{where(function)}: {contract.name} is a command; a projection folds facts"
                )
            paths = tuple(keys.get(name, name) for name in marked(row, KeyMark))
            if not paths:
                raise WiringError(f"{where(function)}: {row.__name__} has no Key[...] field")
            for path in paths:
                _check_path(function, contract.model, path)
            folds[contract.name] = (*folds.get(contract.name, ()), FoldWiring(signature, row, paths))
    queries: dict[str, tuple[type[Query[Any]], type[Row]]] = {}
    for query in projection.queries:
        row = _row_of(query)
        if row not in rows:
            raise WiringError(
                f"{query.__module__}.{query.__name__}: asks for {row.__name__}, which no function here folds"
            )
        _check_columns(query, row)
        queries[snake(query.__name__)] = (query, row)
    topics = tuple(sorted({contracts[name].topic for name in folds}))
    owned = frozenset(row for row in rows if _of_one_partition(row, folds, contracts))
    return ProjectionWiring(
        f"projections.{projection.name}", "projections", topics, projection, folds, rows, queries, owned
    )


def _of_one_partition(
    row: type[Row], folds: dict[str, tuple[FoldWiring, ...]], contracts: dict[str, Contract]
) -> bool:
    """Whether all that reaches a row has one key on one topic: some key column always holds the message's own key."""
    into = [(contracts[name], fold) for name, found in folds.items() for fold in found if fold.row is row]
    return len({contract.topic for contract, _ in into}) == 1 and any(
        all(fold.paths[place] == contract.key for contract, fold in into)
        for place in range(len(marked(row, KeyMark)))
    )


def _check_columns(query: type[Query[Any]], row: type[Row]) -> None:
    """Every parameter filters a column, and every column to sort by exists."""
    columns = {
        mark.column for it in query.model_fields.values() for mark in it.metadata if isinstance(mark, BOUNDS)
    }
    columns |= {
        name
        for name, it in query.model_fields.items()
        if not any(isinstance(mark, BOUNDS) for mark in it.metadata)
    }
    columns |= {name.removeprefix("-") for name in query.order}
    unknown = sorted(columns - row.model_fields.keys())
    if unknown:
        raise WiringError(
            f"{query.__module__}.{query.__name__}: {row.__name__} has no column {unknown[0]!r}; "
            "name one, or bound it: Annotated[..., Since('column')]"
        )


def _check_path(function: Function, model: type[BaseModel], path: str) -> None:
    here: Any = model
    for name in path.split("."):
        known = getattr(here, "model_fields", {})
        if name not in known:
            raise WiringError(
                f"{where(function)}: unknown key field {path!r} in {model.__name__}; "
                "say where it is found: @projection.on(column='path.in.event')"
            )
        here = next(iter(classes(known[name].annotation)), None)


def _row_of(query: type[Query[Any]]) -> type[Row]:
    for base in query.__mro__:
        arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
        if arguments:
            return arguments[0]  # type: ignore[no-any-return]
    raise WiringError(f"{query.__module__}.{query.__name__}: say which row it asks for: Query[Row]")


def snake(name: str) -> str:
    """Write a class name as a part of a URL or view: `OfCustomer` -> `of_customer`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
