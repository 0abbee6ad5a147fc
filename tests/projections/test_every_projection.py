"""Every projection, found by discovery: however the streams interleave, the rows come out the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from events import Key, KeyMark, PersonId, marked
from events.payments import PaymentCompleted
from infra.runtime.catalog import FoldWiring, ProjectionWiring, discover
from infra.runtime.catalog.signatures import read
from projections import Projection, Query, Row
from tests.projections.folding import folded
from tests.strategies import any_of, interleaved

PROJECTIONS = list(discover().projections.values())


def shuffle(wiring: ProjectionWiring, data: st.DataObject) -> None:
    models = [discover().contracts[name].model for name in sorted(wiring.listens)]
    history = data.draw(st.lists(any_of(*models), min_size=2, max_size=12))
    assert folded(wiring, history) == folded(wiring, data.draw(interleaved(history)))


@pytest.mark.parametrize("wiring", PROJECTIONS, ids=lambda wiring: wiring.name)
@settings(max_examples=200)
@given(data=st.data())
def test_the_interleaving_of_streams_makes_no_difference(
    wiring: ProjectionWiring, data: st.DataObject
) -> None:
    shuffle(wiring, data)


class Latest(Row):
    """Mutant: the payment that was heard of last, which depends on how the payments interleave."""

    customer_id: Key[PersonId]
    provider_ref: str


def test_a_row_that_depends_on_the_interleaving_is_caught() -> None:
    projection = Projection("latest")

    @projection.on
    def latest(event: PaymentCompleted, _row: Latest | None) -> Latest:
        return Latest(customer_id=event.customer_id, provider_ref=event.provider_ref)

    fold = FoldWiring(read(latest, beside=1), Latest, ("customer_id",))
    wiring = replace(PROJECTIONS[0], folds={"payments.PaymentCompleted": (fold,)})

    @settings(max_examples=300, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def search(data: st.DataObject) -> None:
        shuffle(wiring, data)

    with pytest.raises(AssertionError):
        search()


MODELS: list[type[Any]] = [
    *(row for wiring in PROJECTIONS for row in wiring.rows),
    *(query for wiring in PROJECTIONS for query, _ in wiring.queries.values()),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_every_row_query_and_column_says_what_it_is(model: type[Row | Query[Any]]) -> None:
    assert model.__doc__ not in {None, Row.__doc__, Query.__doc__}
    silent = [name for name, field in model.model_fields.items() if not field.description]
    assert not silent


@pytest.mark.parametrize("wiring", PROJECTIONS, ids=lambda wiring: wiring.name)
def test_a_query_asks_for_columns_that_exist(wiring: ProjectionWiring) -> None:
    for query, row in wiring.queries.values():
        columns = row.model_fields.keys()
        assert {name.removeprefix("-") for name in query.order} <= columns
        for name, field in query.model_fields.items():
            bounds = [mark.column for mark in field.metadata if hasattr(mark, "column")]
            assert set(bounds or [name]) <= columns, f"{query.__name__}.{name}"


@pytest.mark.parametrize("wiring", PROJECTIONS, ids=lambda wiring: wiring.name)
def test_every_row_can_be_asked_for(wiring: ProjectionWiring) -> None:
    assert {row for _, row in wiring.queries.values()} == set(wiring.rows)
    assert all(marked(row, KeyMark) for row in wiring.rows)
