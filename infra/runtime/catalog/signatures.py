"""What a function asks for and what it publishes, read from its signature once, at start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from events import KeyMark, Message, marked
from handlers import Aggregate, By, Holder, IdempotencyKey, Local, Metadata, NewId
from infra.errors import WiringError

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Of:
    """An aggregate of type `kind`, found by the message's field `field`; `None` where that is."""

    kind: type[Aggregate]
    field: str


@dataclass(frozen=True, slots=True)
class ViewOf:
    """A local view of type `kind`, found by the message's field `field`; `None` where that is."""

    kind: type[Local]
    field: str


@dataclass(frozen=True, slots=True)
class HeldBy:
    """The aggregate that holds the value of the message's field `field` in its own field `claim`."""

    kind: type[Aggregate]
    field: str
    claim: str


@dataclass(frozen=True, slots=True)
class Port:
    """Something of the outside, by its protocol."""

    protocol: type


NOW, NEW_ID, META, KEY = "now", "new_id", "meta", "key"
Need = Of | ViewOf | HeldBy | Port | str


@dataclass(frozen=True, slots=True)
class Signature:
    """A function with what it consumes, what stands beside it, what is injected and which messages it publishes."""

    function: Function
    parameter: str
    """The name of the parameter that is consumed."""
    messages: tuple[type[Any], ...]
    """The classes of the parameter that is consumed."""
    beside: tuple[type[Any], ...]
    """The classes of the other positional parameter (aggregate, state, row), if there is one."""
    needs: dict[str, Need]
    """What is injected, by parameter name."""
    publishes: tuple[type[Message], ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def acts(self) -> bool:
        """Whether it acts outside (`async def`) rather than decides."""
        return inspect.iscoroutinefunction(self.function)


def where(function: Function) -> str:
    """Name a function for an error message."""
    return f"{function.__module__}.{function.__qualname__}"


def hints_of(function: Function) -> dict[str, Any]:
    """Resolve a function's annotations, or say which one does not resolve."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as missing:
        raise WiringError(
            f"{where(function)}: the annotation {missing.name!r} does not resolve; import it"
        ) from None


def read(
    function: Function, message: int = 0, beside: int | None = None, *, may_act: bool = False
) -> Signature:
    """Read a signature: parameter `message` is consumed, `beside` is given by its place, the others are injected."""
    if inspect.iscoroutinefunction(function) and not may_act:
        raise WiringError(
            f"{where(function)}: must be a `def`; only what @worker.on and @worker.finds mark may be an `async def`"
        )
    hints = hints_of(function)
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) <= max(message, beside or 0):
        raise WiringError(
            f"{where(function)}: takes only {len(parameters)} parameters; see the vocabulary in its package"
        )
    missing = [name for name in parameters if name not in hints]
    if missing:
        raise WiringError(
            f"{where(function)}: the parameter {missing[0]!r} has no annotation, so nothing can be injected"
        )
    consumed = tuple(classes(hints[parameters[message]]))
    if not consumed:
        raise WiringError(f"{where(function)}: the parameter {parameters[message]!r} names no message")
    given = {message, beside}
    needs = {
        name: _need(function, name, hints[name], consumed)
        for index, name in enumerate(parameters)
        if index not in given
    }
    return Signature(
        function=function,
        parameter=parameters[message],
        messages=consumed,
        beside=tuple(classes(hints[parameters[beside]])) if beside is not None else (),
        needs=needs,
        publishes=tuple(
            dict.fromkeys(kind for kind in classes(hints.get("return")) if issubclass(kind, Message))
        ),
    )


def classes(annotation: object) -> Iterator[type[Any]]:
    """Walk the classes named in an annotation: unions, sequences and generic aliases are looked into."""
    if annotation is None or annotation is NoneType:
        return
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from classes(get_args(annotation)[0])
    elif origin is not None:
        for inner in get_args(annotation):
            yield from classes(inner)
    elif isinstance(annotation, type):
        yield annotation


def _need(function: Function, name: str, annotation: object, first: tuple[type[Any], ...]) -> Need:
    metadata: tuple[object, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        metadata = tuple(rest)
    if annotation is IdempotencyKey:
        return KEY
    kinds = list(classes(annotation))
    kind = kinds[0] if len(kinds) == 1 else None
    if kind is None:
        raise WiringError(f"{where(function)}: nothing can be injected for {name!r} ({annotation!r})")
    found: Need
    if issubclass(kind, Aggregate | Local):
        found = _state_need(function, name, kind, metadata, first)
    elif kind is datetime:
        found = NOW
    elif kind is NewId:
        found = NEW_ID
    elif kind is Metadata:
        found = META
    elif getattr(kind, "_is_protocol", False):
        if not inspect.iscoroutinefunction(function):
            raise WiringError(
                f"{where(function)}: {name!r} is a port, but a `def` decides; only an `async def` acts"
            )
        found = Port(kind)
    else:
        raise WiringError(
            f"{where(function)}: nothing can be injected for {name!r} ({kind.__name__}); "
            "ask for an aggregate, a Local, now, NewId, Metadata, IdempotencyKey or a port"
        )
    return found


def _state_need(
    function: Function,
    name: str,
    kind: type[Aggregate | Local],
    metadata: tuple[object, ...],
    first: tuple[type[Any], ...],
) -> Need:
    for mark in metadata:
        if isinstance(mark, Holder):
            if not issubclass(kind, Aggregate):
                raise WiringError(f"{where(function)}: {name!r}: only an aggregate can hold a claim")
            claim = mark.claim or mark.field
            _must_have(function, first, mark.field)
            if claim not in kind.model_fields:
                raise WiringError(f"{where(function)}: {name!r}: {kind.__name__} has no field {claim!r}")
            return HeldBy(kind, mark.field, claim)
    field = next((mark.field for mark in metadata if isinstance(mark, By)), key_field(kind))
    _must_have(function, first, field)
    return Of(kind, field) if issubclass(kind, Aggregate) else ViewOf(kind, field)


def _must_have(function: Function, messages: tuple[type[Any], ...], field: str) -> None:
    for message in messages:
        if field not in getattr(message, "model_fields", ()):
            raise WiringError(
                f"{where(function)}: {message.__name__} has no field {field!r}; "
                "name the right one with Annotated[..., By('field')]"
            )


def key_field(model: type[BaseModel]) -> str:
    """Name the one `Key` field of a message, aggregate or local view."""
    keys = marked(model, KeyMark)
    if len(keys) != 1:
        raise WiringError(
            f"{model.__module__}.{model.__name__}: needs exactly one Key[...] field, has {len(keys)}"
        )
    return keys[0]
