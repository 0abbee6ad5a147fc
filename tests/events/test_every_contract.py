"""Every contract, found by discovery: it survives the wire, keeps what it does not know, and says what it means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import Message, Past
from infra.runtime.catalog import discover
from tests.strategies import of

MODELS = [model for contract in discover().contracts.values() for model in contract.versions.values()]
OLD = [model for model in MODELS if issubclass(model, Past)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_reads_what_it_wrote(model: type[Message], data: st.DataObject) -> None:
    message = data.draw(of(model))
    assert model.model_validate_json(message.model_dump_json()) == message


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_keeps_a_field_that_it_does_not_know(model: type[Message], data: st.DataObject) -> None:
    sent = {**data.draw(of(model)).model_dump(mode="json"), "from_the_future": {"a": 1}}
    received: Any = model.model_validate(sent, strict=False)
    assert received.model_dump(mode="json")["from_the_future"] == {"a": 1}


@pytest.mark.parametrize("model", OLD, ids=lambda model: model.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_every_recorded_old_version_becomes_the_present_one(model: type[Past], data: st.DataObject) -> None:
    message: Message = data.draw(of(model))
    while isinstance(message, Past):
        newer = message.upcast()
        assert newer.version == message.version + 1
        shared = type(message).model_fields.keys() & type(newer).model_fields.keys()
        assert all(getattr(newer, name) == getattr(message, name) for name in shared)
        message = newer


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_says_what_it_means(model: type[Message]) -> None:
    assert model.__doc__
    assert model.__doc__ != Message.__doc__
