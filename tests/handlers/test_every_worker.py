"""Every worker, found by discovery: its evolvers take any fact in any state, so that nothing late or odd can stop it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import Aggregate, Local
from infra.runtime.catalog import discover
from infra.runtime.catalog.signatures import Signature, ViewOf
from tests.given import assert_serialises
from tests.strategies import of

EVOLVERS = [
    (signature, contract)
    for worker in discover().workers.values()
    for contract, signature in worker.evolvers.items()
]
KEEPERS = [
    (signature, contract)
    for worker in discover().workers.values()
    for contract, signatures in worker.keepers.items()
    for signature in signatures
]
STATES: list[type[Any]] = [
    state.model
    for worker in discover().workers.values()
    for state in (*worker.aggregates.values(), *worker.locals.values())
]


@pytest.mark.parametrize(("evolver", "fact"), EVOLVERS, ids=lambda it: it if isinstance(it, str) else "")
@settings(max_examples=25)
@given(data=st.data())
def test_any_state_takes_any_fact(evolver: Signature, fact: str, data: st.DataObject) -> None:
    (kind,) = evolver.beside
    evolved = evolver.function(data.draw(of(kind)), data.draw(of(discover().contracts[fact].model)))
    assert isinstance(evolved, kind)
    assert_serialises(evolved)


@pytest.mark.parametrize(("keeper", "fact"), KEEPERS, ids=lambda it: it if isinstance(it, str) else "")
@settings(max_examples=25)
@given(data=st.data())
def test_any_view_takes_any_fact(keeper: Signature, fact: str, data: st.DataObject) -> None:
    (need,) = keeper.needs.values()
    assert isinstance(need, ViewOf)
    kept = keeper.function(data.draw(of(need.kind)), data.draw(of(discover().contracts[fact].model)))
    assert isinstance(kept, need.kind)
    assert_serialises(kept)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_says_what_it_is(state: type[Aggregate | Local]) -> None:
    assert state.__doc__ not in {None, Aggregate.__doc__, Local.__doc__}
