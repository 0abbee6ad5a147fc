"""Every saga, found by discovery: each state answers each event and its deadline, whatever they hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.runtime.catalog import SagaWiring, discover
from infra.runtime.catalog.signatures import META, NEW_ID, NOW, Signature
from sagas import Ended, State, Step, Stuck
from tests.given import META_OF_TESTS, NOON, assert_serialises, ids_from
from tests.strategies import of

SAGAS = list(discover().sagas.values())
PAIRS = [(saga, state, event) for saga in SAGAS for state in saga.states.values() for event in saga.listens]


def assert_is_a_step(saga: SagaWiring, signature: Signature, step: Step[Any]) -> None:
    assert isinstance(step, Step)
    assert step.enter is None or type(step.enter) in saga.states.values()
    assert {type(command) for command in step.commands} <= set(signature.publishes)
    for model in (*step.commands, *filter(None, (step.enter,))):
        assert_serialises(model)


def injected(signature: Signature) -> dict[str, Any]:
    plain = {NOW: NOON, NEW_ID: ids_from(), META: META_OF_TESTS}
    return {name: plain[str(need)] for name, need in signature.needs.items()}


@pytest.mark.parametrize(
    ("saga", "state", "event"),
    PAIRS,
    ids=[f"{saga.name}-{state.__name__}-{event}" for saga, state, event in PAIRS],
)
@settings(max_examples=20)
@given(data=st.data())
def test_every_state_answers_every_event(
    saga: SagaWiring, state: type[State], event: str, data: st.DataObject
) -> None:
    signature = saga.moves[state, event]
    message = data.draw(of(discover().contracts[event].model))
    assert_is_a_step(
        saga, signature, signature.function(data.draw(of(state)), message, **injected(signature))
    )


@pytest.mark.parametrize("saga", SAGAS, ids=lambda saga: saga.name)
@settings(max_examples=20)
@given(data=st.data())
def test_every_saga_begins(saga: SagaWiring, data: st.DataObject) -> None:
    for name, signature in saga.starters.items():
        event = data.draw(of(discover().contracts[name].model))
        step = signature.function(event, **injected(signature))
        assert step.enter is not None
        assert_is_a_step(saga, signature, step)


@pytest.mark.parametrize("saga", SAGAS, ids=lambda saga: saga.name)
@settings(max_examples=20)
@given(data=st.data())
def test_every_state_that_waits_has_a_deadline_and_leads_on(saga: SagaWiring, data: st.DataObject) -> None:
    for state in saga.states.values():
        waits = not issubclass(state, Ended) and not issubclass(state, Stuck)
        assert waits == (state.within is not None), (
            f"{state.__name__} waits for ever, or ends with a deadline"
        )
        if waits:
            signature = saga.lates[state]
            step = signature.function(data.draw(of(state)), **injected(signature))
            assert step.enter is not None, f"{state.__name__} does nothing when late"
            assert_is_a_step(saga, signature, step)


@pytest.mark.parametrize("saga", SAGAS, ids=lambda saga: saga.name)
def test_says_what_each_state_is(saga: SagaWiring) -> None:
    assert all(state.__doc__ != base.__doc__ for state in saga.states.values() for base in state.__mro__[1:])
