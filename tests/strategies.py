"""Values for any message, state or row, worked out from its annotations: small pools, so that keys meet often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import groupby
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from events import Erased, Message, context_of, erased
from infra.runtime.catalog.signatures import key_field

M = TypeVar("M", bound=BaseModel)

_NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)

_POOLS: dict[Any, list[Any]] = {
    UUID: [UUID(int=number) for number in (1, 2, 3)] + [UUID("7a1e0000-0000-4000-8000-000000000001")],
    str: ["one", "two", "EUR", "JPY", "ada@example.org", "bob@example.org", "+4930123456", "+4930123457"],
    int: [0, 1, 2, 3, 500],
    bool: [False, True],
    datetime: [_NOON + timedelta(minutes=number) for number in range(4)],
    NoneType: [None],
    Erased: [erased],
}


def of(model: type[M]) -> st.SearchStrategy[M]:
    """Draw instances of a model; a whole model's own validator may turn some down."""
    return _of(model)


@cache
def _of(model: type[Any]) -> st.SearchStrategy[Any]:
    fields = {
        name: _values(Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation)
        for name, field in model.model_fields.items()
    }

    def build(values: dict[str, Any]) -> BaseModel | None:
        try:
            instance: BaseModel = model.model_validate(values)
        except ValidationError:
            return None
        return instance

    built: st.SearchStrategy[Any] = st.fixed_dictionaries(fields).map(build)
    return built.filter(lambda instance: instance is not None)


def any_of(*models: type[M]) -> st.SearchStrategy[M]:
    """Draw instances of any of the models."""
    return st.one_of([of(model) for model in models])


Stream = tuple[str, str]


def stream_of(event: Message) -> Stream:
    """Name the stream that keeps an event in order: its context and key."""
    return context_of(type(event)), str(getattr(event, key_field(type(event))))


@st.composite
def interleaved(draw: st.DrawFn, history: list[Message]) -> list[Message]:
    """Draw another order in which the same events may be heard: each stream in its own order, no more."""
    ordered = sorted(history, key=stream_of)
    streams = {stream: iter(list(events)) for stream, events in groupby(ordered, key=stream_of)}
    turns = draw(st.permutations([stream_of(event) for event in history]))
    return [next(streams[stream]) for stream in turns]


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin in {Union, UnionType}:
            found = st.one_of([_values(argument) for argument in arguments])
        case origin if origin is Literal:
            found = st.sampled_from(arguments)
        case origin if origin is list:
            found = st.lists(_values(arguments[0]), max_size=2)
        case origin if origin is tuple:
            found = st.lists(_values(arguments[0]), max_size=2).map(tuple)
        case origin if origin is Annotated:
            found = _fitting(annotation)
        case _ if isinstance(annotation, NewType):
            found = _values(annotation.__supertype__)
        case _ if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found = of(annotation)
        case _:
            found = st.sampled_from(_POOLS[annotation])
    return found


def _fitting(annotation: Any) -> st.SearchStrategy[Any]:
    inner = get_args(annotation)[0]
    while isinstance(inner, NewType):
        inner = inner.__supertype__
    if inner not in _POOLS:
        adapter = TypeAdapter[Any](annotation)
        return _values(inner).filter(lambda value: _fits(adapter, value))
    adapter = TypeAdapter(annotation, config=ConfigDict(strict=True))
    fitting = [value for value in _POOLS[inner] if _fits(adapter, value)]
    assert fitting, f"no value in the pools fits {annotation}; add one"
    return st.sampled_from(fitting)


def _fits(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
