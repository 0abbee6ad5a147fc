"""The vocabulary of projections: read models, one module per question that somebody asks.

    projection = Projection("customer_spend")

    class Spend(Row):
        \"\"\"What one customer has spent in one currency.\"\"\"
        customer_id: Key[PersonId]
        currency: Key[str]
        spent_minor: int = 0
        \"\"\"Captured less refunded, in minor units.\"\"\"

    @projection.on(currency="amount.currency")
    def paid(event: PaymentCompleted, row: Spend | None) -> Spend: ...

    @projection.query
    class OfCustomer(Query[Spend]):
        \"\"\"What one customer has spent, a row for each currency.\"\"\"
        customer_id: PersonId

A projection function is pure: `(event, row) -> row`, or `None` to delete it. The row is found by its `Key` fields, each
read from the event's field of the same name or from the path given to `on`. The tenant is part of every key and is
never written by hand. A projection must not depend on how events of different keys interleave, nor on any clock;
`meta: Metadata` and `now: datetime` (when the event reached the broker) are injected on request.

Names carry units: `_minor`, `_at`, `_ms`. Every row and field has a docstring: they become the SQL comments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, overload

from pydantic import BaseModel, ConfigDict

from events import Folded

__all__ = ["Contains", "Projection", "Query", "Row", "Since", "Until"]

Fold = TypeVar("Fold", bound=Callable[..., "Row | None"])
Q = TypeVar("Q", bound="type[Query[Any]]")


class Row(Folded):
    """One row of a read model: its fields are columns, its `Key` fields (with the tenant) the primary key."""


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Since:
    """The parameter is an inclusive lower bound of `column`: `Annotated[datetime | None, Since("paid_at")]`."""

    column: str


@dataclass(frozen=True, slots=True)
class Until:
    """The parameter is an exclusive upper bound of `column`."""

    column: str


@dataclass(frozen=True, slots=True)
class Contains:
    """The parameter must be an element of the array `column`."""

    column: str


class Query(BaseModel, Generic[R]):
    """One question to one kind of row. Each field is a typed parameter and filters the column of the same name.

    A parameter with default `None` filters only when it is given. `order` names the columns to sort by, `-` for
    descending; the primary key is appended, so that pages never repeat or skip a row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    order: ClassVar[tuple[str, ...]] = ()


class Projection:
    """One read model. Its name is permanent: the consumer `projections.<name>`, the URL, the prefix of its views."""

    def __init__(self, name: str) -> None:
        """Make the projection `name`; its module under `projections` has the same name."""
        self.name = name
        self.folds: list[tuple[Callable[..., Row | None], dict[str, str]]] = []
        self.queries: list[type[Query[Any]]] = []

    @overload
    def on(self, function: Fold, /) -> Fold: ...

    @overload
    def on(self, function: None = None, /, **keys: str) -> Callable[[Fold], Fold]: ...

    def on(self, function: Fold | None = None, /, **keys: str) -> Fold | Callable[[Fold], Fold]:
        """Fold an event into a row. Keyword arguments say where in the event a key column is found: `a="b.c"`."""

        def register(fold: Fold) -> Fold:
            self.folds.append((fold, keys))
            return fold

        return register(function) if function is not None else register

    def query(self, question: Q) -> Q:
        """Publish a question; it is answered at `/read/<projection>/<question in snake case>`."""
        self.queries.append(question)
        return question
